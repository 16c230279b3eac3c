"""Hosts die with their runs while the store with the runs' endings is unreachable: the scheduler's ticks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3
from patience import wait_until

from runner import cluster, source
from runner.cluster import Member, Silence
from runner.object_storage import attempt_key
from runner.objects import Objects
from runner.paths import Home
from runner.rows import NewRun
from runner.run_files import Ending, ending_text
from runner.scheduler import Scheduler
from runner.states import State
from runner.store import Store, open_store

RUNS = 60
TICK_SECONDS = 3.0  # asked one after the other they would take 6 s


@pytest.fixture
def nobody_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Ray answer as if the hosts of all workers had died and the publisher were starting."""
    monkeypatch.setattr(cluster, "machines", list)
    monkeypatch.setattr(cluster, "find", lambda name: None)
    monkeypatch.setattr(cluster, "own_node", lambda: "node")
    monkeypatch.setattr(cluster, "start", lambda name, *_, **__: Member(name, None))
    monkeypatch.setattr(cluster, "poll", lambda members, _: {member.name: Silence(0.0) for member in members})


@pytest.fixture
def url(s3_server: s3.Server) -> str:
    """URL of a store in which run 1 has recorded that it finished."""
    url, ending = s3_server.new_url(), Ending(1, "finished", None, 2.0)
    Objects(url).put(f"{attempt_key(1, 'small', 1)}/outcome.json", ending_text(ending))
    return url


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A queue whose runs all run."""
    with open_store(tmp_path / "queue.db") as store:
        numbers = store.add([NewRun(name="small", config="", num_epochs=1)] * RUNS, store.now())
        epoch = store.take_over(store.now(), "cluster", "version")
        for number in numbers:
            store.claim(epoch, number, store.now(), 0.0, 1.0)
        yield store


@pytest.mark.usefixtures("nobody_left")
def test_sixty_deaths_while_the_store_hangs_hold_no_tick_up_and_each_run_waits_for_its_answer(
    store: Store, url: str, s3_process: s3.Server, tmp_path: Path
) -> None:
    epoch = store.take_over(store.now(), "cluster", "version")
    scheduler = Scheduler(store, Home(tmp_path, storage=url), epoch, {}, source.here().archive)
    s3_process.stop()
    try:
        for _ in range(2):
            began = time.monotonic()
            scheduler.tick(store.now())
            assert time.monotonic() - began < TICK_SECONDS
        assert len(store.runs([State.RUNNING])) == RUNS
    finally:
        s3_process.go_on()

    def all_ended() -> bool:
        scheduler.tick(store.now())
        return not store.runs([State.RUNNING])

    wait_until(all_ended)
    assert [run.id for run in store.runs([State.FINISHED])] == [1]
    assert len(store.queue()) == RUNS - 1
