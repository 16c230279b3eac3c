"""The states of a run and the only moves between them: a table, and nothing that acts."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """State of a run."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    INTERRUPTED = "INTERRUPTED"


class Event(StrEnum):
    """Event in the life of a run. The value is the past participle, as messages say it."""

    CLAIM = "started"
    INTERRUPT = "interrupted"
    CANCEL = "cancelled"
    FINISH = "finished"
    FAIL = "failed"
    LOSE = "lost"  # its process died under it
    EXHAUST = "given up"  # lost once more than `max_retries` without its durable checkpoint advancing
    RELEASE = "released"  # put back through no fault of its own: `down`, or a start that Ray could not serve
    RESUME = "resumed"
    EXTEND = "extended"  # resumed with more epochs


UNFINISHED = frozenset({State.QUEUED, State.RUNNING})
ENDED = frozenset(State) - UNFINISHED

MOVES: dict[tuple[State, Event], State] = {
    (State.QUEUED, Event.CLAIM): State.RUNNING,
    (State.QUEUED, Event.INTERRUPT): State.INTERRUPTED,
    (State.QUEUED, Event.CANCEL): State.CANCELLED,
    (State.RUNNING, Event.FINISH): State.FINISHED,
    (State.RUNNING, Event.FAIL): State.FAILED,
    (State.RUNNING, Event.INTERRUPT): State.INTERRUPTED,
    (State.RUNNING, Event.CANCEL): State.CANCELLED,
    (State.RUNNING, Event.LOSE): State.QUEUED,
    (State.RUNNING, Event.RELEASE): State.QUEUED,
    (State.RUNNING, Event.EXHAUST): State.FAILED,
    (State.INTERRUPTED, Event.RESUME): State.QUEUED,
    (State.FAILED, Event.RESUME): State.QUEUED,
    (State.CANCELLED, Event.RESUME): State.QUEUED,
    (State.FINISHED, Event.EXTEND): State.QUEUED,
}


class IllegalMove(ValueError):  # noqa: N818 - the name says what happened
    """An event that the run's state does not allow; one line for the user."""


def move(state: State, event: Event) -> State:
    """Return the state after `event`; raises IllegalMove where the table has no such move."""
    after = MOVES.get((state, event))
    if after is None:
        raise IllegalMove(f"it is {state} and cannot be {event}")
    return after
