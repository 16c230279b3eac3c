"""`tag` and `note`: the user's words about runs at any time, stored in the queue."""

from __future__ import annotations

import json

import pytest
from cli_harness import TINY, Lab

from runner import exits
from runner.states import State
from runner.tags import LONGEST

TAGGED = TINY + "runner: {tags: {paper: a, seen: 'yes'}}\n"


def test_a_run_of_any_state_gets_tags_and_loses_them(lab: Lab) -> None:
    ended, running, waiting = lab.ended(text=TAGGED), lab.submit(), lab.submit()
    lab.start(running)
    done = lab.call("tag", "1-3", "paper=b", "kind=x y", "seen=")
    assert (done.code, done.out) == (0, "")
    assert done.err == "runs 1, 2 and 3 have paper=b, kind=x y and no tag seen\n"
    for number in (ended, running, waiting):
        assert lab.run(number).tags == {"paper": "b", "kind": "x y"}
    assert lab.call("tag", ended, "--remove", "paper", "--remove", "kind").code == 0
    assert lab.run(ended).tags == {}


def test_a_note_takes_the_place_of_the_one_before_and_an_empty_one_takes_it_away(lab: Lab) -> None:
    number = lab.ended(State.FAILED)
    assert lab.call("note", number, "diverges").err == "run 1 has a note of 8 characters\n"
    lab.call("note", number, "diverges from epoch 7 on\nthe rate is too high")
    shown = lab.call("show", number).out
    assert "note        diverges from epoch 7 on\n            the rate is too high\n" in shown
    assert json.loads(lab.call("queue", "--json").out)[0]["user_note"].startswith("diverges from epoch 7")
    assert lab.call("note", number, "").err == "run 1 has no note\n"
    assert lab.run(number).user_note is None


def test_json_has_the_runs_as_they_are_then(lab: Lab) -> None:
    for _ in range(2):
        lab.submit()
    tagged = json.loads(lab.call("tag", "1-2", "a=b", "--json").out)
    assert [(run["id"], run["tags"]) for run in tagged] == [(1, {"a": "b"}), (2, {"a": "b"})]
    [noted] = json.loads(lab.call("note", 2, "x", "--json").out)
    assert (noted["id"], noted["user_note"], noted["tags"]) == (2, "x", {"a": "b"})


def test_every_change_is_counted_for_the_publisher_and_what_changes_nothing_is_not(lab: Lab) -> None:
    number = lab.ended(text=TAGGED)
    lab.store.published(number, epoch=10, state=State.FINISHED)
    assert not lab.store.anything_unpublished()
    for words in (["tag", "1", "paper=a"], ["tag", "1", "nosuch="], ["note", "1", ""]):
        assert lab.call(*words).code == 0
    assert lab.run(number).annotations == 0
    lab.call("tag", number, "paper=b")
    lab.call("note", number, "x")
    assert lab.run(number).annotations == 2
    assert [run.id for run in lab.store.behind(after=0, at_most=9)] == [number]
    assert not lab.run(number).is_published


def test_the_user_is_told_when_nobody_publishes(lab: Lab) -> None:
    number = lab.submit()
    lab.leave()
    for words in (["tag", number, "a=b"], ["note", number, "x"]):
        assert "MLflow gets it when a scheduler runs: `python -m runner up`" in lab.call(*words).err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tag", "1"], "name runs and tags, as in `python -m runner tag 3 paper=table-2`"),
        (["tag", "a=b"], "name runs and tags"),
        (["tag", "1", "a:b=c"], "'a:b': the key of a tag must be at most 200 letters"),
        (["tag", "1", "host=x"], "'host': a run has this tag by itself: choose another key"),
        (["tag", "1", "runner.id=x"], "'runner.id': a run has this tag by itself"),
        (["tag", "1", "mlflow.note.content=x"], "`python -m runner note` writes the description"),
        (["tag", "1", "a=1", "a=2"], "a tag is named twice"),
        (["tag", "1", "a=1", "--remove", "a"], "a tag is named twice"),
        (["tag", "1", f"a={'x' * (LONGEST + 1)}"], "'a': its value must have at most 5,000 characters"),
        (["tag", "1", "a=\x1b[2J"], "'a': its value holds a sign that is no text: '\\x1b'"),
        (["tag", "9", "a=b"], "there is no run 9"),
        (["note", "1", "\x1b[2J"], "a note holds a sign that is no text: '\\x1b'"),
        (["note", "1", "\udcff"], "a note holds a sign that is no text: '\\udcff'"),
        (["note", "1", "x" * (LONGEST + 1)], "a note must have at most 5,000 characters (this has 5,001)"),
        (["note", "1", "--jsn"], "there is no option --jsn"),
        (["note", "1", "two", "words"], "there is no run 'two'"),
    ],
)
def test_what_cannot_be_written_is_one_line_and_changes_nothing(
    lab: Lab, words: list[str], said: str
) -> None:
    number = lab.submit(TAGGED)
    before = lab.run(number)
    done = lab.call(*words)
    assert (done.code, done.err.count("\n")) == (exits.USAGE, 1)
    assert said in done.err
    assert lab.run(number) == before


def test_a_note_may_begin_with_a_hyphen(lab: Lab) -> None:
    number = lab.submit()
    assert lab.call("note", number, "- has h and j in it").code == 0
    assert lab.run(number).user_note == "- has h and j in it"


def test_a_run_that_is_being_deleted_gets_neither_and_the_others_do(lab: Lab) -> None:
    going, kept = lab.ended(), lab.ended()
    lab.store.begin_removal([going], lab.store.now())
    for words in (["tag", "1-2", "a=$x"], ["note", "1-2", "costs $5"]):
        done = lab.call(*words)
        assert done.code == exits.PARTLY
        assert done.err.splitlines()[1] == "run 1 is being deleted: `python -m runner rm 1` finishes that"
    assert (lab.run(kept).tags, lab.run(kept).user_note) == ({"a": "$x"}, "costs $5")
    assert (lab.run(going).tags, lab.run(going).user_note) == ({}, None)
