"""Schedulers and users that do the same at the same instant, and a server that crashes meanwhile."""

from __future__ import annotations

from pathlib import Path

import postgres
import pytest
from patience import wait_until
from store_processes import answer, processes, tell

from runner.rows import NewRun
from runner.states import State
from runner.store import Store, open_store

RUNS = 60

# Each reads the place of the queue, and prints the result of its action.
TAKER = """
place, cluster = sys.stdin.readline().split()
with open_store(place) as store:
    print("open", flush=True)
    sys.stdin.readline()
    try:
        print(store.take_over(store.now(), cluster, "1"), flush=True)
    except Occupied as occupied:
        print(f"occupied: {occupied}", flush=True)
"""
CLAIMER = """
place, epoch = sys.stdin.readline().split()
with open_store(place) as store:
    print("open", flush=True)
    sys.stdin.readline()
    runs = [run.id for run in store.queue()]
    print(*[run for run in runs if store.claim(int(epoch), run, 1.0, 1, 1)], flush=True)
"""
CANCELLER = """
(place,) = sys.stdin.readline().split()
with open_store(place) as store:
    print("open", flush=True)
    sys.stdin.readline()
    print(*[store.ask(run.id, "cancel", 30.0, 1.0) for run in reversed(store.runs())], flush=True)
"""
ENDER = """
place, epoch = sys.stdin.readline().split()
with open_store(place) as store:
    print("open", flush=True)
    sys.stdin.readline()
    ended = []
    for run in store.runs([State.RUNNING]):
        if store.end(int(epoch), run.id, 1, Event.FINISH, 2.0, "finished"):
            ended.append(run.id)
    print(*ended, flush=True)
"""
# A scheduler whose runs take no time, until it is superseded.
SCHEDULER = """
(place,) = sys.stdin.readline().split()
with open_store(place) as store:
    epoch = store.take_over(store.now(), "lab", "1")
    print(epoch, flush=True)
    try:
        while True:
            for run in store.queue():
                attempt = store.claim(epoch, run.id, 1.0, 1, 1)
                store.end(epoch, run.id, attempt.number, Event.RELEASE, 2.0, "stopped")
    except Superseded:
        print("superseded", flush=True)
"""
# The same on a server that crashes: it reads the queue again, as after a restart of its own.
PATIENT_SCHEDULER = """
import time
(place,) = sys.stdin.readline().split()
with open_store(place) as store:
    epoch = store.take_over(store.now(), "lab", "1")
    print(epoch, flush=True)
    while True:
        try:
            for run in store.runs([State.RUNNING]):
                store.end(epoch, run.id, run.attempt, Event.RELEASE, 2.0, "lost")
            for run in store.queue():
                attempt = store.claim(epoch, run.id, 1.0, 1, 1)
                store.end(epoch, run.id, attempt.number, Event.FINISH, 2.0, "finished")
        except Unreachable:
            time.sleep(0.05)
"""
# Adds runs one by one; after a lost commit it first reads whether the run is there, as the error advises.
PATIENT_ADDER = """
import time
place, me, count = sys.stdin.readline().split()
with open_store(place) as store:
    for number in range(int(count)):
        name = f"{me}-{number}"
        while True:
            try:
                if not any(run.name == name for run in store.runs()):
                    print(*store.add([new(name)], now=1.0), flush=True)
                break
            except Unreachable:
                time.sleep(0.05)
    print("done", flush=True)
"""

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Path or URL of a queue with queued runs."""
    place = tmp_path / "queue.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    with open_store(place) as store:
        store.add([NewRun(name="a", config="", num_epochs=1) for _ in range(RUNS)], now=1.0)
    return place


def at_once(place: Path | str, *told: tuple[str, str]) -> list[str]:
    """Let processes open the queue, wait until all have, begin together; return their answers."""
    with processes(*[script for script, _ in told]) as started:
        for process, (_, arguments) in zip(started, told, strict=True):
            tell(process, f"{place} {arguments}")
        assert {answer(process) for process in started} == {"open"}
        for process in started:
            tell(process, "begin")
        return [answer(process) for process in started]


def numbers(line: str) -> list[int]:
    return [int(word) for word in line.split()]


def attempts(store: Store) -> int:
    return sum(run.attempt for run in store.runs())


def test_of_schedulers_of_several_clusters_one_serves_the_queue(place: Path | str) -> None:
    said = at_once(place, *[(TAKER, f"cluster{number}") for number in range(4)])
    assert sorted(line.partition(":")[0] for line in said) == ["1", *["occupied"] * 3]
    with open_store(place) as store:
        beat = store.scheduler_beat()
    assert beat is not None
    assert all(f"this queue is served by {beat.cluster} " in line for line in said if line != "1")


def test_schedulers_of_one_cluster_each_get_an_epoch_of_their_own(place: Path | str) -> None:
    said = at_once(place, *[(TAKER, "lab")] * 4)
    assert sorted(said) == ["1", "2", "3", "4"]


def test_a_run_that_several_claim_is_given_to_one(place: Path | str) -> None:
    with open_store(place) as store:
        epoch = store.take_over(1.0, "lab", "1")
        claimed = [numbers(line) for line in at_once(place, *[(CLAIMER, str(epoch))] * 3)]
        assert sorted(run for runs in claimed for run in runs) == list(range(1, RUNS + 1))
        assert all(len(store.attempts(run.id)) == 1 for run in store.runs([State.RUNNING]))


def test_an_attempt_that_several_end_ends_once(place: Path | str) -> None:
    with open_store(place) as store:
        epoch = store.take_over(1.0, "lab", "1")
        for run in store.queue():
            store.claim(epoch, run.id, 1.0, gpus=1, cpus=1)
        ended = [numbers(line) for line in at_once(place, *[(ENDER, str(epoch))] * 3)]
        assert sorted(run for runs in ended for run in runs) == list(range(1, RUNS + 1))
        assert {run.state for run in store.runs()} == {State.FINISHED}


def test_a_run_that_is_cancelled_and_claimed_at_once_is_one_of_the_two(place: Path | str) -> None:
    with open_store(place) as store:
        epoch = store.take_over(1.0, "lab", "1")
        claimed, cancelled = at_once(place, (CLAIMER, str(epoch)), (CANCELLER, ""))
        for run, said in zip(reversed(store.runs()), cancelled.split(), strict=True):
            assert run.state is State[said]
            assert (run.id in numbers(claimed)) == (run.state is State.RUNNING)
            assert len(store.attempts(run.id)) == (run.state is State.RUNNING)
            assert run.intent == ("cancel" if run.state is State.RUNNING else None)


def test_nothing_that_an_old_scheduler_does_lands_after_another_has_taken_over(place: Path | str) -> None:
    with open_store(place) as store:
        for _ in range(3):
            with processes(SCHEDULER) as (old,):
                tell(old, str(place))
                epoch = int(answer(old))
                before = attempts(store)
                wait_until(lambda before=before: attempts(store) >= before + 5, interval=0.0)
                store.take_over(store.now(), "lab", "1")
                after = store.runs(), attempts(store)
                assert answer(old) == "superseded"
                assert (store.runs(), attempts(store)) == after
                beat = store.scheduler_beat()
            assert beat is not None
            assert beat.epoch == epoch + 1


def test_a_server_that_falls_in_the_middle_of_everything_loses_and_doubles_nothing(
    postgres_server: postgres.Server, postgres_url: str
) -> None:
    with processes(PATIENT_SCHEDULER, *[PATIENT_ADDER] * 3) as (scheduler, *adders):
        tell(scheduler, postgres_url)
        answer(scheduler)
        for me, adder in enumerate(adders):
            tell(adder, f"{postgres_url} {me} 60")
        said = [int(answer(adder)) for adder in adders for _ in range(5)]
        for mode in ("immediate", "fast", "immediate"):
            postgres_server.restart(mode)
            said += [int(answer(adder)) for adder in adders for _ in range(5)]
        for adder in adders:
            while (line := answer(adder)) != "done":
                said.append(int(line))
        with open_store(postgres_url, create=False) as store:
            wait_until(lambda: len(store.runs([State.FINISHED])) >= 180, interval=0.1)
            runs = store.runs()
            history = {run.id: store.attempts(run.id) for run in runs}
    assert sorted(run.name for run in runs) == sorted(f"{me}-{n}" for me in range(3) for n in range(60))
    assert set(said) <= history.keys()
    for run in runs:
        assert [attempt.number for attempt in history[run.id]] == list(range(1, run.attempt + 1))
        assert [attempt.outcome for attempt in history[run.id]].count("finished") == 1
        assert all(attempt.ended_at is not None for attempt in history[run.id])
