"""A scheduler that finds the workers of the one before it; Ray's answers about them are given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runner import cluster, source
from runner.cluster import Lack, Machine, Member, Reply, Silence
from runner.paths import Home
from runner.rows import NewRun
from runner.scheduler import Scheduler
from runner.states import State
from runner.store import open_store

HOSTS = [Machine(f"node-{rank}", f"host-{rank}", 1.0, 2.0, 1.0, 2.0) for rank in range(2)]
NAMES = ["run-1-1", "run-1-1-rank-1"]


class Told:
    """A replacement of Ray: a run of two workers, one on each host, with given answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, replies: Mapping[str, Reply]) -> None:
        self.started: list[str] = []
        given: dict[str, Any] = {
            "machines": lambda: HOSTS,
            "own_node": lambda: "node-0",
            "find": lambda name: Member(name, actor=None) if name in NAMES else None,
            "node_of": lambda member: f"node-{NAMES.index(member.name)}",
            "poll": lambda members, timeout: {each.name: replies[each.name] for each in members},
            "kill": lambda member: None,
            "release": lambda name: None,
            "start": lambda name, *_, **__: Member(name, actor=None),  # the publisher
            "start_together": self._start,
        }
        for name, function in given.items():
            monkeypatch.setattr(cluster, name, function)

    def _start(self, names: list[str], *_: object, **__: object) -> list[Member]:
        self.started += names
        return [Member(name, actor=None) for name in names]


@pytest.mark.parametrize("rank", [0, 1])
def test_the_machine_that_an_adopted_worker_lacks_something_on_is_avoided_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    replies: dict[str, Reply] = {name: Silence(1.0) for name in NAMES}
    replies[NAMES[rank]] = Lack("ModuleNotFoundError: No module named 'torch'")
    told = Told(monkeypatch, replies)
    home = Home(tmp_path)
    with open_store(home) as store:
        store.add([NewRun(name="two", config="", num_epochs=1, gpus=2, cpus=2, workers=2)], now=1.0)
        store.claim(store.take_over(1.0, "lab", "1"), 1, 1.0, gpus=2, cpus=2)
        epoch = store.take_over(2.0, "lab", "1")
        scheduler = Scheduler(store, home, epoch, {}, source.here().archive)
        scheduler.tick(3.0)
        run = store.run(1)
        assert run is not None
        why = f"host-{rank} cannot run it: ModuleNotFoundError: No module named 'torch'"
        assert (run.state, run.losses, run.reason) == (State.QUEUED, 0, why)
        assert told.started == []  # the other host has one GPU alone
