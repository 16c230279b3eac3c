"""Following a run in words: what has changed since the last look, and the result. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner import notes
from runner.moves import extension
from runner.output import PROGRAM
from runner.states import ENDED, State
from runner.wording import OTHER_DATA, beginning, duration, percent

if TYPE_CHECKING:
    from runner.notes import Situation
    from runner.rows import Run

LABELS = {  # of the metrics that the result shows, in this order
    "test/accuracy": "test accuracy",
    "test/loss": "test loss",
    "train/accuracy": "training accuracy",
}


@dataclass(frozen=True)
class Moment:
    """A look at a run."""

    run: Run
    note: str
    silent: bool  # its worker has not answered for a while

    @classmethod
    def of(cls, run: Run, situation: Situation) -> Moment:
        silent = (
            run.state is State.RUNNING and notes.silent_seconds(run, situation.now) > notes.SILENT_SECONDS
        )
        return cls(run, notes.state_note(run, situation), silent)


def unserved(situation: Situation) -> str:
    """What there is to say once where runs wait or run and no scheduler does."""
    return f"no scheduler runs, so nothing goes on: {situation.start} starts it"


def changes(before: Moment | None, after: Moment) -> list[str]:
    """Lines for what has happened to the run between two looks (None: before the first)."""
    return [*moved(before, after), *computing(before, after)]


def moved(before: Moment | None, after: Moment) -> list[str]:
    """A line when it has moved, or something troubles it."""
    if before is not None and not is_news(before, after):
        return []
    run = after.run
    if run.state in ENDED:
        return [ending(run)]
    attempt = f", attempt {run.attempt}" if run.state is State.RUNNING else ""
    return [f"{title(run)} is {run.state}{attempt}" + (f": {after.note}" if after.note else "")]


def computing(before: Moment | None, after: Moment) -> list[str]:
    """A line at the start of an attempt, as soon as it is known how it computes, and from where on."""
    run = after.run
    was_known = before is not None and before.run.attempt == run.attempt and before.run.computes is not None
    if run.state is not State.RUNNING or run.computes is None or was_known:
        return []
    begun = beginning(run.from_epoch, run.from_step)
    return [f"{title(run)} computes in {run.computes}" + (f", {begun}" if begun else "")]


def is_news(before: Moment, after: Moment) -> bool:
    """Whether more than numbers has changed."""
    was, now = before.run, after.run
    moved = (was.state, was.attempt, was.intent) != (now.state, now.attempt, now.intent)
    waits_for_else = now.state is State.QUEUED and before.note != after.note
    return moved or waits_for_else or (after.silent and not before.silent)


def epoch_line(before: Moment | None, after: Moment) -> list[str]:
    """A line when another epoch has begun, for those who see no bar."""
    run = after.run
    if run.state is not State.RUNNING or not run.epoch or (before and before.run.epoch == run.epoch):
        return []
    return [f"{title(run)}: {progress(run)}"]


def title(run: Run) -> str:
    return f"run {run.id} ({run.name})"


def place(run: Run) -> str:
    """Where it runs."""
    devices = f"GPU {','.join(run.devices)}" if run.devices else "CPU"
    return f"{devices} of {run.host}" if run.host else devices


def progress(run: Run) -> str:
    """Epochs done, loss, accuracy, speed and time left, as far as they are known.

    Of a running run the loss is that of the epoch in hand, the accuracy that of the one before.
    """
    so_far, last = (" so far", "last ") if run.state is State.RUNNING else ("", "")
    parts = [
        f"{notes.epochs(run)} epochs",
        None if run.loss is None else f"loss {run.loss:.4f}{so_far}",
        None if run.accuracy is None else f"{last}test accuracy {percent(run.accuracy)}",
        None if not run.images_per_second else f"{run.images_per_second:,.0f} images/s",
        None if run.seconds_left is None else f"{duration(run.seconds_left)} left",
    ]
    return ", ".join(part for part in parts if part)


def ending(run: Run) -> str:
    """How it ended, after how long in all its attempts, and why."""
    took = f" after {notes.trained(run.trained_seconds, run.attempt)}" if run.attempt else ""
    reason = f": {run.reason}" if run.reason else ""
    ended_so = f"{title(run)} is {run.state}{took}{reason}"
    return "; ".join(filter(None, [ended_so, notes.unpublished_note(run)]))


def result(run: Run, folder: str) -> list[str]:
    """What came of an ended run, where it is, and what to do next."""
    return [
        *(f"  {LABELS[key]:<18} {metric(key, run.metrics[key])}" for key in LABELS if key in run.metrics),
        f"  {'folder':<18} {folder}",
        *(f"  {what:<18} {command}" for what, command in next_steps(run).items()),
    ]


def metric(key: str, value: float) -> str:
    return percent(value) if key.endswith("accuracy") else f"{value:.4f}"


def next_steps(run: Run) -> dict[str, str]:
    """Commands that make sense after this end."""
    if run.state is State.FINISHED:
        return {
            "see it": f"{PROGRAM} ui",
            "compare": f"{PROGRAM} queue; in the MLflow UI tick several runs and press Compare",
            "go on": f"{PROGRAM} resume {run.id} {extension(run)}",
        }
    if run.state is State.FAILED:
        where = f" {OTHER_DATA}" if OTHER_DATA in (run.reason or "") else ""
        return {
            "its output": f"{PROGRAM} logs {run.id}",
            "go on": f"{PROGRAM} resume {run.id}{where}",
            "with edited code": f"{PROGRAM} resume {run.id} --new-code",
        }
    return {"go on": f"{PROGRAM} resume {run.id}"}
