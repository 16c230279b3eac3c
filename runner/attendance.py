"""What to do about a running run, given what its worker answered: pure decisions.

The scheduler looks (Ray's answers, the ending on disk, the row), this decides, and the scheduler acts.
"""

from __future__ import annotations

from dataclasses import dataclass

from runner.attempt import Status
from runner.rows import Outcome, Run
from runner.states import Event
from runner.storage import Ending

START_SECONDS = 60.0  # within which a worker must answer for the first time
DOWN_GRACE_SECONDS = 30.0  # in which `down` lets a worker save


@dataclass(frozen=True)
class Seen:
    """What there is to see of a worker at one moment."""

    status: Status | None = None  # it has answered
    silent_seconds: float = 0.0  # it has not, for so long
    dead: str | None = None  # Ray says that it is gone, and why
    ending: Ending | None = None  # on disk, for one that is gone


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

    The store settles what the event comes to where the user intended something meanwhile.
    """

    event: Event
    outcome: Outcome
    reason: str | None


Action = Note | TellToStop | Close


def attend(
    run: Run, seen: Seen, now: float, down_since: float | None, kill_at_once: bool = False
) -> list[Action]:
    """Decide about one RUNNING run; `down_since`: since when `down` waits, in unix seconds."""
    if seen.dead is not None:
        return [_bury(run, seen.dead, seen.ending, down_since)]
    if seen.status is not None and seen.status.ending is not None:
        return [Note(seen.status), _conclude(seen.status.ending)]
    if kill_at_once:
        return [Close(Event.RELEASE, "lost", "killed by down --force")]
    if late := _out_of_patience(run, seen, now, down_since):
        return [late]
    actions: list[Action] = [Note(seen.status)] if seen.status is not None else []
    if run.intent is not None or down_since is not None:
        actions.append(TellToStop())
    return actions


def _conclude(ending: Ending) -> Close:
    """Close an attempt that said how it ended; a stop is what the user intended, else a release."""
    if ending.kind == "finished":
        return Close(Event.FINISH, "finished", None)
    if ending.kind == "failed":
        return Close(Event.FAIL, "failed", ending.reason)
    return Close(Event.RELEASE, "stopped", None)


def _bury(run: Run, reason: str, ending: Ending | None, down_since: float | None) -> Close:
    """Close an attempt whose process is gone."""
    if ending is not None:
        return _conclude(ending)
    if down_since is not None:
        return Close(Event.RELEASE, "lost", reason)
    if run.intent is None and run.losses >= run.max_retries:
        times = f"{run.losses + 1} times" if run.losses else "once"
        return Close(Event.LOSE, "lost", f"its process died {times} without getting further: {reason}")
    return Close(Event.LOSE, "lost", reason)


def _out_of_patience(run: Run, seen: Seen, now: float, down_since: float | None) -> Close | None:
    """Close an attempt that neither ends nor answers in the time that it was given."""
    if run.intent_at is not None and run.grace_seconds is not None:
        if now - run.intent_at > run.grace_seconds:
            return Close(Event.RELEASE, "lost", f"killed: had not saved within {run.grace_seconds:g} s")
    elif down_since is not None and now - down_since > DOWN_GRACE_SECONDS:
        return Close(Event.RELEASE, "lost", f"killed: had not saved within {DOWN_GRACE_SECONDS:g} s")
    never_answered = seen.status is None and run.answered_at is None
    if never_answered and seen.silent_seconds > START_SECONDS:
        return Close(Event.RELEASE, "lost", f"its worker did not start within {START_SECONDS:g} s")
    return None
