"""`rm` and `prune`: the files that they delete and keep, and their questions before."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import subprocess
from pathlib import Path

import pytest
from cli_harness import TINY, Lab
from patience import PATIENCE

from runner import exits
from runner.commands.cleanup import best, prunable
from runner.states import State


def with_files(lab: Lab, number: int, size: int = 3_000_000) -> Path:
    """Give a run a folder with a checkpoint."""
    run = lab.run(number)
    checkpoint = lab.home.run(run.id, run.name).attempt(1).checkpoint
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(os.urandom(size))
    return lab.home.run(run.id, run.name).folder


def published(lab: Lab, number: int) -> int:
    lab.store.published(number, epoch=10, state=lab.run(number).state)
    return number


def test_rm_deletes_the_run_and_its_folder_and_says_what_it_freed(lab: Lab) -> None:
    gone, kept = published(lab, lab.ended()), lab.ended()
    folder, other = with_files(lab, gone), with_files(lab, kept)
    done = lab.call("rm", gone, "--yes")
    assert done.code == 0
    assert done.err == "deleted run 1, freed 3.0 MB\n"
    assert lab.store.run(gone) is None and not folder.exists()
    assert lab.store.run(kept) is not None and other.exists()


def test_rm_without_a_terminal_and_without_yes_refuses_in_one_line(lab: Lab) -> None:
    folder = with_files(lab, published(lab, lab.ended()))
    done = lab.call("rm", 1)
    assert done.code == exits.USAGE
    assert done.err == ("delete run 1 and free 3.0 MB? Nobody can answer without a terminal: add --yes\n")
    assert folder.exists() and lab.store.run(1) is not None


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", exits.USAGE)])
def test_rm_asks_on_a_terminal(lab: Lab, answer: str, code: int) -> None:
    folder = with_files(lab, lab.ended())
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        lab.command("rm", "tiny"), stdin=theirs, stderr=subprocess.PIPE, text=True
    ) as process:
        os.write(ours, f"{answer}\n".encode())
        said = process.communicate(timeout=PATIENCE)[1]
    os.close(ours)
    os.close(theirs)
    assert "delete run 1 (MLflow does not have all of 1 yet) and free 3.0 MB? [y/N]" in said
    assert process.returncode == code
    assert folder.exists() is (answer == "n")


def test_rm_with_yes_alone_refuses_what_mlflow_lacks_and_says_why(lab: Lab) -> None:
    whole, behind = published(lab, lab.ended()), lab.ended()
    lab.store.published(behind, error="the server is away")
    done = lab.call("rm", whole, behind, "--yes")
    assert done.code == exits.PARTLY
    assert done.err.splitlines() == [
        "MLflow does not have all of run 2 yet (the server is away); --unpublished deletes it all the same",
        "deleted run 1, freed 0.0 MB",
    ]
    assert [run.id for run in lab.store.runs()] == [behind]
    assert lab.call("rm", behind, "--yes", "--unpublished").code == exits.OK
    assert lab.store.runs() == []


def test_prune_takes_what_mlflow_lacks_where_it_is_asked_to(lab: Lab) -> None:
    lab.ended()
    assert lab.call("prune", "--yes").err.endswith("nothing to delete\n")
    assert lab.call("prune", "--yes", "--unpublished").err == "deleted run 1, freed 0.0 MB\n"


def test_rm_says_which_runs_have_not_ended_and_deletes_the_others(lab: Lab) -> None:
    ended, queued, other = published(lab, lab.ended()), lab.submit(), lab.submit()
    done = lab.call("rm", f"{ended}-{other}", "--yes")
    assert done.code == exits.PARTLY
    assert done.err.splitlines() == [
        "runs 2 and 3 are QUEUED: `python -m runner cancel 2-3` first",
        "deleted run 1, freed 0.0 MB",
    ]
    assert [run.id for run in lab.store.runs()] == [queued, other]


def test_rm_of_unfinished_runs_alone_deletes_nothing(lab: Lab) -> None:
    queued = lab.submit()
    done = lab.call("rm", queued, "--yes")
    assert (done.code, done.err) == (exits.USAGE, "run 1 is QUEUED: `python -m runner cancel 1` first\n")
    assert [run.id for run in lab.store.runs()] == [queued]


def test_rm_of_all_that_have_ended_asks_once_and_leaves_the_others(lab: Lab) -> None:
    first, queued, second = published(lab, lab.ended()), lab.submit(), published(lab, lab.ended(State.FAILED))
    done = lab.call("rm", "--all")
    assert done.code == exits.USAGE
    assert done.err.startswith("delete runs 1 and 3 ") and "add --yes" in done.err
    assert lab.call("rm", "--all", "--yes").code == 0
    assert [run.id for run in lab.store.runs()] == [queued]
    assert {first, second} == {1, 3}


def test_prune_keeps_a_run_whose_newest_note_mlflow_lacks(lab: Lab) -> None:
    number = published(lab, lab.ended())
    lab.call("note", number, "worth a look")
    done = lab.call("prune", "--yes")
    assert f"kept, for MLflow does not have all of them yet (see --unpublished): {number}\n" in done.err
    assert [run.id for run in lab.store.runs()] == [number]


def test_prune_keeps_what_may_go_on_and_what_mlflow_lacks(lab: Lab) -> None:
    finished = published(lab, lab.ended())
    cancelled_early = lab.submit()
    lab.call("cancel", cancelled_early)
    interrupted = published(lab, lab.ended(State.INTERRUPTED))
    unpublished, queued = lab.ended(State.FAILED), lab.submit()
    done = lab.call("prune", "--yes", "--json")
    assert done.code == 0
    assert [row["id"] for row in json.loads(done.out)] == [finished, cancelled_early]
    assert f"kept, for MLflow does not have all of them yet (see --unpublished): {unpublished}\n" in done.err
    assert [run.id for run in lab.store.runs()] == [interrupted, unpublished, queued]


def test_prune_by_age_takes_only_what_ended_long_ago(lab: Lab) -> None:
    published(lab, lab.ended())
    done = lab.call("prune", "--older-than", "30d", "--yes")
    assert (done.code, done.err) == (0, "nothing to delete\n")
    assert lab.call("prune", "--older-than", "0s", "--yes").err == "deleted run 1, freed 0.0 MB\n"


def test_prune_refuses_an_age_that_is_none(lab: Lab) -> None:
    done = lab.call("prune", "--older-than", "a while", "--yes")
    assert done.code == exits.USAGE
    assert done.err == "--older-than: 'a while' is not a duration: write 90s, 45m, 12h, 30d or 2w\n"


def test_prune_keep_best_keeps_the_best_of_each_name(lab: Lab) -> None:
    other = "name: other\n" + TINY
    for text, accuracy in ((TINY, 0.8), (TINY, 0.9), (TINY, 0.9), (other, 0.1), (other, None)):
        published(lab, lab.ended(accuracy=accuracy, text=text))
    assert lab.call("prune", "--keep-best", "--yes").code == 0
    assert [run.id for run in lab.store.runs()] == [2, 4]


def test_the_best_may_be_a_run_that_is_kept_anyway_and_runs_without_accuracy_have_no_best(lab: Lab) -> None:
    worse, leader = lab.run(lab.ended(accuracy=0.5)), lab.run(lab.ended(State.INTERRUPTED, accuracy=0.6))
    blank = dataclasses.replace(worse, id=9, name="blank", accuracy=None)
    assert best([worse, leader, blank]) == [leader]
    assert prunable([worse, leader, blank], ended_before=1e12, keep_best=True) == [worse, blank]
