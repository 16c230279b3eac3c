"""Orders of the scheduler to an attempt, and when an attempt without contact counts as abandoned."""

from __future__ import annotations

import threading

from patience import PATIENCE, wait_until

from runner.orders import Orders


def test_an_attempt_that_nobody_asks_for_is_abandoned_and_what_it_hears_then_comes_too_late() -> None:
    orders = Orders(unheard_seconds=0.05)
    orders.heard()
    assert not orders.abandoned
    wait_until(lambda: orders.abandoned)
    orders.heard()  # the question that a process which was stopped finds when it wakes
    assert orders.abandoned


def test_a_stop_stays() -> None:
    orders = Orders()
    assert not orders.stopped
    orders.stop()
    assert orders.stopped


def test_a_worker_waits_until_it_is_told_where_the_others_meet() -> None:
    orders, met = Orders(), []
    waiting = threading.Thread(target=lambda: met.append(orders.meeting()))
    waiting.start()
    assert not met
    orders.meet("10.0.0.1:4711")
    waiting.join(PATIENCE)
    assert met == ["10.0.0.1:4711"]
