"""Naming several runs: by ranges, patterns and --all, and the filters of `queue`."""

from __future__ import annotations

import json
import os
import pty
import subprocess

import pytest
from cli_harness import TINY, Lab
from patience import PATIENCE

from runner import exits
from runner.states import State


def listed(lab: Lab, *words: object) -> list[int]:
    """The numbers of the runs that `queue` lists."""
    done = lab.call("queue", *words, "--json")
    assert done.code == 0, done.err
    numbers = [run["id"] for run in json.loads(done.out)]
    shown = [int(line.split()[0]) for line in lab.call("queue", *words).out.splitlines()[1:]]
    assert shown == numbers
    return numbers


@pytest.fixture
def sweep(lab: Lab) -> Lab:
    """Runs 1 to 4 of the names a, mnist_1, mnist_2 and b; 1 is CANCELLED, 3 has the tag paper=x."""
    for name in ("a", "mnist_1", "mnist_2", "b"):
        text = TINY + ("runner: {tags: {paper: x}}\n" if name == "mnist_2" else "")
        assert lab.call("submit", lab.file(f"{name}.yaml", text)).code == 0
    lab.call("cancel", 1)
    return lab


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (["3"], [3]),
        (["2-3"], [2, 3]),
        (["3-99"], [3, 4]),
        (["name:mnist_*"], [2, 3]),
        (["name:b", "2", "2-3"], [4, 2, 3]),
        (["b", "name:[am]*"], [4, 1, 2, 3]),
    ],
)
def test_runs_are_named_by_numbers_ranges_names_and_patterns(
    sweep: Lab, words: list[str], numbers: list[int]
) -> None:
    done = sweep.call("show", *words, "--json")
    found = json.loads(done.out)
    assert [run["id"] for run in (found if isinstance(found, list) else [found])] == numbers
    assert isinstance(found, list) is (words != ["3"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("8-9", "there is no run from 8 to 9: "),
        ("3-2", "3-2: the lower number comes first, as in 2-3\n"),
        ("name:nosuch*", "there is no run whose name is like 'nosuch*': "),
        ("9" * 5000, "there is no run 999"),
        ("9" * 5000 + "-" + "9" * 5001, "there is no run from "),
    ],
)
def test_what_names_no_run_is_one_line(sweep: Lab, word: str, said: str) -> None:
    done = sweep.call("show", word)
    assert done.code == exits.USAGE
    assert done.err.startswith(said) and done.err.count("\n") == 1


def test_show_prints_one_run_after_the_other(sweep: Lab) -> None:
    shown = sweep.call("show", "2-3").out
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("run  ")] == ["2", "3"]


@pytest.mark.parametrize(("command", "state"), [("interrupt", "INTERRUPTED"), ("cancel", "CANCELLED")])
def test_all_that_run_or_wait_are_stopped_after_a_question(sweep: Lab, command: str, state: str) -> None:
    asked = sweep.call(command, "--all")
    assert asked.code == exits.USAGE
    assert asked.err == f"{command} 3 runs (3 QUEUED)? Nobody can answer without a terminal: add --yes\n"
    assert sweep.run(2).state is State.QUEUED
    done = sweep.call(command, "--all", "--yes")
    assert done.code == 0
    assert done.err == f"runs 2, 3 and 4 are {state}; `python -m runner resume 2-4` queues them again\n"
    again = sweep.call(command, "--all", "--yes")
    assert (again.code, again.err.split(":")[0]) == (exits.USAGE, f"there is nothing to {command}")


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", exits.USAGE)])
def test_the_question_is_asked_on_a_terminal(sweep: Lab, answer: str, code: int) -> None:
    ours, theirs = pty.openpty()
    command = sweep.command("cancel", "--all")
    with subprocess.Popen(command, stdin=theirs, stderr=subprocess.PIPE, text=True) as process:
        os.write(ours, f"{answer}\n".encode())
        said = process.communicate(timeout=PATIENCE)[1]
    os.close(ours)
    os.close(theirs)
    assert "cancel 3 runs (3 QUEUED)? [y/N]" in said
    assert process.returncode == code
    assert (sweep.run(4).state is State.CANCELLED) is (answer == "y")


def test_resume_all_takes_what_was_stopped_or_failed_and_not_what_was_cancelled(lab: Lab) -> None:
    numbers = [
        lab.ended(state) for state in (State.INTERRUPTED, State.FAILED, State.CANCELLED, State.FINISHED)
    ]
    done = lab.call("resume", "--all", "--yes", "--json")
    assert (done.code, [run["id"] for run in json.loads(done.out)]) == (0, numbers[:2])
    assert done.err == "runs 1 and 2 are queued again; `python -m runner watch 1-2` shows them\n"
    assert [lab.run(number).state for number in numbers[2:]] == [State.CANCELLED, State.FINISHED]


