"""`queue`, `show`, `status` and the plain facts about every command."""

from __future__ import annotations

import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_harness import TINY, Lab
from patience import PATIENCE

from runner import exits
from runner.cli import app
from runner.states import State

COMMANDS = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]

PRINT_WHAT_IS_IMPORTED = """
import sys
from runner.cli import main
for command in sys.argv[1:]:
    sys.argv = ["runner", *command.split()]
    try:
        main()
    except SystemExit as end:
        print(command, end.code)
print({"ray", "torch", "mlflow", "numpy"} & set(sys.modules))
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Lab]:
    lab = Lab(tmp_path, monkeypatch, capsys)
    yield lab
    lab.close()


def cells(line: str) -> list[str]:
    return re.split(r"  +", line.strip())


def test_queue_shows_what_waits_runs_and_has_ended(lab: Lab) -> None:
    lab.serve(gpus=1)
    finished = lab.ended(accuracy=0.98765)
    running, waiting, greedy = lab.submit(), lab.submit(), lab.submit(TINY + "runner: {cpus: 999}\n")
    lab.start(running, gpus=1)
    lab.report(running, epoch=3, step=10, steps_per_epoch=20, loss=0.5, seconds_left=185.0, devices=("0",))
    done = lab.call("queue")
    titles, *lines = done.out.splitlines()
    names = ["RUN", "NAME", "STATE", "EPOCH", "ACCURACY", "GPU", "LEFT", "AGE", "CHANGES", "NOTE"]
    assert cells(titles) == names
    rows = {int(line.split()[0]): cells(line) for line in lines}
    assert rows[finished][:6] == ["1", "tiny", "FINISHED", "10/10", "98.77%", "cpu"]
    assert rows[running][2:7] == ["RUNNING", "2.5/10", "-", "gpu 0", "3m 05s"]
    assert rows[waiting][2:6] == ["QUEUED", "0/10", "-", "auto"]
    assert rows[waiting][-1] == "needs 1 GPU, next in line"
    assert rows[greedy][-1] == "needs 999 cores, the largest machine has 2: can never start"
    assert done.code == 0


@pytest.mark.parametrize(
    ("beat", "note"),
    [
        ("machines = NULL", "needs 1 GPU, next in line"),  # of the version that knew one machine alone
        ("machines = NULL, cores = 0, gpus = 0", "no machine is up"),
        ("machines = NULL, cores = NULL, gpus = NULL", "starts next"),  # it has begun this moment
    ],
)
def test_queue_says_why_a_run_waits_by_what_the_scheduler_has_said(lab: Lab, beat: str, note: str) -> None:
    lab.serve(gpus=1)
    lab.submit(TINY + "runner: {gpus: 1}\n")
    with sqlite3.connect(lab.home.database) as database:
        database.execute(f"UPDATE queue SET {beat}")
    assert cells(lab.call("queue").out.splitlines()[1])[-1] == note


def test_queue_says_when_no_scheduler_runs(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.serve()
    lab.submit()
    lab.leave()
    done = lab.call("queue")
    assert "no scheduler runs: `python -m runner up`" in done.out
    assert done.err == "no scheduler runs: `python -m runner up` starts it\n"


def test_queue_leaves_out_old_ended_runs_and_says_how_many(lab: Lab) -> None:
    lab.serve()
    first = lab.submit()
    lab.call("cancel", first)
    lab.call("submit", *[lab.file()] * 24, "--json")
    lab.call("cancel", *range(2, 24))
    done = lab.call("ls")
    assert [int(line.split()[0]) for line in done.out.splitlines()[1:]] == [*range(4, 26)]
    assert done.err == "3 older ended runs not shown: `python -m runner queue --all`\n"
    assert len(json.loads(lab.call("queue", "--json").out)) == 22
    assert len(json.loads(lab.call("queue", "--all", "--json").out)) == 25


def test_queue_without_a_home_is_one_line(lab: Lab) -> None:
    done = lab.process("queue")
    assert done.code == exits.USAGE
    assert done.out == ""
    assert "there is no queue yet" in done.err and done.err.count("\n") == 1


def test_queue_of_a_home_without_runs_says_how_to_begin(lab: Lab) -> None:
    lab.serve()
    done = lab.call("queue")
    assert (done.code, done.out) == (0, "")
    assert "submit experiments/quickstart.yaml" in done.err
    assert json.loads(lab.call("queue", "--json").out) == []


def test_json_holds_no_number_that_json_lacks(lab: Lab) -> None:
    lab.serve()
    number = lab.submit()
    lab.start(number)
    lab.report(number, epoch=1, loss=float("nan"), seconds_left=float("inf"), metrics={"a": float("-inf")})
    row = json.loads(lab.call("queue", "--json").out, parse_constant=pytest.fail)[0]
    assert (row["loss"], row["seconds_left"], row["metrics"]) == (None, None, {"a": None})


def test_a_reader_that_leaves_early_is_no_error(lab: Lab) -> None:
    lab.serve()
    lab.call("submit", *[lab.file()] * 500)
    words = " ".join([sys.executable, "-m", "runner", "queue", "|", "head", "-1"])
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.startswith("RUN")
    hint = "450 later queued runs not shown: `python -m runner queue --all`\n"
    assert done.stderr in ("", hint)  # no hint if the reader left before the table's end


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_only_on_a_terminal_that_wants_them(lab: Lab, variables: dict[str, str]) -> None:
    lab.serve()
    lab.ended()
    shown = on_a_terminal(lab.command("queue"), variables)
    assert "FINISHED" in shown
    assert ("\x1b[32m" in shown) is (not variables)


def test_no_colours_in_a_pipe(lab: Lab) -> None:
    lab.serve()
    lab.ended()
    assert "\x1b" not in lab.process("queue", TERM="xterm-256color").out


def on_a_terminal(command: list[str], variables: dict[str, str]) -> str:
    """Run a command on a terminal and return what it prints."""
    ours, theirs = pty.openpty()
    plain = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    environment = {**plain, "TERM": "xterm-256color", "COLUMNS": "120", **variables}
    with subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        shown = b""
        while piece := read(ours):
            shown += piece
    os.close(ours)
    return shown.decode()


def read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # what Linux says when the other end of a terminal is closed
        return b""


def test_a_long_reason_is_cut_in_the_table_and_whole_in_show_once(lab: Lab) -> None:
    lab.serve()
    number, reason = lab.submit(), "a file is missing: " + "x" * 200
    lab.start(number)
    lab.end(number, State.FAILED, reason)
    (_, line) = lab.call("queue").out.splitlines()
    assert line.endswith("xxx...") and len(line) < 200
    assert lab.call("show", number).out.count(reason) == 1


def test_show_tells_all_about_a_run(lab: Lab) -> None:
    lab.serve()
    number = lab.submit()
    lab.start(number)
    lab.report(number, epoch=4, step=7, steps_per_epoch=11, loss=0.25, host="bench", pid=4711, devices=("1",))
    lab.report(number, from_epoch=0, from_step=0, computes="tf32 on the GPU, steps compiled")
    lab.lose(number, "its process was killed")
    lab.start(number)
    assert lab.run(number).computes is None
    lab.report(number, from_epoch=3, from_step=5, computes="float32 on the CPU, 2 threads, steps compiled")
    lab.report(number, epoch=4, loss=0.25, durable_epoch=3, durable_step=7, metrics={"test/accuracy": 0.5})
    checkpoint = lab.home.run(number, "tiny").attempt(1).checkpoint
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"x")
    lab.store.bind(number, None, "abc")
    lab.store.published(number, epoch=3, error="the server is away")
    shown = re.sub(r"\b\d+s\b", "0s", lab.call("show", number).out)
    parts = {line[:11].strip(): line[12:] for line in shown.splitlines()}
    assert parts["run"] == "1 (tiny)"
    assert parts["state"] == "RUNNING"
    assert parts["progress"].startswith("3/10 epochs, loss 0.2500")
    assert parts["source"] == f"{lab.folder}/tiny.yaml, submitted in {lab.folder}"
    assert parts["checkpoint"] == f"{checkpoint}, 0s old, 3 epochs, step 7"
    assert parts["mlflow"] == "abc, published up to epoch 3; `python -m runner ui`; the server is away"
    assert parts["computes"] == "float32 on the CPU, 2 threads, steps compiled"
    first = "lost: its process was killed; started 0s ago from the beginning, took 0s, on bench, GPU 1"
    assert f"  1  {first}" in shown
    assert "  2  goes on; started 0s ago from epoch 4, step 5, took 0s, on -, 2 cores" in shown
    attempts = json.loads(lab.call("show", number, "--json").out)["attempts"]
    begun = [(each["from_epoch"], each["from_step"], each["computes"].split()[0]) for each in attempts]
    assert begun == [(0, 0, "tf32"), (3, 5, "float32")]


def test_show_does_not_show_the_password_of_the_tracking_server(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.serve()
    number = lab.submit()
    lab.store.bind(number, None, "abc")
    lab.store.published(number, epoch=3)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:secret@lab:5000")
    shown = lab.call("show", number).out
    assert "http://lab:5000/#/runs/abc" in shown
    assert "secret" not in shown


def test_show_json_has_the_configuration_and_the_attempts(lab: Lab) -> None:
    lab.serve()
    number = lab.ended(State.FAILED)
    shown = json.loads(lab.call("show", "tiny", "--json").out)
    assert (shown["id"], shown["state"], shown["checkpoint"]) == (number, "FAILED", None)
    assert shown["config"]["num_epochs"] == 10
    assert [(one["number"], one["outcome"]) for one in shown["attempts"]] == [(1, "failed")]


def test_a_worker_that_does_not_answer_is_shown(lab: Lab) -> None:
    lab.serve()
    number = lab.submit()
    lab.start(number)
    lab.report(number, seconds_ago=40, epoch=1)
    for command in (("show", number), ("queue",)):
        assert re.search(r"not answering since 4\ds", lab.call(*command).out)


def test_a_run_is_named_by_number_or_by_a_name_that_only_it_has(lab: Lab) -> None:
    lab.serve()
    lab.call("submit", lab.file("a.yaml"), lab.file("b.yaml"), lab.file("b.yaml"))
    assert lab.call("show", "a").out.startswith("run         1 (a)")
    two = lab.call("show", "b")
    which = "say which by its number, or name:b for all"
    assert (two.code, two.err) == (2, f"2 runs are named 'b': 2 and 3; {which}\n")
    for unknown in ("7", "c", str(10**30), os.fsdecode(b"\xff")):
        done = lab.call("show", unknown)
        assert done.code == exits.USAGE
        assert done.err.startswith("there is no run ") and done.err.count("\n") == 1


def test_queue_status_and_the_end_of_a_wait_say_that_a_run_could_not_be_published(lab: Lab) -> None:
    lab.serve()
    away = "http://lab:5000: [Errno 111] Connection refused"
    first, second, fine = lab.ended(), lab.ended(State.FAILED), lab.ended()
    for number in (first, second):
        lab.store.published(number, error=away)
    lab.store.published(fine, epoch=10, state=State.FINISHED)
    said = f"not published to MLflow: {away}"
    listed = lab.call("queue").out.splitlines()
    assert [line.endswith(said) for line in listed] == [False, True, True, False]
    assert json.loads(lab.call("queue", "--json").out)[0]["note"] == said
    assert f"; 2 runs not published: {away}\n" in lab.call("status").out
    assert json.loads(lab.call("status", "--json").out)["publish_errors"] == {away: 2}
    assert lab.call("wait", first).err.endswith(f"; {said}; 10/10 epochs\n")
    assert said in lab.call("watch", second).out
    assert said not in lab.call("wait", fine).err
    lab.store.published(first, epoch=10, state=State.FINISHED)
    assert lab.call("wait", first).err.endswith("FINISHED after 0s; 10/10 epochs\n")


def test_status_says_what_is_up(lab: Lab) -> None:
    lab.serve(gpus=4)
    lab.submit()
    done = lab.call("status")
    parts = {line[:10].strip(): line[11:] for line in done.out.splitlines()}
    assert parts["scheduler"].startswith("up, pid 1 on bench")
    assert parts["runs"] == "1 QUEUED"
    found = json.loads(lab.call("status", "--json").out)
    assert found["scheduler"]["alive"] is True
    assert found["runs"]["QUEUED"] == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(lab: Lab, command: str) -> None:
    done = lab.call(command, "--help")
    assert done.code == 0
    assert re.search(
        rf"Examples?:\n    .*python -m runner {'queue' if command == 'ls' else command}", done.out
    )
    assert "Exit codes: 0 " in done.out


def test_the_list_of_commands_cuts_none_short(lab: Lab) -> None:
    listed = lab.call("--help").out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == [command for command in COMMANDS if command != "ls"]
    assert all(re.search(r"[.)]$", line) and not line.endswith("...") for line in listed)


def test_a_home_that_cannot_be_made_is_one_line(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = lab.file("blocked", "a file") / "home"
    monkeypatch.setenv("RUNNER_HOME", str(blocked))
    done = lab.call("submit", lab.file())
    assert done.code == exits.USAGE
    assert done.err.startswith(f"{blocked}") and done.err.count("\n") == 1


def test_a_damaged_database_is_one_line(lab: Lab) -> None:
    lab.home.root.mkdir()
    lab.home.database.write_bytes(b"no database " * 500)
    done = lab.process("queue")
    assert done.code == exits.USAGE
    assert "is not a database" in done.err and done.err.count("\n") == 1


def test_everyday_commands_import_nothing_heavy(lab: Lab) -> None:
    lab.serve()
    lab.submit()
    commands = [
        "queue",
        "show 1",
        "submit tiny.yaml",
        "interrupt 1",
        "resume 1",
        "wait 1 --timeout 0",
        "status",
    ]
    command = [sys.executable, "-c", PRINT_WHAT_IS_IMPORTED, *commands]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE).stdout.splitlines()
    assert {f"{command} 0" for command in commands if "wait" not in command} <= set(lines)
    assert lines[-1] == "set()"


@pytest.mark.parametrize("json", [(), ("--json",)])
def test_a_list_that_finds_no_room_is_one_line(lab: Lab, json: tuple[str, ...]) -> None:
    lab.serve()
    lab.submit()
    with Path("/dev/full").open("w") as full:
        command = lab.command("queue", *json)
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == exits.USAGE
    assert done.stderr == "standard output cannot be written: No space left on device\n"
