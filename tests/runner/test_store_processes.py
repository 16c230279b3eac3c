"""Several real processes on one queue, and some of them killed."""

from __future__ import annotations

import random
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import postgres
import pytest
from store_processes import answer, processes, tell

from runner.rows import NewRun, Run
from runner.states import State
from runner.store import open_store

# Opens the queue at each place that it reads, and prints the queue's id.
OPENER = """
for line in sys.stdin:
    with open_store(line.strip()) as store:
        print(store.queue_id, flush=True)
"""
# Adds runs one by one after reading a line, and prints the number of each once it is queued.
ADDER = """
place, me, count = sys.stdin.readline().split()
with open_store(place) as store:
    for number in range(int(count)):
        print(*store.add([new(f"{me}-{number}")], now=1.0), flush=True)
"""
# Adds runs in threes until it is killed, and prints the numbers of each three.
ADDER_OF_THREES = """
place = sys.stdin.readline().strip()
with open_store(place) as store:
    while True:
        print(*store.add([new("a"), new("b"), new("c")], now=1.0), flush=True)
"""
# Makes queues in new folders until it is killed.
MAKER = """
folder, number = sys.stdin.readline().strip(), 0
while True:
    number += 1
    print(number, flush=True)
    open_store(f"{folder}/{number}/queue.db").close()
"""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Path or URL of a queue without runs, which may not exist yet."""
    return tmp_path / "queue.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


def queue_id(place: Path | str) -> str:
    with open_store(place, create=False) as store:
        return store.queue_id


def is_sound(file: Path) -> bool:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_first_openings_at_the_same_instant_make_one_queue(tmp_path: Path) -> None:
    with processes(*[OPENER] * 4) as openers:
        for number in range(25):
            home = tmp_path / f"home{number}"
            for opener in openers:
                tell(opener, str(home / "queue.db"))
            assert len({answer(opener) for opener in openers}) == 1
            assert list(home.glob("*.new*")) == []


@pytest.mark.slow
def test_first_openings_at_the_same_instant_make_one_queue_on_postgresql(
    postgres_server: postgres.Server,
) -> None:
    with processes(*[OPENER] * 4) as openers:
        for _ in range(4):
            url = postgres_server.new_database()
            for opener in openers:
                tell(opener, url)
            assert len({answer(opener) for opener in openers} | {queue_id(url)}) == 1


def test_of_two_hundred_runs_from_ten_processes_none_is_lost_or_doubled(place: Path | str) -> None:
    with processes(*[ADDER] * 10) as adders:
        for me, adder in enumerate(adders):
            tell(adder, f"{place} {me} 20")
        said = [int(answer(adder)) for _ in range(20) for adder in adders]
    with open_store(place, create=False) as store:
        runs = store.runs()
    assert sorted(said) == [run.id for run in runs] == list(range(1, 201))
    assert {run.name for run in runs} == {f"{me}-{number}" for me in range(10) for number in range(20)}


def test_a_process_that_is_killed_while_it_adds_leaves_whole_lots_and_all_that_it_said(
    place: Path | str,
) -> None:
    moments = random.Random(7)
    said: set[int] = set()
    runs: list[Run] = []
    for _ in range(6):
        with processes(ADDER_OF_THREES) as (adder,):
            tell(adder, str(place))
            said.update(map(int, answer(adder).split()))
            time.sleep(moments.uniform(0.0, 0.1))  # where in its work the signal hits is left to chance
            adder.send_signal(signal.SIGKILL)
            rest, _ = adder.communicate()
            said.update(int(word) for line in rest.splitlines() for word in line.split())
        with open_store(place, create=False) as store:
            runs = store.runs()
        assert isinstance(place, str) or is_sound(place)
    assert said <= {run.id for run in runs}
    assert [run.name for run in runs] == ["a", "b", "c"] * (len(runs) // 3)
    assert {run.state for run in runs} == {State.QUEUED}


def test_a_process_that_is_killed_while_it_makes_a_queue_leaves_a_whole_one_or_none(tmp_path: Path) -> None:
    moments = random.Random(7)
    for attempt in range(6):
        with processes(MAKER) as (maker,):
            folder = tmp_path / str(attempt)
            tell(maker, str(folder))
            answer(maker)
            time.sleep(moments.uniform(0.0, 0.05))  # as above
            maker.send_signal(signal.SIGKILL)
            maker.wait()
        for home in folder.iterdir():
            with open_store(home / "queue.db") as store:
                assert store.add([NewRun(name="first", config="", num_epochs=1)], now=1.0) == [1]
            assert is_sound(home / "queue.db")
