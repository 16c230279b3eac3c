"""Lines printed about a run while it is followed: pure functions of rows."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pytest

from runner import narration, notes
from runner.narration import Moment
from runner.notes import Situation
from runner.rows import NewRun, Run
from runner.states import State
from runner.store import open_store
from runner.views import Lines, most_current

NOW = 1_000.0


@pytest.fixture(scope="module")
def queued(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with open_store(tmp_path_factory.mktemp("home") / "queue.db") as store:
        (number,) = store.add([NewRun(name="tiny", config="", num_epochs=10)], now=NOW)
        run = store.run(number)
    assert run is not None
    return run


def moment(
    run: Run, waits: str | None = None, served: bool = True, now: float = NOW, **changes: Any
) -> Moment:
    run = dataclasses.replace(run, **changes)
    return Moment.of(run, Situation(now, served, {run.id: waits} if waits else {}))


def running(run: Run, **changes: Any) -> Moment:
    return moment(
        run, **{"state": State.RUNNING, "attempt": 1, "started_at": NOW, "answered_at": NOW, **changes}
    )


def test_a_change_of_place_in_the_queue_is_news_and_standing_still_is_not(queued: Run) -> None:
    two, one = moment(queued, "needs 1 GPU, 2 runs ahead"), moment(queued, "needs 1 GPU, 1 run ahead")
    assert narration.changes(None, two) == ["run 1 (tiny) is QUEUED: needs 1 GPU, 2 runs ahead"]
    assert narration.changes(two, one) == ["run 1 (tiny) is QUEUED: needs 1 GPU, 1 run ahead"]
    assert narration.changes(one, one) == []


def test_a_worker_that_falls_silent_is_news_once(queued: Run) -> None:
    heard = running(queued, epoch=1)
    silent, longer = running(queued, epoch=1, now=NOW + 12), running(queued, epoch=1, now=NOW + 13)
    assert narration.changes(heard, silent) == ["run 1 (tiny) is RUNNING, attempt 1: not answering since 12s"]
    assert narration.changes(silent, longer) == []
    assert narration.changes(longer, heard) == []


def test_a_worker_that_has_never_answered_is_silent_from_its_start(queued: Run) -> None:
    assert running(queued, answered_at=None).note == "starting"
    assert running(queued, answered_at=None, now=NOW + 61).note == "not answering since 1m 01s"


def test_a_wish_to_stop_is_news(queued: Run) -> None:
    before = running(queued, epoch=1)
    after = running(queued, epoch=1, intent="interrupt")
    assert narration.changes(before, after) == ["run 1 (tiny) is RUNNING, attempt 1: saves and stops"]
    assert running(queued, epoch=1, intent="cancel").note == "is being cancelled"


def test_a_run_that_was_queued_again_says_why(queued: Run) -> None:
    again = moment(queued, "needs 1 GPU, next in line", attempt=1, reason="its process was killed")
    assert again.note == "needs 1 GPU, next in line (queued again: its process was killed)"
    assert narration.changes(running(queued), again)


def training(run: Run, **changes: Any) -> Moment:
    return running(run, **{"computes": "float32", "from_epoch": 0, "from_step": 0, **changes})


def test_numbers_alone_are_no_news_but_the_end_of_an_epoch_has_its_line(queued: Run) -> None:
    before = training(queued, epoch=1, step=1)
    same = training(queued, epoch=1, step=9)
    later = training(queued, epoch=2, step=0, loss=0.5, metrics={"train/loss": 0.6, "test/accuracy": 0.9})
    assert narration.changes(before, same) == [] == narration.finished_epoch(before, same)
    line = "run 1 (tiny): epoch 1/10 done, loss 0.6000, test accuracy 90.00%"
    assert narration.finished_epoch(same, later) == [line]
    assert narration.finished_epoch(None, later) == []  # it had ended before anybody looked


def test_metrics_are_said_of_the_epoch_that_they_belong_to(queued: Run) -> None:
    """A worker reports an epoch's metrics while it still counts the epoch as the current one."""
    before = training(queued, epoch=1, step=1)
    figures = {"metrics": {"train/loss": 0.6}, "steps_per_epoch": 9}
    third = training(queued, epoch=3, step=9, loss=0.6, **figures)
    fourth = training(queued, epoch=4, step=9, loss=0.5, **figures)  # it is being tested
    assert narration.finished_epoch(before, third) == ["run 1 (tiny): epoch 3/10 done, loss 0.6000"]
    assert narration.finished_epoch(third, fourth) == []


