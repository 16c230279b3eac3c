"""The table of states, against a copy of it in the words of the design."""

from __future__ import annotations

import itertools

import pytest

from runner.states import ENDED, MOVES, UNFINISHED, Event, IllegalMove, State, move

DESIGN = """
QUEUED       CLAIM      RUNNING
QUEUED       INTERRUPT  INTERRUPTED
QUEUED       CANCEL     CANCELLED
RUNNING      FINISH     FINISHED
RUNNING      FAIL       FAILED
RUNNING      INTERRUPT  INTERRUPTED
RUNNING      CANCEL     CANCELLED
RUNNING      LOSE       QUEUED
RUNNING      RELEASE    QUEUED
RUNNING      EXHAUST    FAILED
INTERRUPTED  RESUME     QUEUED
FAILED       RESUME     QUEUED
CANCELLED    RESUME     QUEUED
FINISHED     EXTEND     QUEUED
"""
ALLOWED = {
    (State[before], Event[event]): State[after]
    for before, event, after in (line.split() for line in DESIGN.strip().splitlines())
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_a_run_moves_as_the_design_says_and_in_no_other_way(state: State, event: Event) -> None:
    if (state, event) in ALLOWED:
        assert move(state, event) is ALLOWED[state, event]
    else:
        with pytest.raises(IllegalMove, match=f"it is {state} and cannot be {event.value}"):
            move(state, event)


def test_only_the_queue_leads_to_running_and_only_running_to_finished() -> None:
    assert {before for (before, _), after in MOVES.items() if after is State.RUNNING} == {State.QUEUED}
    assert {before for (before, _), after in MOVES.items() if after is State.FINISHED} == {State.RUNNING}


def test_a_run_that_has_ended_can_only_be_queued_again() -> None:
    assert {after for (before, _), after in MOVES.items() if before in ENDED} == {State.QUEUED}
    assert {before for before, _ in MOVES if before in ENDED} == ENDED


def test_every_state_is_either_unfinished_or_ended() -> None:
    assert set(State) == UNFINISHED | ENDED
    assert not UNFINISHED & ENDED
