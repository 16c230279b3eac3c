"""State of a run of several workers, decided from the answers of all of them, without Ray."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runner.attempt import Status
from runner.attendance import SILENT_SECONDS, Seen
from runner.cluster import Answer, Death, Lack, Member, Reply, Silence
from runner.crew import Follower, fields_of_all, lacking, noted, seen_with
from runner.resources import Booking
from runner.rows import ProgressFields
from runner.storage import Ending, EndingKind


def follower(rank: int, **fields: Any) -> Follower:
    made = Follower(rank, Member(f"run-1-1-rank-{rank}", actor=None), Booking("", 1, 1))
    made.note(Status(f"node-{rank}", ProgressFields(**fields), None))
    return made


def answer(kind: EndingKind | None = None, reason: str | None = None) -> Answer:
    ending = None if kind is None else Ending(1, kind, reason, 5.0)
    return Answer(Status("node-0", ProgressFields(epoch=3), ending))


TWO = [follower(1), follower(2)]
FIRST = Seen(status=answer().status)


def seen(first: Seen, **replies: Reply) -> Seen:
    """Return what is seen of the run, given answers of ranks 1 and 2 by name; others go on."""
    all_well: dict[str, Reply] = {"one": answer(), "two": answer()}
    one, two = (all_well | replies).values()
    return seen_with(TWO, first, {"run-1-1-rank-1": one, "run-1-1-rank-2": two})


def test_a_run_of_which_all_workers_go_on_is_as_the_first_one_says() -> None:
    assert seen(FIRST) == FIRST
    assert seen(FIRST, two=Silence(3.0)) == FIRST


def test_one_that_falls_silent_for_too_long_is_lost_to_the_run() -> None:
    said = seen(FIRST, two=Silence(SILENT_SECONDS + 1)).dead
    assert said == "its worker of rank 2 has not answered for 120 s: it was stopped, or hangs"


@pytest.mark.parametrize("kind", ["stopped", "finished"])
def test_one_that_has_left_the_group_is_no_reason_to_end_the_attempt(kind: EndingKind) -> None:
    assert seen(FIRST, one=answer(kind)) == FIRST


def test_one_that_has_finished_may_die_while_the_first_one_still_saves() -> None:
    done = follower(1)
    assert noted([done], {"run-1-1-rank-1": answer("finished")}) == [done]
    assert seen_with([done], FIRST, {"run-1-1-rank-1": Death("its machine is gone")}) == FIRST


def test_the_death_of_any_is_the_loss_of_the_run_and_says_whose() -> None:
    assert seen(FIRST, two=Death("its machine is gone")).dead == "its worker of rank 2: its machine is gone"


def test_who_has_answered_is_noted_with_its_machine_and_gpus() -> None:
    one, two = follower(1), follower(2)
    told = Answer(Status("node-9", ProgressFields(devices=("3",)), None))
    assert noted([one, two], {"run-1-1-rank-1": told, "run-1-1-rank-2": Silence(1.0)}) == [one]
    assert one.booking == Booking("node-9", 1, 1, ("3",))


def test_one_whom_a_later_scheduler_does_not_find_is_gone() -> None:
    lost = Follower(1, None, Booking("", 1, 1))
    assert seen_with([lost], FIRST, {}).dead == "its worker of rank 1 is gone"


def test_an_error_of_any_fails_the_run_also_when_the_first_one_died_of_it() -> None:
    failed = answer("failed", "there are no data")
    for first in (FIRST, Seen(dead="its process was killed or crashed")):
        found = seen(first, one=failed)
        assert found.dead is None
        assert found.status is not None and found.status.ending is not None
        assert found.status.ending.kind == "failed"
        assert found.status.ending.reason == "its worker of rank 1: there are no data"


@pytest.mark.parametrize("reply", [Lack("no PyTorch"), answer("unable", "no PyTorch")])
def test_what_the_machine_of_any_lacks_moves_the_run_away_from_that_one(reply: Reply) -> None:
    assert seen(Seen(dead="it is gone"), two=reply).lack == "no PyTorch"
    found = lacking(TWO, {"run-1-1-rank-1": answer(), "run-1-1-rank-2": reply})
    assert found is not None and found.machine == "node-2"
    assert lacking(TWO, {"run-1-1-rank-1": answer(), "run-1-1-rank-2": answer()}) is None


def test_the_end_that_the_first_one_tells_stands() -> None:
    finished = Seen(status=answer("finished").status)
    assert seen(finished, one=Death("killed"), two=answer("failed", "late")) == finished


@pytest.mark.parametrize("reply", [Death("killed"), answer("failed", "its GPU is gone")])
def test_what_becomes_of_the_others_while_the_first_one_saves_for_the_last_time_does_not_matter(
    reply: Reply,
) -> None:
    for saving in (Seen(status=replace(answer().status, trained=True)), Seen(silent_seconds=1.0)):
        answers: dict[str, Reply] = {"run-1-1-rank-1": reply, "run-1-1-rank-2": answer()}
        assert seen_with(TWO, saving, answers, trained=True) == saving
        assert seen_with(TWO, saving, answers, trained=False) != saving


def test_the_hosts_and_gpus_of_all_are_shown_by_rank() -> None:
    first = ProgressFields(host="a", devices=("0", "1"), epoch=2)
    others = [follower(1, host="b", devices=("0",)), follower(2, host="b", devices=("1",)), follower(3)]
    assert fields_of_all(first, others) == {"host": "a, b", "devices": ("0", "1", "0", "1"), "epoch": 2}
