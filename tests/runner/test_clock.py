"""The clock shared by all hosts of a queue."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import postgres
import pytest

from runner.clock import REFRESH_SECONDS, ServerClock
from runner.database import Unreachable
from runner.store import open_store

FAKETIME = shutil.which("faketime")
HOUR = 3600.0


class Server:
    """A clock that a test may set and stop, and that counts how often it is read."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.up = True
        self.asked = 0

    def ask(self) -> float:
        self.asked += 1
        if not self.up:
            raise Unreachable("away")
        return self.time


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def passed() -> list[float]:
    """Seconds that have passed on this host, as the only element of a list."""
    return [50.0]


@pytest.fixture
def clock(server: Server, passed: list[float]) -> ServerClock:
    return ServerClock(server.ask, lambda: passed[0])


def test_the_time_that_it_took_to_connect_does_not_put_it_wrong(passed: list[float]) -> None:
    takes = [16.0, 0.1]

    def ask() -> float:
        passed[0] += takes.pop(0)
        return 1000.0 + passed[0]  # it looks at its clock when the connection stands

    assert ServerClock(ask, lambda: passed[0]).now() == pytest.approx(1000.0 + passed[0], abs=0.1)


def test_it_shows_the_servers_time_and_goes_on_with_ours(
    clock: ServerClock, server: Server, passed: list[float]
) -> None:
    assert clock.now() == 1000.0
    passed[0] += 7.5
    assert clock.now() == 1007.5
    assert server.asked == 1


def test_it_is_set_again_now_and_then(clock: ServerClock, server: Server, passed: list[float]) -> None:
    clock.now()
    passed[0] += REFRESH_SECONDS
    server.time = 1000.0 + REFRESH_SECONDS + 0.25  # ours is slow
    assert clock.now() == server.time
    assert server.asked == 2


def test_half_of_the_time_that_an_answer_took_is_added(server: Server, passed: list[float]) -> None:
    def slow() -> float:
        passed[0] += 2.0
        return server.ask()

    assert ServerClock(slow, lambda: passed[0]).now() == 1001.0


def test_while_the_server_is_away_it_goes_on_and_asks_no_more_often(
    clock: ServerClock, server: Server, passed: list[float]
) -> None:
    clock.now()
    server.up = False
    for _ in range(3):
        passed[0] += REFRESH_SECONDS / 2
        clock.now()
    assert clock.now() == 1000.0 + 1.5 * REFRESH_SECONDS
    assert server.asked == 2


def test_before_the_first_answer_there_is_no_time(clock: ServerClock, server: Server) -> None:
    server.up = False
    for _ in range(2):
        with pytest.raises(Unreachable):
            clock.now()
    server.up = True
    assert clock.now() == 1000.0


def test_on_sqlite_it_is_this_machines_own(tmp_path: Path) -> None:
    with open_store(tmp_path / "queue.db") as store:
        assert abs(store.now() - time.time()) < 5.0


def test_on_postgresql_it_is_the_servers(postgres_url: str, postgres_server: postgres.Server) -> None:
    with open_store(postgres_url) as store:
        [(theirs,)] = postgres_server.execute("SELECT extract(epoch FROM clock_timestamp())::float")
        assert abs(store.now() - theirs) < 5.0


@pytest.mark.skipif(FAKETIME is None, reason="no faketime here (apt install faketime)")
def test_a_host_whose_clock_is_an_hour_ahead_goes_by_the_server_all_the_same(postgres_url: str) -> None:
    script = (
        "import sys, time\n"
        "from runner.store import open_store\n"
        "with open_store(sys.stdin.readline().strip()) as store: print(time.time(), store.now())"
    )
    assert FAKETIME is not None
    command = [FAKETIME, "-f", "+1h", sys.executable, "-c", script]
    run = subprocess.run(command, input=postgres_url + "\n", capture_output=True, text=True, check=True)
    own, shown = map(float, run.stdout.split())
    assert abs(own - time.time() - HOUR) < 60.0
    assert abs(shown - time.time()) < 60.0
