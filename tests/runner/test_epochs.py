"""Epochs and metrics of a run in commands: the same count in every state, without lost epochs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cli_harness import Lab

from capsnet.history import write_history
from runner import notes, run_files, storage
from runner.endings import Endings
from runner.states import State


def history_row(epoch: int) -> dict[str, float]:
    """Return the row of an epoch in the history; the test accuracy in percent is three times the epoch."""
    accuracy = 0.03 * epoch
    return {"epoch": epoch, "time": 1.0, "test/accuracy": accuracy, "train/loss": 1 / epoch}


def reports(epoch: int, step: int, **others: Any) -> dict[str, Any]:
    """Return a worker's answer after `step` of 20 steps of an epoch, with metrics of the epoch before."""
    metrics = {key: value for key, value in history_row(epoch - 1).items() if key not in ("epoch", "time")}
    accuracy = metrics["test/accuracy"]
    return {
        "epoch": epoch,
        "step": step,
        "steps_per_epoch": 20,
        "metrics": metrics,
        "accuracy": accuracy,
    } | others


def saved(epoch: int, step: int = 0) -> dict[str, int]:
    return {"durable_epoch": epoch, "durable_step": step}


def begun(lab: Lab) -> int:
    number = lab.submit()
    lab.start(number)
    return number


def shown(lab: Lab, number: int) -> list[str]:
    """Return STATE, EPOCH and ACCURACY of a run in `queue`."""
    lines = {line.split()[0]: line.split() for line in lab.call("queue").out.splitlines()}
    return lines[str(number)][2:5]


def test_epochs_count_alike_while_a_run_trains_and_after_it_was_stopped(lab: Lab) -> None:
    number = begun(lab)
    lab.report(number, **reports(4, 15), **saved(3, 15))
    assert shown(lab, number) == ["RUNNING", "3.7/10", "9.00%"]
    lab.end(number, State.INTERRUPTED)
    assert shown(lab, number) == ["INTERRUPTED", "3.7/10", "9.00%"]
    lab.call("resume", number)
    assert shown(lab, number) == ["QUEUED", "3.7/10", "9.00%"]
    lab.start(number)
    assert shown(lab, number) == ["RUNNING", "3.7/10", "9.00%"]  # before its worker trains, too


def test_the_last_epoch_counts_when_it_has_been_evaluated(lab: Lab) -> None:
    number = begun(lab)
    lab.report(number, **reports(10, 20), **saved(9))
    assert shown(lab, number)[1] == "9.9/10"
    lab.report(number, **saved(10))
    assert shown(lab, number)[1] == "10/10"
    lab.end(number, State.FINISHED)
    assert shown(lab, number)[1] == "10/10"


@pytest.mark.parametrize("kept", [history_row(5), None])
def test_a_run_that_was_lost_shows_the_epoch_that_it_goes_on_from_with_its_accuracy(
    lab: Lab, kept: dict[str, float] | None
) -> None:
    number = begun(lab)
    lab.report(number, **reports(9, 10), loss=0.5, **saved(5))
    assert shown(lab, number) == ["RUNNING", "8.5/10", "24.00%"]
    lab.lose(number, "its host is gone", kept)
    assert shown(lab, number) == ["QUEUED", "5/10", "15.00%" if kept else "-"]  # never that of another epoch
    assert lab.run(number).metrics == ({"test/accuracy": 0.15, "train/loss": 0.2} if kept else {})
    progress = re.search(r"^progress +(.*)$", lab.call("show", number).out, re.MULTILINE)
    assert progress and progress[1] == ("5/10 epochs, test accuracy 15.00%" if kept else "5/10 epochs")
    [found] = json.loads(lab.call("queue", "--json").out)
    assert (found["epochs_done"], found["accuracy"]) == (5, 0.15 if kept else None)


def test_a_run_that_was_lost_before_its_first_checkpoint_begins_anew(lab: Lab) -> None:
    number = begun(lab)
    lab.report(number, **reports(8, 10))
    lab.lose(number, "its host is gone")
    assert shown(lab, number) == ["QUEUED", "0/10", "-"]


