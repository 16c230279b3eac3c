"""Following a run in words: what has changed since the last look, and the result. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from runner import notes
from runner.moves import extension
from runner.output import PROGRAM
from runner.states import ENDED, State
from runner.wording import OTHER_DATA, beginning, duration, percent, run_label

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
    """State of a run at one look."""

    run: Run
    note: str
    silent: bool  # its worker has not answered for a while
    at: float  # unix seconds

    @classmethod
    def of(cls, run: Run, situation: Situation) -> Moment:
        silent = (
            run.state is State.RUNNING and notes.silent_seconds(run, situation.now) > notes.SILENT_SECONDS
        )
        return cls(run, notes.state_note(run, situation), silent, situation.now)


def unserved(situation: Situation) -> str:
    """Return the line that is shown once where runs wait or run and no scheduler runs."""
    return f"no scheduler runs, so nothing goes on: {situation.start} starts it"


def changes(before: Moment | None, after: Moment) -> list[str]:
    """Return lines on the run's changes between two looks (`before` is None before the first)."""
    return [*moved(before, after), *computing(before, after)]


def moved(before: Moment | None, after: Moment) -> list[str]:
    """Return a line on the run's state where more than numbers has changed since the last look."""
    if before is not None and not is_news(before, after):
        return []
    run = after.run
    if run.state in ENDED:
        return [ending(run)]
    attempt = f", attempt {run.attempt}" if run.state is State.RUNNING else ""
    return [f"{title(run)} is {run.state}{attempt}" + (f": {after.note}" if after.note else "")]


def computing(before: Moment | None, after: Moment) -> list[str]:
    """Return a line at the start of an attempt, once it is known how it computes and from where it starts."""
    run = after.run
    was_known = before is not None and before.run.attempt == run.attempt and before.run.computes is not None
    if run.state is not State.RUNNING or run.computes is None or was_known:
        return []
    begun = beginning(run.from_epoch, run.from_step)
    return [f"{title(run)} computes in {run.computes}" + (f", {begun}" if begun else "")]


def is_news(before: Moment, after: Moment) -> bool:
    """Return whether more than numbers has changed."""
    was, now = before.run, after.run
    moved = (was.state, was.attempt, was.intent) != (now.state, now.attempt, now.intent)
    waits_for_else = now.state is State.QUEUED and before.note != after.note
    return moved or waits_for_else or (after.silent and not before.silent)


def finished_epoch(before: Moment | None, after: Moment) -> list[str]:
    """Return a line when an epoch has ended between two looks; of several the last one."""
    run = after.run
    if before is None:
        return []
    same_attempt = before.run.attempt == run.attempt
    earlier = max(finished_epochs(before.run) if same_attempt else 0, run.from_epoch or 0)
    if finished_epochs(run) <= earlier:
        return []
    loss, accuracy = run.metrics.get("train/loss"), run.metrics.get("test/accuracy")
    parts = [
        f"epoch {finished_epochs(run)}/{run.num_epochs} done",
        None if loss is None else f"loss {loss:.4f}",
        None if accuracy is None else f"test accuracy {percent(accuracy)}",
        *pace(run),
    ]
    return [f"{title(run)}: {_listed(parts)}"]


def finished_epochs(run: Run) -> int:
    """Return how many epochs are over, as far as the run's newest attempt has reported."""
    if not run.epoch or not is_training(run):
        return run.from_epoch or 0
    if run.state is State.FINISHED:
        return run.last_epoch
    # With its last metrics a worker reports the loss of the whole epoch, to the last bit.
    at_its_end = run.step is not None and run.step == run.steps_per_epoch
    is_over = at_its_end and run.loss == run.metrics.get("train/loss")
    return run.epoch if is_over else run.epoch - 1


def is_training(run: Run) -> bool:
    """Return whether the newest attempt has said how it computes: before, the epoch is an earlier one's."""
    return run.computes is not None


def unfinished_epoch(run: Run) -> list[str]:
    """Return a line about the epoch in hand of a running run; none before the first."""
    going = run.state is State.RUNNING and run.epoch and is_training(run)
    return [f"{title(run)}: {progress(run)}"] if going else []


def title(run: Run) -> str:
    """Return a run's number and name, as `run_label` writes them."""
    return run_label(run.id, run.name)


def place(run: Run) -> str:
    """Return where a run runs."""
    devices = f"GPU {','.join(run.devices)}" if run.devices else "CPU"
    return f"{devices} of {run.host}" if run.host else devices


def progress(run: Run) -> str:
    """Return epochs done, loss, accuracy, speed and time left, as far as they are known.

    Of a running run the loss is that of the epoch in hand, the accuracy that of the one before.
    """
    so_far, last = (" so far", "last ") if run.state is State.RUNNING else ("", "")
    parts = [
        f"{notes.epochs(run)} epochs",
        None if run.loss is None else f"loss {run.loss:.4f}{so_far}",
        None if run.accuracy is None else f"{last}test accuracy {percent(run.accuracy)}",
        *pace(run),
    ]
    return _listed(parts)


def pace(run: Run) -> list[str]:
    """Return speed and time left, as far as they are known."""
    speed, left = run.images_per_second, run.seconds_left
    return [
        *([f"{speed:,.0f} images/s"] if speed else []),
        *([] if left is None else [f"{duration(left)} left"]),
    ]


def _listed(parts: Iterable[str | None]) -> str:
    return ", ".join(part for part in parts if part)


def ending(run: Run) -> str:
    """Return how a run ended, after how long in all its attempts, and why."""
    took = f" after {notes.trained(run.trained_seconds, run.attempt)}" if run.attempt else ""
    reason = f": {run.reason}" if run.reason else ""
    ended_so = f"{title(run)} is {run.state}{took}{reason}"
    return "; ".join(filter(None, [ended_so, notes.unpublished_note(run)]))


def outcome_line(run: Run, best: Best | None = None) -> str:
    """Return how a run ended and what it reached, in one line; for a failed one where its output is, too."""
    figures = [
        reached(run),
        None if run.accuracy is None else f"test accuracy {percent(run.accuracy)}",
        None if best is None else f"best on validation: {best.text}",
    ]
    output = f"output: `{PROGRAM} logs {run.id}`" if run.state is State.FAILED and run.attempt else None
    return "; ".join(filter(None, [ending(run), _listed(figures), output]))


def reached(run: Run) -> str | None:
    """Return how far an ended run came: where a resume goes on."""
    return f"{notes.epochs(run)} epochs" if run.attempt else None


class Best(NamedTuple):
    """The epoch that the validation split chose."""

    epoch: int
    accuracy: float  # on the test set

    @property
    def text(self) -> str:
        return f"test accuracy {percent(self.accuracy)} at epoch {self.epoch}"


def result(run: Run, folder: str, best: Best | None = None) -> list[str]:
    """Return the lines on an ended run: its results, where it is, and what to do next."""
    return [
        *(f"  {LABELS[key]:<18} {metric(key, run.metrics[key])}" for key in LABELS if key in run.metrics),
        *([] if best is None else [f"  {'best on validation':<18} {best.text}"]),
        f"  {'folder':<18} {folder}",
        *(f"  {what:<18} {command}" for what, command in next_steps(run).items()),
    ]


def metric(key: str, value: float) -> str:
    return percent(value) if key.endswith("accuracy") else f"{value:.4f}"


def next_steps(run: Run) -> dict[str, str]:
    """Return the commands that make sense after this end."""
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
