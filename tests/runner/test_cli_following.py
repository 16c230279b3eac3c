"""`wait`, `watch`, `submit --follow` and `logs`: staying with runs, and leaving them without harm."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import s3
from cli_harness import Lab
from patience import PATIENCE, wait_until

from runner import exits
from runner.following import exit_code
from runner.object_storage import attempt_key
from runner.objects import Objects
from runner.states import State


@contextlib.contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Play the scheduler in a thread while a command follows a run; raise its errors afterwards."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            act()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield
    finally:
        thread.join(PATIENCE)
    assert not errors, errors


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["FINISHED"], 0),
        (["FINISHED", "FAILED", "CANCELLED", "INTERRUPTED"], 1),
        (["INTERRUPTED", "CANCELLED", "FINISHED"], 3),
        (["FINISHED", "INTERRUPTED"], 4),
        ([], 0),
    ],
)
def test_of_several_runs_the_worst_end_is_the_exit_code(states: list[str], code: int) -> None:
    assert exit_code(map(State, states)) == code


@pytest.mark.parametrize(
    ("state", "code"), [("FINISHED", 0), ("FAILED", 1), ("CANCELLED", 3), ("INTERRUPTED", 4)]
)
def test_wait_says_how_the_run_ended(lab: Lab, state: str, code: int) -> None:
    number = lab.submit()
    lab.start(number)
    with meanwhile(lambda: lab.end(number, State(state))):
        done = lab.call("wait", number)
    assert (done.code, done.out) == (code, "")
    reached = {
        "FINISHED": "10/10 epochs",
        "FAILED": "0/10 epochs; output: `python -m runner logs 1`",
    }.get(state, "0/10 epochs")
    assert re.fullmatch(rf"run 1 \(tiny\) is {state} after \d+s; {reached}\n", done.err)


def test_wait_gives_up_after_its_timeout(lab: Lab) -> None:
    ended, queued = lab.ended(), lab.submit()
    done = lab.call("wait", ended, queued, "--timeout", "0.3")
    assert done.code == exits.TIMED_OUT
    first, second = done.err.splitlines()
    assert first.startswith("run 1 (tiny) is FINISHED after ") and second == "run 2 (tiny) is still QUEUED"
    assert lab.call("wait", ended, "--timeout", "0").code == 0


def test_a_run_that_was_lost_goes_on_being_waited_for(lab: Lab) -> None:
    number = lab.submit()
    lab.start(number)

    def lose_and_finish() -> None:
        lab.lose(number, "its process was killed")
        lab.start(number)
        lab.end(number, State.FINISHED)

    with meanwhile(lose_and_finish):
        assert lab.call("wait", number).code == 0
    assert lab.run(number).attempt == 2


@pytest.mark.parametrize("words", [["wait", "1", "2"], ["watch", "1"], ["logs", "1", "-f"]])
def test_a_run_that_is_removed_meanwhile_has_no_good_end(lab: Lab, words: list[str]) -> None:
    lab.submit()
    lab.ended()
    with subprocess.Popen(
        lab.command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        wait_until(lambda: sleeping(process.pid))
        with contextlib.closing(sqlite3.connect(lab.home.database)) as connection, connection:
            connection.execute("DELETE FROM runs WHERE id = 1")  # ended and removed between two looks
        said = process.stderr.read()
    assert process.returncode == exits.USAGE
    assert said.startswith("run 1 was removed\n")


def test_submit_wait_prints_the_number_and_ends_as_the_run_does(lab: Lab) -> None:
    def fail() -> None:
        wait_until(lambda: lab.store.queue())
        lab.start(1)
        lab.end(1, State.FAILED, "loss is nan at epoch 3, step 117")

    with meanwhile(fail):
        done = lab.call("submit", lab.file(), "--wait")
    assert (done.code, done.out) == (exits.FAILED, "1\n")
    assert re.match(r"run 1 \(tiny\) is FAILED after \d+s: loss is nan at epoch 3, step 117; ", done.err)


HISTORY = """epoch,time,train/loss,validation/accuracy,test/accuracy
1,1.0,0.5,0.90,0.91
2,2.0,0.4,0.95,0.94
3,3.0,0.3,0.93,0.96
"""


@pytest.mark.parametrize("stay", ["wait", "watch", "--wait", "--follow"])
def test_who_stays_with_several_runs_gets_the_result_of_each_in_order(lab: Lab, stay: str) -> None:
    def train() -> None:
        wait_until(lambda: len(lab.store.queue()) == 2)
        for number in (1, 2):
            lab.start(number)
        lab.report(2, epoch=3, step=117, accuracy=0.5, computes="float32")
        lab.end(2, State.FAILED, "loss is nan at epoch 3, step 117")
        lab.report(1, epoch=3, step=4, accuracy=0.96, metrics={"test/accuracy": 0.96})
        history = lab.home.run(1, "one").attempt(1).history
        history.parent.mkdir(parents=True)
        history.write_text(HISTORY)
        lab.end(1, State.FINISHED)

    files = [lab.file(f"{name}.yaml") for name in ("one", "two")]
    words = ["submit", *files, stay] if stay.startswith("--") else [stay, 1, 2]
    if stay in ("wait", "watch"):
        assert lab.call("submit", *files).code == 0
    with meanwhile(train):
        done = lab.call(*words)
    assert done.code == exits.FAILED
    said = (done.out if stay == "watch" else done.err).splitlines()
    results = said[-3:-1] if stay in ("watch", "--follow") else said[-2:]
    assert re.fullmatch(
        r"run 1 \(one\) is FINISHED after \d+s; 10/10 epochs, test accuracy 96.00%, "
        r"best on validation: test accuracy 94.00% at epoch 2",
        results[0],
    )
    assert re.fullmatch(
        r"run 2 \(two\) is FAILED after \d+s: loss is nan at epoch 3, step 117; 0/10 epochs; "
        r"output: `python -m runner logs 2`",
        results[1],
    )


@pytest.mark.parametrize("stay", ["--wait", "--follow"])
def test_who_stays_with_a_run_that_can_never_start_is_told_so_once(lab: Lab, stay: str) -> None:
    said, why = lab.folder / "said.txt", "needs 999 cores, the largest machine has 2: can never start"
    command = lab.command("submit", lab.file(text="dataset: {name: digits}\nrunner: {cpus: 999}\n"), stay)
    with said.open("w") as file, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file) as process:
        try:
            wait_until(lambda: why in said.read_text(), why)
            lab.call("cancel", 1)
            assert process.wait(PATIENCE) == exits.CANCELLED
        finally:
            process.kill()
    assert said.read_text().count("can never start") == 1


def test_follow_without_a_terminal_is_plain_lines_and_then_the_result(lab: Lab) -> None:
    def train() -> None:
        wait_until(lambda: lab.store.queue())
        lab.start(1)
        lab.report(1, epoch=1, step=1, loss=1.5, images_per_second=1234.0, computes="float32")
        assert seen_training.wait(PATIENCE)
        metrics = {"train/loss": 0.5, "test/accuracy": 0.875, "test/loss": 0.25}
        lab.report(1, epoch=2, step=1, loss=0.4, accuracy=0.875, metrics=metrics)
        assert seen_epoch.wait(PATIENCE)
        lab.report(1, accuracy=0.975, metrics={"test/accuracy": 0.975, "test/loss": 0.0512})
        lab.end(1, State.FINISHED)

    seen_training, seen_epoch = threading.Event(), threading.Event()
    process = subprocess.Popen(
        lab.command("submit", lab.file(), "--follow"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr and process.stdout
    with meanwhile(train):
        lines = []
        for line in process.stderr:
            lines.append(line.rstrip("\n"))
            if "computes in float32" in line:
                seen_training.set()
            if "epoch 1/10 done" in line:
                seen_epoch.set()
        assert process.wait(PATIENCE) == 0
    assert process.stdout.read() == "1\n"
    assert [line for line in lines if " done" in line] == [
        "run 1 (tiny): epoch 1/10 done, loss 0.5000, test accuracy 87.50%, 1,234 images/s",
        "run 1 (tiny): epoch 10/10 done, test accuracy 97.50%, 1,234 images/s",
    ]
    assert not any("\r" in line or "\x1b" in line for line in lines)
    ending = next(line for line in lines if line.startswith("run 1 (tiny) is FINISHED after "))
    result = lines[lines.index(ending) + 1 :]
    assert [line.split(None, 2)[0] for line in result] == ["test", "test", "folder", "see", "compare", "go"]
    assert result[0].endswith(" 97.50%")
    assert result[2].endswith(str(lab.home.root / "1-tiny"))
    assert result[3].endswith("python -m runner ui")
    process.stderr.close()
    process.stdout.close()


def test_follow_on_a_terminal_draws_a_bar_with_all_its_numbers(lab: Lab) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    shown = bytearray()

    def train() -> None:
        wait_until(lambda: lab.store.queue())
        lab.start(1)
        lab.report(
            1,
            epoch=3,
            step=2,
            steps_per_epoch=4,
            loss=0.5,
            accuracy=0.9,
            images_per_second=812.0,
            seconds_left=65,
        )
        wait_until(lambda: b"812 images/s" in shown)
        lab.end(1, State.FINISHED)

    command = lab.command("submit", lab.file(), "-f")
    with (
        meanwhile(train),
        subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs),
    ):
        os.close(theirs)
        with contextlib.suppress(OSError):  # what Linux says when the other end of a terminal is closed
            while piece := os.read(ours, 1 << 16):
                shown += piece
    os.close(ours)
    text = shown.decode()
    for part in (
        "2.5/10 epochs",
        "loss 0.5000",
        "accuracy 90.00%",
        "812 images/s",
        "1:05 left",
        "is FINISHED",
    ):
        assert part in text


@pytest.mark.parametrize("words", [["watch", "1"], ["watch"], ["wait", "1"], ["logs", "1", "-f"]])
def test_ctrl_c_stops_looking_and_nothing_else(lab: Lab, words: list[str]) -> None:
    number = lab.submit()
    lab.start(number)
    lab.report(number, epoch=1, loss=1.0)
    log = lab.home.run(number, "tiny").attempt(1).log
    log.parent.mkdir(parents=True)
    log.write_text("hello\n")
    with subprocess.Popen(
        lab.command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        if words[0] != "wait":  # which says nothing
            process.stdout.readline()
        wait_until(lambda: sleeping(process.pid))
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == exits.STOPPED_LOOKING
    assert said.startswith("stopped ") and said.count("\n") == 1
    assert f"`python -m runner {' '.join(words)}` comes back" in said
    run = lab.run(number)
    assert (run.state, run.intent) == (State.RUNNING, None)


def sleeping(pid: int) -> bool:
    """Return whether the process, which has opened the database, pauses between two queries."""
    files = [link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    for _ in range(5):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state != "S" or "queue.db" not in files:
            return False
        time.sleep(0.01)
    return True


def test_watch_shows_the_whole_queue_until_nothing_is_left(lab: Lab) -> None:
    lab.ended()
    running = lab.submit()
    lab.start(running)
    waiting = lab.submit()
    with subprocess.Popen(
        lab.command("watch"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        first = [process.stdout.readline(), process.stdout.readline()]
        lab.end(running, State.FINISHED)
        lab.call("cancel", waiting)
        rest, hints = process.communicate(timeout=PATIENCE)
    assert first == [
        "run 2 (tiny) is RUNNING, attempt 1: starting\n",
        "run 3 (tiny) is QUEUED: needs 2 cores, next in line\n",
    ]
    finished, cancelled = rest.splitlines()
    assert finished.startswith("run 2 (tiny) is FINISHED after ")
    assert cancelled == "run 3 (tiny) is CANCELLED: cancelled while it waited"
    assert (process.returncode, hints) == (0, "nothing runs or waits any more\n")


def test_logs_prints_all_attempts_byte_for_byte(lab: Lab) -> None:
    number = lab.ended()
    paths = lab.home.run(number, "tiny")
    for attempt, text in ((1, b"first \xff\n"), (2, b"second\n")):
        paths.attempt(attempt).folder.mkdir(parents=True)
        paths.attempt(attempt).log.write_bytes(text)
    command = lab.command("logs", number)
    assert subprocess.run(command, capture_output=True, timeout=PATIENCE).stdout == b"first \xff\n"
    lab.call("resume", number, "--set", "num_epochs=20")
    lab.start(number)
    whole = subprocess.run(command, capture_output=True, timeout=PATIENCE).stdout
    assert whole == b"first \xff\n--- attempt 2 ---\nsecond\n"
    assert lab.call("logs", number, "--attempt", "2").out == "second\n"
    done = lab.call("logs", number, "--attempt", "3")
    assert (done.code, done.err) == (2, "run 1 has had 2 attempts, no attempt 3\n")


def test_logs_of_a_worker_are_those_of_its_rank_in_every_attempt(lab: Lab) -> None:
    number = lab.ended(State.INTERRUPTED, text="dataset: {name: digits}\nrunner: {workers: 3}\n")
    paths = lab.home.run(number, "tiny")
    for attempt in (1, 2):
        paths.attempt(attempt).folder.mkdir(parents=True)
        for rank in range(3):
            paths.attempt(attempt).log_of(rank).write_text(f"rank {rank}, attempt {attempt}\n")
    lab.call("resume", number, "--set", "runner.workers=2")
    lab.start(number)
    assert lab.call("logs", number).out == "rank 0, attempt 1\n--- attempt 2 ---\nrank 0, attempt 2\n"
    both = "rank 1, attempt 1\n--- attempt 2 ---\nrank 1, attempt 2\n"
    assert lab.call("logs", number, "--worker", "1").out == both
    assert lab.call("logs", number, "--worker", "1", "--attempt", "2").out == "rank 1, attempt 2\n"
    assert "rank 2, attempt 1\n" in lab.call("logs", number, "--worker", "2").out  # it had three before
    done = lab.call("logs", number, "--worker", "3")
    assert (done.code, done.err) == (2, "run 1 has workers of ranks 0 to 1: no worker of rank 3\n")


def test_of_logs_in_an_object_store_only_those_of_the_worker_are_copied_here(
    lab: Lab, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = s3_server.new_url()
    monkeypatch.setenv("RUNNER_STORAGE", url)
    number, store = lab.ended(text="dataset: {name: digits}\nrunner: {workers: 3}\n"), Objects(url)
    copies = replace(lab.home, storage=url).run(number, "tiny").attempt(1)
    for rank in range(3):
        name = copies.log_of(rank).name
        store.put(f"{attempt_key(number, 'tiny', 1)}/{name}", f"rank {rank}\n".encode())
    for rank in (2, 1, 0):
        assert lab.call("logs", number, "--worker", rank).out == f"rank {rank}\n"
        assert copies.logs == sorted(map(copies.log_of, range(rank, 3)))


def test_logs_follow_a_worker_that_is_not_the_first(lab: Lab) -> None:
    number = lab.submit("dataset: {name: digits}\nrunner: {workers: 2}\n")
    attempt = lab.home.run(number, "tiny").attempt(1)

    def work() -> None:
        lab.start(number)
        attempt.folder.mkdir(parents=True)
        attempt.log.write_text("not this one\n")
        with attempt.log_of(1).open("w", buffering=1) as log:
            log.write("joins\n")
            log.write("ends\n")
        lab.end(number, State.FINISHED)

    with meanwhile(work):
        done = lab.call("logs", number, "-f", "--worker", "1")
    assert (done.code, done.out) == (0, "joins\nends\n")


def test_the_only_worker_of_a_run_has_rank_0(lab: Lab) -> None:
    done = lab.call("logs", lab.ended(), "--worker", "1")
    assert (done.code, done.err) == (2, "run 1 has one worker, of rank 0: no worker of rank 1\n")


def test_logs_follow_waits_for_the_log_goes_on_to_the_next_attempt_and_ends_with_the_run(lab: Lab) -> None:
    number = lab.submit()
    paths = lab.home.run(number, "tiny")

    def work() -> None:
        for attempt in (1, 2):
            lab.start(number)
            paths.attempt(attempt).folder.mkdir(parents=True)
            with paths.attempt(attempt).log.open("w", buffering=1) as log:
                log.write("first line\n")
                log.write("last line\n")
            if attempt == 1:
                lab.lose(number, "its process was killed")
        lab.end(number, State.FINISHED)

    with meanwhile(work):
        done = lab.call("logs", number, "-f")
    assert done.code == 0
    assert done.out == "first line\nlast line\n--- attempt 2 ---\nfirst line\nlast line\n"


def test_logs_of_a_run_that_has_not_started_says_so(lab: Lab) -> None:
    done = lab.call("logs", lab.submit())
    assert (done.code, done.out) == (0, "")
    assert done.err == "run 1 is QUEUED and has not started: no output yet\n"
