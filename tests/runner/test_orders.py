"""What an attempt is told, and when it takes itself for abandoned."""

from __future__ import annotations

import time

from runner.orders import Orders


def test_an_attempt_that_nobody_asks_for_is_abandoned_until_it_is_heard_of() -> None:
    orders = Orders(unheard_seconds=0.05)
    assert not orders.abandoned
    deadline = time.monotonic() + 5
    while not orders.abandoned and time.monotonic() < deadline:
        time.sleep(0.01)
    assert orders.abandoned
    orders.heard()
    assert not orders.abandoned


def test_a_stop_stays() -> None:
    orders = Orders()
    assert not orders.stopped
    orders.stop()
    assert orders.stopped