def test_resume_queues_those_that_can_go_on_and_says_why_of_the_others(lab: Lab) -> None:
    failed, finished, queued = lab.ended(State.FAILED), lab.ended(), lab.submit()
    done = lab.call("resume", "1-3")
    assert done.code == exits.PARTLY
    assert done.err.splitlines() == [
        "run 1 is queued again; `python -m runner watch 1` shows it",
        "run 3 is QUEUED: only an ended run can be resumed",
        "run 2: it is FINISHED and goes on only with more than 10 epochs: add --set num_epochs=20",
    ]
    assert lab.run(failed).state is State.QUEUED and lab.run(finished).state is State.FINISHED
    assert lab.run(queued).state is State.QUEUED


def test_a_setting_that_is_refused_is_said_once_however_many_runs_are_named(lab: Lab) -> None:
    for _ in range(2):
        lab.ended(State.FAILED)
    done = lab.call("resume", "1-2", "--set", "seed=3")
    assert (done.code, done.err.count("\n")) == (exits.USAGE, 1)


@pytest.mark.parametrize("command", ["interrupt", "cancel", "resume", "rm"])
@pytest.mark.parametrize(
    ("words", "said"), [([], "say which run to "), (["1", "--all"], "--all is of all runs")]
)
def test_either_runs_are_named_or_all(sweep: Lab, command: str, words: list[str], said: str) -> None:
    done = sweep.call(command, *words)
    assert done.code == exits.USAGE
    assert done.err.startswith(said) and done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (["--state", "cancelled"], [1]),
        (["--state", "CANCELLED", "--state", "queued"], [1, 2, 3, 4]),
        (["--name", "mnist_*"], [2, 3]),
        (["--name", "mnist_*", "--name", "b"], [2, 3, 4]),
        (["--tag", "paper=x"], [3]),
        (["--tag", "paper"], [3]),
        (["--tag", "paper=y"], []),
        (["--since", "2d"], [1, 2, 3, 4]),
        (["--since", "2d", "--state", "queued", "--name", "[!m]*"], [4]),
    ],
)
def test_queue_lists_the_runs_that_meet_all_options(sweep: Lab, words: list[str], numbers: list[int]) -> None:
    assert listed(sweep, *words) == numbers


def test_queue_lists_every_run_that_is_asked_for_however_many(lab: Lab) -> None:
    lab.call("submit", *[lab.file()] * 80)
    lab.call("cancel", "1-30")
    assert listed(lab, "--state", "cancelled") == [*range(1, 31)]
    done = lab.call("queue", "--state", "queued")
    assert len(done.out.splitlines()) == 51 and "not shown" not in done.err


@pytest.mark.parametrize("words", [["--since", "long"], ["--state", "ended"]])
def test_an_option_that_asks_for_nothing_that_there_is_is_an_error(sweep: Lab, words: list[str]) -> None:
    done = sweep.call("queue", *words)
    assert done.code == exits.USAGE
    assert words[1] in done.err


def test_logs_of_several_runs_say_whose_they_are(lab: Lab) -> None:
    for number in (lab.ended(), lab.ended()):
        log = lab.home.run(number, "tiny").attempt(1).log
        log.parent.mkdir(parents=True)
        log.write_text(f"line of {number}\n")
    done = lab.call("logs", "1-2")
    assert done.out == "=== run 1 (tiny) ===\nline of 1\n=== run 2 (tiny) ===\nline of 2\n"
    assert lab.call("logs", 1).out == "line of 1\n"
    followed = lab.call("logs", "1-2", "--follow")
    assert followed.code == exits.USAGE
    assert followed.err == "--follow is of one run: `python -m runner watch` looks on at several\n"


def test_watch_takes_several_runs(lab: Lab) -> None:
    for state in (State.FINISHED, State.FAILED):
        lab.ended(state)
    lab.submit()
    done = lab.call("watch", "1-2")
    assert done.code == exits.FAILED
    assert "run 1 (tiny) is FINISHED" in done.out and "run 2 (tiny) is FAILED" in done.out
    assert "run 3" not in done.out


def test_code_of_several_runs_is_written_side_by_side(lab: Lab) -> None:
    for _ in range(2):
        lab.submit()
    assert [one["id"] for one in json.loads(lab.call("code", "1-2", "--json").out)] == [1, 2]
    assert lab.call("code", "1-2", "--output", "codes").code == 0
    for number in (1, 2):
        assert (lab.folder / f"codes/{number}/capsnet/capsules.py").exists()
    assert [line for line in lab.call("code", "1-2").out.splitlines() if line.startswith("run ")] == [
        "run        1",
        "run        2",
    ]