def test_a_checkpoint_that_no_row_had_heard_of_counts(lab: Lab) -> None:
    number = begun(lab)
    lab.report(number, **reports(9, 10), **saved(5))
    lab.lose(number, "its host is gone", history_row(8))
    assert shown(lab, number) == ["QUEUED", "8/10", "24.00%"]


def test_figures_of_the_saved_epoch_stay_where_its_history_cannot_be_read(lab: Lab) -> None:
    number = begun(lab)
    lab.report(number, **reports(6, 10), **saved(5, 4))
    lab.lose(number, "its process was killed")
    assert shown(lab, number) == ["QUEUED", "5.2/10", "15.00%"]


def test_a_run_that_is_given_up_shows_what_it_has_saved(lab: Lab) -> None:
    number = lab.submit("dataset: {name: digits}\nnum_epochs: 10\nrunner: {max_retries: 0}\n")
    lab.start(number)
    lab.report(number, **reports(9, 10), **saved(5))
    lab.lose(number, "its process was killed", history_row(5))
    assert shown(lab, number) == ["FAILED", "5/10", "15.00%"]


def test_after_resume_best_the_count_of_epochs_stays(lab: Lab) -> None:
    number = lab.submit("dataset: {name: digits, validation: 100}\nnum_epochs: 10\n")
    lab.start(number)
    lab.report(number, **reports(6, 10), **saved(5, 10))
    lab.end(number, State.INTERRUPTED)
    lab.call("resume", number, "--best")
    assert shown(lab, number) == ["QUEUED", "5/10", "15.00%"]  # the unfinished epoch begins anew
    assert "goes on from its best weights" in lab.call("queue").out
    lab.start(number)
    assert lab.run(number).use_best
    lab.report(number, **reports(6, 3), **saved(5, 3))
    assert not lab.run(number).use_best


def test_the_time_of_a_run_is_that_of_all_its_attempts(lab: Lab) -> None:
    number = begun(lab)
    first = lab.run(number).started_at
    assert first is not None
    with lab.store._writing() as connection:  # as if the first attempt had taken a minute
        connection.exec_driver_sql("UPDATE attempts SET started_at = started_at - 60")
    lab.lose(number, "its process was killed")
    lab.start(number)
    lab.end(number, State.FINISHED)
    assert lab.run(number).trained_seconds == pytest.approx(60, abs=5)
    assert re.search(r"is FINISHED after 1m 0\ds in 2 attempts; 10/10 epochs\n", lab.call("wait", number).err)
    assert re.search(r"^trained +1m 0\ds in 2 attempts$", lab.call("show", number).out, re.MULTILINE)
    assert json.loads(lab.call("show", number, "--json").out)["trained_seconds"] == pytest.approx(60, abs=5)


def test_a_running_attempt_counts_up_to_now(lab: Lab) -> None:
    number = begun(lab)
    run = lab.run(number)
    assert run.started_at is not None and run.trained_seconds == 0
    assert notes.trained_seconds(run, run.started_at + 7) == 7


def test_a_storage_knows_the_newest_epoch_that_any_attempt_has_kept(lab: Lab) -> None:
    number = begun(lab)
    paths = lab.home.run(number, "tiny")
    kept = storage.of(lab.home)
    assert kept.newest_epoch(lab.run(number)) is None
    run_files.prepare(paths, 1, "")
    write_history([history_row(1), history_row(2)], paths.attempt(1).history)
    lab.lose(number, "its process was killed")
    lab.start(number)
    assert kept.newest_epoch(lab.run(number)) == history_row(2)
    run_files.prepare(paths, 2, "")
    write_history([], paths.attempt(2).history)
    assert kept.newest_epoch(lab.run(number)) is None  # it began anew, and has saved that


def test_a_history_that_cannot_be_understood_holds_nothing_up(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    number = begun(lab)
    paths = lab.home.run(number, "tiny")
    run_files.prepare(paths, 1, "")
    Path(paths.attempt(1).history).write_text("epoch,time\nnonsense,1\n")
    run = lab.run(number)
    asked = Endings(storage.of(lab.home))
    asked.ask([run])
    asked.of(run).over.wait(30)
    assert asked.of(run).answered and asked.kept(run) is None
    assert "its metric history cannot be read" in caplog.text
