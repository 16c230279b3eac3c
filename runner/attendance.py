"""Decisions about a running run, given what its worker answered; pure functions.

The scheduler observes (Ray's answers, the ending on disk, the row), this module decides, and the scheduler
acts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from capsnet.history import Row
from runner.attempt import Status
from runner.rows import Outcome, Run
from runner.states import Event
from runner.storage import Ending

START_SECONDS = 60.0  # within which a worker must answer for the first time
DOWN_GRACE_SECONDS = 30.0  # in which `down` lets a worker save
# After which a worker that has answered before and does not any more (stopped by a signal, say) is given up.
# Longer than the time after which it leaves by itself when it wakes (orders.UNHEARD_SECONDS).
SILENT_SECONDS = 120.0


@dataclass(frozen=True)
class Seen:
    """Observation of a worker at one moment."""

    status: Status | None = None  # it has answered
    silent_seconds: float = 0.0  # it has not, for so long
    dead: str | None = None  # Ray says that it is gone, and why
    unknown: bool = False  # it is gone, and Ray knows of none: perhaps it was never started
    lack: str | None = None  # what its machine is missing to run it
    fault: str | None = None  # why its code cannot be run anywhere
    ending: Ending | None = None  # on disk, for one that is gone
    machine: str = "its machine"  # by name
    leaving: bool = False  # the machine is drained: it has little time


@dataclass(frozen=True)
class Note:
    """Write down where the run stands."""

    status: Status


@dataclass(frozen=True)
class TellToStop:
    """Ask the worker to save and stop."""


@dataclass(frozen=True)
class Close:
    """The attempt is over: end its process, release what it holds, move the run.

    Where the user has asked for something meanwhile, the store decides which event counts.
    """

    event: Event
    outcome: Outcome
    reason: str | None
    epochs: int | None = None  # that are behind a run which has finished; None: all of them
    kept: Row | None = None  # the newest epoch that it has kept, by its worker's last word


@dataclass(frozen=True)
class Avoid:
    """Start nothing on the run's machine for a while."""

    reason: str


Action = Note | TellToStop | Close | Avoid


def taken_for_dead(run: Run, seen: Seen) -> Seen:
    """Return `seen`, in which a worker that was silent for too long counts as gone."""
    if seen.dead is None and run.answered_at is not None and seen.silent_seconds > SILENT_SECONDS:
        return replace(seen, dead=silent("its process"))
    return seen


def silent(who: str) -> str:
    """Return why a worker that is silent for too long is given up."""
    return f"{who} has not answered for {SILENT_SECONDS:g} s: it was stopped, or hangs"


def attend(
    run: Run, seen: Seen, now: float, down_since: float | None, kill_at_once: bool = False
) -> list[Action]:
    """Decide about one RUNNING run; `down_since`: since when `down` waits, in unix seconds."""
    if seen.fault is not None:
        return [Close(Event.FAIL, "failed", seen.fault)]
    if seen.lack is not None:
        return _move_away(seen, seen.lack)
    if seen.dead is not None:
        return [_bury(run, seen, down_since)]
    if seen.status is not None and seen.status.ending is not None:
        if seen.status.ending.kind == "unable":
            return _move_away(seen, seen.status.ending.reason or "")
        return [Note(seen.status), _conclude(run, seen.status.ending, seen)]
    if kill_at_once:
        return [Close(Event.RELEASE, "lost", "killed by down --force")]
    if late := _out_of_patience(run, seen, now, down_since):
        return [late]
    actions: list[Action] = [Note(seen.status)] if seen.status is not None else []
    if run.intent is not None or down_since is not None or seen.leaving:
        actions.append(TellToStop())
    return actions


def _move_away(seen: Seen, lack: str) -> list[Action]:
    """Put back a run whose machine cannot run it: others may, and the run has not failed."""
    reason = f"{seen.machine} cannot run it: {lack}"
    return [Avoid(reason), Close(Event.RELEASE, "lost", reason)]


def _conclude(run: Run, ending: Ending, seen: Seen) -> Close:
    """Close an attempt that reported how it ended; a stop is what the user intended, else a release."""
    if ending.kind == "finished":
        return Close(Event.FINISH, "finished", ending.reason, ending.epochs, ending.kept)
    if ending.kind == "failed":
        return Close(Event.FAIL, "failed", ending.reason, kept=ending.kept)
    drained = seen.leaving and run.intent is None
    reason = f"{seen.machine} is being drained" if drained else None
    return Close(Event.RELEASE, "stopped", reason, kept=ending.kept)


def _bury(run: Run, seen: Seen, down_since: float | None) -> Close:
    """Close an attempt whose process is gone."""
    reason = seen.dead
    if seen.ending is not None and seen.ending.kind != "unable":
        return _conclude(run, seen.ending, seen)
    if down_since is not None:
        return Close(Event.RELEASE, "lost", reason)
    if seen.unknown and run.answered_at is None:  # the scheduler was ended between the row and the start
        return Close(Event.RELEASE, "lost", "its worker was not started")
    if run.intent is None and run.losses >= run.max_retries:
        times = f"{run.losses + 1} times" if run.losses else "once"
        return Close(Event.LOSE, "lost", f"its process died {times} without getting further: {reason}")
    return Close(Event.LOSE, "lost", reason)


def overdue(run: Run, now: float, down_since: float | None) -> float | None:
    """Return the seconds that a worker was given to save and stop, where they are over."""
    if run.intent_at is not None and run.grace_seconds is not None:
        since, given = run.intent_at, run.grace_seconds
    elif down_since is not None:
        since, given = down_since, DOWN_GRACE_SECONDS
    else:
        return None
    return given if now - since > given else None


def _out_of_patience(run: Run, seen: Seen, now: float, down_since: float | None) -> Close | None:
    """Close an attempt that neither ends nor answers in the time that it was given."""
    if (given := overdue(run, now, down_since)) is not None:
        return Close(Event.RELEASE, "lost", f"killed: had not saved within {given:g} s")
    never_answered = seen.status is None and run.answered_at is None
    if never_answered and seen.silent_seconds > START_SECONDS:
        return Close(Event.RELEASE, "lost", f"its worker did not start within {START_SECONDS:g} s")
    return None
