"""Runs on four logical GPUs: their order of starts, their GPUs, and the GPUs that each process sees."""

from __future__ import annotations

from pathlib import Path

import pytest
from end_to_end.harness import Service
from patience import wait_until

from runner.rows import Run
from runner.states import State
from runner.store import open_store


@pytest.mark.slow
def test_eight_runs_on_four_gpus_start_in_order_and_leave_none_idle(service: Service, small: Path) -> None:
    settings = ["--set", "num_epochs=2", "--set", "batch_size=64"]
    numbers = [int(n) for n in service.call("submit", *[small] * 8, *settings).stdout.split()]
    seen: list[list[Run]] = []

    def all_ended() -> bool:
        runs = service.runs()
        seen.append([run for run in runs if run.state is State.RUNNING])
        waiting = [run for run in runs if run.state is State.QUEUED]
        assert len(seen[-1]) <= 4
        devices = [device for run in seen[-1] for device in run.devices]
        assert len(devices) == len(set(devices)), "two runs were given the same GPU"
        return not waiting and not seen[-1]

    wait_until(all_ended)
    assert max(map(len, seen)) == 4
    assert all(service.run(number).state is State.FINISHED for number in numbers)
    with open_store(service.home, create=False) as store:
        attempts = [store.attempts(number)[-1] for number in numbers]
    starts = [attempt.started_at for attempt in attempts]
    assert starts == sorted(starts)
    ends = sorted(attempt.ended_at or 0.0 for attempt in attempts)
    for later, freed in zip(attempts[4:], ends, strict=False):
        assert later.started_at - freed < 20.0, "a GPU stood idle while a run waited"
