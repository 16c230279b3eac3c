"""The order in which runs are published when the tracking store lacks data of thousands of runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import backlog
from runner.backlog import Backlog
from runner.rows import NewRun
from runner.states import Event
from runner.store import Store, open_store

QUEUED = NewRun(name="tiny", config="a: 1", num_epochs=3)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    place = tmp_path / "queue.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    with open_store(place) as store:
        yield store


@pytest.fixture
def epoch(store: Store) -> int:
    return store.take_over(1.0, "here", "1")


def start(store: Store, epoch: int, run_id: int) -> None:
    assert store.claim(epoch, run_id, 2.0, gpus=0, cpus=1) is not None


def fail(store: Store, epoch: int, run_id: int) -> None:
    start(store, epoch, run_id)
    store.end(epoch, run_id, 1, Event.FAIL, 3.0, "failed")


def test_all_that_have_ended_have_their_turn_beside_all_that_run(
    store: Store, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "PART", 2)
    store.add([QUEUED] * 6, now=1.0)
    for run_id in (1, 2, 4):
        fail(store, epoch, run_id)
    start(store, epoch, 5)
    looks = Backlog(store)
    assert [[run.id for run in looks.next()] for _ in range(3)] == [[5, 1, 2], [5, 4], [5, 1, 2]]


def test_ten_thousand_that_wait_cost_a_look_little(store: Store, epoch: int) -> None:
    store.add([QUEUED] * 10_000, now=1.0)
    start(store, epoch, 1)
    looks = Backlog(store)
    began = time.process_time()
    for _ in range(10):
        assert [run.id for run in looks.next()] == [1]
    assert (time.process_time() - began) / 10 < 0.05  # to read them all takes 0.3 s
