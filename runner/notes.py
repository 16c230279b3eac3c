"""Notes on a run in a few words: pure functions of its row and the situation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from capsnet.progressbar import epochs_done
from runner.output import PROGRAM
from runner.states import State
from runner.versions import Versions, differences
from runner.wording import NOTHING, duration, request

if TYPE_CHECKING:
    from runner.rows import Run

SILENT_SECONDS = 10.0  # a worker is asked about once a second; one that misses ten answers gets a note


@dataclass(frozen=True)
class Situation:
    """Facts about a run that its row does not hold."""

    now: float  # unix seconds
    served: bool  # a scheduler is alive
    waits: Mapping[int, str] = field(default_factory=dict)  # why each queued run waits
    start: str = f"`{PROGRAM} up`"  # what to do where none is


def note(run: Run, situation: Situation) -> str:
    """Return the note on the run's state, and why MLflow lacks something of the run."""
    return "; ".join(filter(None, [state_note(run, situation), unpublished_note(run)]))


def unpublished_note(run: Run) -> str:
    """Return why MLflow lacks something of the run; "" where no publishing failed since it last worked."""
    return f"not published to MLflow: {run.publish_error}" if run.publish_error and not run.is_going else ""


def state_note(run: Run, situation: Situation) -> str:
    """Return why a queued run waits, what troubles a running one, why an ended one ended; else nothing."""
    if run.state is State.QUEUED:
        return queued_note(run, situation)
    if run.state is State.RUNNING:
        return "; ".join(running_notes(run, situation))
    if run.is_going:
        return gone_soon(run)
    return run.reason or ""


def gone_soon(run: Run) -> str:
    """Return the note on a run whose files are being deleted, or could not be."""
    return f"is being deleted: `{PROGRAM} rm {run.id}` finishes that"


def queued_note(run: Run, situation: Situation) -> str:
    """Return why a run waits, and why it was queued again where it was."""
    if not situation.served:
        wait = f"no scheduler runs: {situation.start}"
    else:
        wait = situation.waits.get(run.id, "starts next")
    if run.use_best:
        wait += ", goes on from its best weights"
    return f"{wait} (queued again: {run.reason})" if run.reason else wait


def running_notes(run: Run, situation: Situation) -> list[str]:
    if not situation.served:
        return [f"no scheduler watches it: {situation.start}"]
    notes = [run.reason] if run.reason else []
    if run.intent == "interrupt":
        notes.append("saves and stops")
    if run.intent == "cancel":
        notes.append("is being cancelled")
    silent = silent_seconds(run, situation.now)
    if silent > SILENT_SECONDS:
        notes.append(f"not answering since {duration(silent)}")
    elif run.epoch is None or run.answered_at is None:
        notes.append("starting")
    submitted, found = Versions(run.submit_python, run.submit_torch), Versions(run.python, run.torch)
    return notes + differences(found, submitted)


def silent_seconds(run: Run, now: float) -> float:
    """Return for how long a running run's worker has not answered."""
    heard = run.answered_at or run.started_at or now
    return max(0.0, now - heard)


def epochs(run: Run) -> str:
    """Return the epochs that are done, of all, as `progressbar.epochs_done` writes them: "2.5/50"."""
    done, step = epochs_and_steps(run)
    return epochs_done(done, step, run.steps_per_epoch, run.num_epochs)


def epochs_and_steps(run: Run) -> tuple[int, int]:
    """Return the finished epochs of a run, in any state, and the steps done of the one after them.

    Of a running run as its worker has reported; of any other, and of one whose attempt does not train yet,
    those that are durable: there it goes on.
    """
    if run.state is State.FINISHED:
        return run.last_epoch, 0
    durable = run.durable_epoch or 0, run.durable_step or 0
    if (
        run.state is not State.RUNNING or run.epoch is None or durable == (run.epoch, 0)
    ):  # that one is over, too
        return durable
    return run.epoch - 1, run.step or 0


def trained_seconds(run: Run, now: float) -> float:
    """How long the run has trained in all its attempts, the one that goes on included, without waiting."""
    if run.state is not State.RUNNING or run.started_at is None:
        return run.trained_seconds
    return run.trained_seconds + max(0.0, now - run.started_at)


def trained(seconds: float, attempts: int) -> str:
    """Return for how long a run has trained: "34s", "1m 20s in 2 attempts"."""
    return duration(seconds) + (f" in {attempts} attempts" if attempts > 1 else "")


def gpus(run: Run) -> str:
    """Return which GPUs a run uses, or used last; for one that waits, how many it asks for."""
    if run.state is State.QUEUED or run.attempt == 0:
        return request(run.gpus)
    return used(run) or NOTHING


def used(run: Run) -> str | None:
    """Which GPUs its newest attempt uses, or used; None where its worker has not said."""
    if run.devices:
        return f"gpu {','.join(run.devices)}"
    return "cpu" if run.answered_at else None
