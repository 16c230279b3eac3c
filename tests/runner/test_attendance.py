"""The scheduler's decisions about a running run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runner.attempt import Status
from runner.attendance import (
    DOWN_GRACE_SECONDS,
    SILENT_SECONDS,
    START_SECONDS,
    Avoid,
    Close,
    Note,
    Seen,
    TellToStop,
    attend,
    overdue,
    taken_for_dead,
)
from runner.orders import UNHEARD_SECONDS
from runner.paths import Home
from runner.rows import NewRun, ProgressFields, Run
from runner.states import Event, State
from runner.storage import Ending, EndingKind
from runner.store import open_store

NOW = 1000.0


@pytest.fixture
def running(tmp_path) -> Run:
    with open_store(Home(tmp_path)) as store:
        (number,) = store.add([NewRun(name="r", config="", num_epochs=5)], NOW)
        epoch = store.take_over(NOW, "here", "1")
        store.claim(epoch, number, NOW, 1.0, 1.0)
        run = store.run(number)
    assert run is not None and run.state is State.RUNNING
    return run


def answer(kind: EndingKind | None = None, reason: str | None = None) -> Seen:
    ending = Ending(1, kind, reason, NOW) if kind else None
    return Seen(status=Status("node", ProgressFields(epoch=2, step=7), ending))


def test_an_answer_is_noted_and_nothing_else_happens(running: Run) -> None:
    seen = answer()
    assert seen.status is not None
    assert attend(running, seen, NOW, None) == [Note(seen.status)]


@pytest.mark.parametrize(
    ("kind", "event"),
    [("finished", Event.FINISH), ("failed", Event.FAIL), ("stopped", Event.RELEASE)],
)
def test_an_ending_closes_the_attempt_with_what_the_worker_said(
    running: Run, kind: EndingKind, event: Event
) -> None:
    *_, last = attend(running, answer(kind, "why"), NOW, None)
    assert isinstance(last, Close)
    assert (last.event, last.outcome) == (event, kind)
    assert last.reason == (None if kind == "stopped" else "why")


def test_a_worker_that_died_without_an_ending_is_lost(running: Run) -> None:
    assert attend(running, Seen(dead="killed"), NOW, None) == [Close(Event.LOSE, "lost", "killed")]


def test_a_worker_that_wrote_its_ending_before_it_died_has_finished(running: Run) -> None:
    seen = Seen(dead="gone", ending=Ending(1, "finished", None, NOW))
    assert attend(running, seen, NOW, None) == [Close(Event.FINISH, "finished", None)]


def test_how_far_a_run_came_that_stopped_early_is_known_from_its_ending_alone(running: Run) -> None:
    ended = Ending(1, "finished", "stopped early after epoch 3 of 5", NOW, epochs=3)
    (close,) = attend(running, Seen(dead="gone", ending=ended), NOW, None)
    assert close == Close(Event.FINISH, "finished", "stopped early after epoch 3 of 5", 3)


def test_the_last_loss_says_how_often_it_died(running: Run) -> None:
    worn = replace(running, losses=running.max_retries)
    (close,) = attend(worn, Seen(dead="out of memory"), NOW, None)
    assert isinstance(close, Close)
    assert close.reason == "its process died 4 times without getting further: out of memory"


def test_an_intent_is_passed_on_and_after_its_grace_the_worker_is_killed(running: Run) -> None:
    asked = replace(running, intent="interrupt", intent_at=NOW, grace_seconds=5.0)
    assert TellToStop() in attend(asked, answer(), NOW + 5, None)
    (close,) = attend(asked, Seen(silent_seconds=6), NOW + 5.1, None)
    assert close == Close(Event.RELEASE, "lost", "killed: had not saved within 5 s")


def test_down_lets_the_worker_save_and_then_kills_it(running: Run) -> None:
    assert TellToStop() in attend(running, answer(), NOW, NOW)
    (close,) = attend(running, answer(), NOW + DOWN_GRACE_SECONDS + 1, NOW)
    assert isinstance(close, Close) and close.event is Event.RELEASE


def test_a_death_during_down_is_no_loss(running: Run) -> None:
    assert attend(running, Seen(dead="gone"), NOW, NOW) == [Close(Event.RELEASE, "lost", "gone")]


def test_a_worker_that_never_answers_is_put_back(running: Run) -> None:
    (close,) = attend(running, Seen(silent_seconds=START_SECONDS + 1), NOW, None)
    assert isinstance(close, Close) and close.event is Event.RELEASE


def test_a_worker_that_falls_silent_keeps_its_place_for_a_while_and_is_lost_then(running: Run) -> None:
    """A signal may have stopped the worker; if it continues later, it finds that it is abandoned."""
    answered = replace(running, answered_at=NOW)
    patient, late = (Seen(silent_seconds=SILENT_SECONDS + more) for more in (-1, 1))
    assert taken_for_dead(answered, patient) == patient
    assert attend(answered, patient, NOW, None) == []
    (close,) = attend(answered, taken_for_dead(answered, late), NOW, None)
    reason = "its process has not answered for 120 s: it was stopped, or hangs"
    assert close == Close(Event.LOSE, "lost", reason)
    assert taken_for_dead(running, late) == late, "one that has never answered has a time of its own"
    assert SILENT_SECONDS > UNHEARD_SECONDS


def test_a_worker_that_had_finished_before_it_fell_silent_has_finished(running: Run) -> None:
    answered = replace(running, answered_at=NOW)
    seen = taken_for_dead(answered, Seen(silent_seconds=SILENT_SECONDS + 1))
    finished = replace(seen, ending=Ending(1, "finished", None, NOW))
    assert attend(answered, finished, NOW, None) == [Close(Event.FINISH, "finished", None)]


def test_down_with_force_kills_at_once_but_not_what_has_ended(running: Run) -> None:
    (close,) = attend(running, answer(), NOW, NOW, kill_at_once=True)
    assert isinstance(close, Close) and close.event is Event.RELEASE
    *_, close = attend(running, answer("finished"), NOW, NOW, kill_at_once=True)
    assert close == Close(Event.FINISH, "finished", None)


def test_a_worker_on_a_drained_machine_saves_and_its_run_is_put_back(running: Run) -> None:
    leaving = replace(answer(), leaving=True, machine="gpu2")
    assert TellToStop() in attend(running, leaving, NOW, None)
    stopped = replace(answer("stopped"), leaving=True, machine="gpu2")
    *_, close = attend(running, stopped, NOW, None)
    assert close == Close(Event.RELEASE, "stopped", "gpu2 is being drained")


def test_what_finished_on_a_drained_machine_has_finished_and_what_died_there_is_lost(running: Run) -> None:
    *_, close = attend(running, replace(answer("finished"), leaving=True), NOW, None)
    assert close == Close(Event.FINISH, "finished", None)
    gone = Seen(dead="its machine is gone", leaving=True)
    assert attend(running, gone, NOW, None) == [Close(Event.LOSE, "lost", "its machine is gone")]


def test_an_interrupt_on_a_drained_machine_is_what_the_user_asked_for(running: Run) -> None:
    asked = replace(running, intent="interrupt", intent_at=NOW, grace_seconds=5.0)
    *_, close = attend(asked, replace(answer("stopped"), leaving=True), NOW, None)
    assert close == Close(Event.RELEASE, "stopped", None)


@pytest.mark.parametrize(
    "seen", [Seen(lack="no torch", machine="gpu2"), replace(answer("unable", "no torch"), machine="gpu2")]
)
def test_a_machine_that_cannot_run_it_is_avoided_and_the_run_put_back(running: Run, seen: Seen) -> None:
    reason = "gpu2 cannot run it: no torch"
    assert attend(running, seen, NOW, None) == [Avoid(reason), Close(Event.RELEASE, "lost", reason)]


def test_a_run_whose_worker_was_never_started_is_put_back_and_one_that_ran_is_lost(running: Run) -> None:
    unknown = Seen(dead="its worker is gone", unknown=True)
    assert attend(running, unknown, NOW, None) == [Close(Event.RELEASE, "lost", "its worker was not started")]
    ran = replace(running, answered_at=NOW)
    assert attend(ran, unknown, NOW, None) == [Close(Event.LOSE, "lost", "its worker is gone")]


def test_what_was_given_to_save_is_over_after_its_grace_and_that_of_down_after_its_own(running: Run) -> None:
    asked = replace(running, intent="cancel", intent_at=100.0, grace_seconds=5.0)
    assert overdue(asked, 105.0, None) is None
    assert overdue(asked, 105.1, None) == 5.0
    assert overdue(running, 200.0, 100.0) == DOWN_GRACE_SECONDS
    assert overdue(running, 101.0, 100.0) is None
    assert overdue(running, 200.0, None) is None