def test_epochs_before_a_resume_are_not_said_to_end_again(queued: Run) -> None:
    lost = moment(queued, attempt=1, epoch=7, computes="float32")
    starting = running(queued, attempt=2, epoch=7)  # of the first attempt, until the second one trains
    again = training(queued, attempt=2, epoch=5, from_epoch=4)
    later = training(queued, attempt=2, epoch=6, from_epoch=4)
    assert narration.finished_epoch(lost, starting) == []
    assert narration.finished_epoch(starting, again) == []
    assert narration.finished_epoch(starting, later) == ["run 1 (tiny): epoch 5/10 done"]


def test_a_pipe_hears_of_an_epoch_every_ten_seconds_at_most(queued: Run) -> None:
    stream = io.StringIO()
    view = Lines(stream)
    for step in range(100):  # at each look another one
        at = NOW + step / 4
        run = training(queued, epoch=1, step=step, loss=0.5, answered_at=at).run
        view.show([run], Situation(at, True))
    line = "run 1 (tiny): 0/10 epochs, loss 0.5000 so far"
    assert stream.getvalue().splitlines()[2:] == [line, line, line]


def test_a_run_that_does_not_get_on_has_no_line_again(queued: Run) -> None:
    stream = io.StringIO()
    view = Lines(stream)
    for second in range(40):
        run = training(queued, epoch=1, step=3, answered_at=NOW + second).run
        view.show([run], Situation(NOW + second, True))
    assert stream.getvalue().count("/10 epochs") == 1


def test_how_an_attempt_computes_is_said_once_at_its_start(queued: Run) -> None:
    picked = "bfloat16 on the CPU, 2 threads, steps compiled"
    starting = running(queued, answered_at=None)
    first = running(queued, epoch=1, computes=picked, from_epoch=0, from_step=0)
    later = running(queued, epoch=2, computes=picked, from_epoch=0, from_step=0)
    again = running(queued, attempt=2, epoch=2, computes=picked, from_epoch=1, from_step=7)
    line = f"run 1 (tiny) computes in {picked}, from the beginning"
    assert narration.changes(starting, first) == [line]
    assert narration.changes(first, later) == []
    moved, *others = narration.changes(None, later)  # who comes later hears it as well
    assert moved.startswith("run 1 (tiny) is RUNNING") and others == [line]
    assert narration.changes(later, again)[1:] == [f"run 1 (tiny) computes in {picked}, from epoch 2, step 7"]
    assert len(narration.changes(None, moment(queued, computes=picked))) == 1  # it does not run any more


def test_an_end_says_how_long_and_why(queued: Run) -> None:
    ended = dataclasses.replace(
        queued,
        state=State.FAILED,
        attempt=1,
        trained_seconds=65.0,
        reason="loss is nan at epoch 3, step 117",
    )
    assert narration.ending(ended) == "run 1 (tiny) is FAILED after 1m 05s: loss is nan at epoch 3, step 117"
    steps = narration.result(ended, "/home/runs/1-tiny")
    assert any("python -m runner logs 1" in line for line in steps)
    assert any(line.endswith("python -m runner resume 1") for line in steps)
    again = dataclasses.replace(
        ended,
        attempt=2,
        trained_seconds=100.0,
        reason="no data; resume this run with --set dataset.root=FOLDER",
    )
    assert " is FAILED after 1m 40s in 2 attempts: no data" in narration.ending(again)
    assert narration.next_steps(again)["go on"].endswith("resume 1 --set dataset.root=FOLDER")


def test_without_a_scheduler_lines_say_so_once(queued: Run) -> None:
    stream = io.StringIO()
    view = Lines(stream)
    for served in (True, False, False):
        view.show([queued], Situation(NOW, served))
    assert stream.getvalue().count(narration.unserved(Situation(NOW, False))) == 1


def test_what_ended_before_is_no_news_to_those_who_watch_the_queue(queued: Run) -> None:
    stream = io.StringIO()
    ended = dataclasses.replace(queued, state=State.FINISHED, ended_at=NOW)
    with Lines(stream, news_only=True) as view:
        view.show([ended], Situation(NOW, True))
    assert stream.getvalue() == ""


def test_a_table_that_is_too_long_shows_what_is_most_current(queued: Run) -> None:
    states = [State.FINISHED, State.FAILED, State.QUEUED, State.RUNNING, State.QUEUED]
    runs = [
        dataclasses.replace(queued, id=number, state=state, ended_at=NOW + number)
        for number, state in enumerate(states, 1)
    ]
    assert [run.id for run in most_current(runs, 1)] == [4]
    assert [run.id for run in most_current(runs, 4)] == [2, 3, 4, 5]
    assert most_current(runs, 99) == runs


def test_the_gpus_of_a_run_are_those_that_it_uses_or_asks_for(queued: Run) -> None:
    assert notes.gpus(queued) == "auto"
    assert notes.gpus(dataclasses.replace(queued, gpus=0.25)) == "0.25"
    assert notes.gpus(running(queued, devices=("0", "2")).run) == "gpu 0,2"
    assert notes.gpus(running(queued).run) == "cpu"
