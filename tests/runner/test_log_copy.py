"""Copies of workers' logs in the queue's database."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import wait_until

from runner import log_copy
from runner.log_copy import SETTLING_SECONDS, LogCopy
from runner.paths import Home
from runner.rows import NewRun
from runner.states import Event
from runner.store import Store, open_store


@pytest.fixture(params=["sqlite", "postgresql"])
def home(tmp_path: Path, request: pytest.FixtureRequest) -> Home:
    return Home(tmp_path, None if request.param == "sqlite" else request.getfixturevalue("postgres_url"))


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    with open_store(home) as store:
        yield store


class Worker:
    """A run of the queue, and the log of its worker."""

    def __init__(self, store: Store, home: Home, name: str = "tiny") -> None:
        self.store, self.home = store, home
        self.epoch = store.take_over(1.0, "here", "1")
        [self.run] = store.add([NewRun(name=name, config="a: 1", num_epochs=3)], now=1.0)
        self.attempt = 0
        self.start()

    def start(self) -> None:
        claimed = self.store.claim(self.epoch, self.run, 2.0, gpus=0, cpus=1)
        assert claimed is not None
        self.attempt = claimed.number
        self.log.parent.mkdir(parents=True)

    @property
    def log(self) -> Path:
        return self.log_of(self.attempt)

    def log_of(self, attempt: int) -> Path:
        run = self.store.run(self.run)
        assert run is not None
        return self.home.run(run.id, run.name).attempt(attempt).log

    def prints(self, said: bytes) -> None:
        with self.log.open("ab") as log:
            log.write(said)

    def ends(self, event: Event = Event.FAIL) -> None:
        outcome = "lost" if event is Event.LOSE else "failed"
        self.store.end(self.epoch, self.run, self.attempt, event, 3.0, outcome, "a reason")

    def kept(self, attempt: int = 1) -> bytes:
        return self.store.log(self.run, attempt)


@pytest.fixture
def worker(store: Store, home: Home) -> Worker:
    return Worker(store, home)


@pytest.fixture
def logs(store: Store, home: Home) -> LogCopy:
    return LogCopy(store, home)


def test_a_log_is_copied_byte_by_byte_while_it_grows(worker: Worker, logs: LogCopy, store: Store) -> None:
    logs.copy_once(now=0.0)  # nothing was printed yet
    for said in (b"epoch 1\n", "half a sign \u2026".encode()[:-1], b"\xa6\r\n\0"):
        worker.prints(said)
        logs.copy_once(now=1.0)
        assert worker.kept() == worker.log.read_bytes()
    assert not store.log_whole(worker.run, 1)


def test_a_long_log_is_copied_in_bounded_pieces(
    worker: Worker, logs: LogCopy, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    add = store.add_log

    def noted(run: int, attempt: int, position: int, data: bytes) -> int:
        sizes.append(len(data))
        return add(run, attempt, position, data)

    monkeypatch.setattr(store, "add_log", noted)
    worker.prints(bytes(range(256)) * 2500)
    logs.copy_once(now=0.0)
    assert sizes == [log_copy.PIECE_BYTES, log_copy.PIECE_BYTES, 640_000 - 2 * log_copy.PIECE_BYTES]
    assert worker.kept() == worker.log.read_bytes()


def test_a_process_that_is_started_anew_goes_on_where_the_last_one_was(
    worker: Worker, store: Store, home: Home
) -> None:
    for said in (b"one\n", b"two\n", b"three\n"):
        worker.prints(said)
        LogCopy(store, home).copy_once(now=0.0)
    assert worker.kept() == b"one\ntwo\nthree\n"


def test_two_processes_that_copy_the_same_log_leave_neither_gap_nor_double(
    worker: Worker, store: Store, home: Home
) -> None:
    both = [LogCopy(store, home), LogCopy(store, home)]
    for number in range(6):
        worker.prints(f"line {number}\n".encode())
        both[number % 3 % 2].copy_once(now=0.0)
    both[0].copy_once(now=0.0)
    both[1].copy_once(now=0.0)
    assert worker.kept() == worker.log.read_bytes()


def test_the_last_words_of_an_ended_run_arrive_although_they_are_late(
    worker: Worker, logs: LogCopy, store: Store
) -> None:
    worker.ends()
    run = store.run(worker.run)
    assert run is not None
    assert not logs.settled(run)
    logs.copy_once(now=10.0)
    worker.prints(b"Traceback\n")
    logs.copy_once(now=10.0 + SETTLING_SECONDS - 1)
    assert not logs.settled(run)
    worker.prints(b"ValueError\n")
    logs.copy_once(now=10.0 + SETTLING_SECONDS)
    assert logs.settled(run)
    assert worker.kept() == b"Traceback\nValueError\n"
    assert store.log_whole(worker.run, 1)


def test_every_attempt_of_a_run_has_a_log_of_its_own(worker: Worker, logs: LogCopy, store: Store) -> None:
    worker.prints(b"first\n")
    worker.ends(Event.LOSE)
    worker.start()
    worker.prints(b"second\n")
    logs.copy_once(now=0.0)
    assert (worker.kept(1), worker.kept(2)) == (b"first\n", b"second\n")
    logs.copy_once(now=SETTLING_SECONDS)
    assert (store.log_whole(worker.run, 1), store.log_whole(worker.run, 2)) == (True, False)
    with worker.log_of(1).open("ab") as log:
        log.write(b"a worker that was cut off wakes up\n")
    logs.copy_once(now=100.0)
    assert worker.kept(1) == b"first\n"


def test_a_run_that_prints_without_end_says_where_the_rest_is(
    worker: Worker, logs: LogCopy, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_copy, "LONGEST_BYTES", 1 << 20)
    worker.prints(b"x" * (1 << 20))
    logs.copy_once(now=0.0)
    assert worker.kept() == b"x" * (1 << 20)
    for _ in range(2):
        worker.prints(b"y" * (1 << 20))
        logs.copy_once(now=0.0)
    rest = f"\n... 1 MiB of this log are kept here; all of it is in {worker.log}\n".encode()
    assert worker.kept() == b"x" * (1 << 20) + rest
    assert store.log_whole(worker.run, 1)


def test_a_log_that_cannot_be_read_holds_up_no_other(
    worker: Worker, logs: LogCopy, store: Store, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Worker(store, home, "other")
    worker.log.mkdir()
    other.prints(b"one\n")
    for _ in range(2):
        logs.copy_once(now=0.0)
    assert other.kept() == b"one\n"
    said = capsys.readouterr().out
    assert said.startswith(f"run {worker.run}: its log cannot be copied: [Errno 21] Is a directory")
    assert said.count("\n") == 1


def test_a_run_that_was_removed_meanwhile_is_let_be(
    worker: Worker, logs: LogCopy, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.prints(b"one\n")
    worker.ends()
    [found] = store.unpublished()
    store.remove([worker.run])
    monkeypatch.setattr(store, "behind", lambda *_: [found])  # as it was read a moment ago
    logs.copy_once(now=0.0)
    assert worker.kept() == b""


@pytest.mark.parametrize("home", ["sqlite"], indirect=True)
def test_ten_thousand_ended_runs_are_not_looked_at_again(
    worker: Worker, logs: LogCopy, store: Store, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add([NewRun(name="old", config="a: 1", num_epochs=3)] * 10_000, now=1.0)
    with sqlite3.connect(home.database) as database:
        database.execute(
            "UPDATE runs SET state = 'FAILED', published_state = 'FAILED', attempt = 1 WHERE id > 1"
        )
    worker.prints(b"one\n")
    looked: list[int] = []
    copy = logs._copy_attempt
    monkeypatch.setattr(logs, "_copy_attempt", lambda run, *rest: (looked.append(run.id), copy(run, *rest)))
    began = time.process_time()
    for second in range(10):
        logs.copy_once(now=float(second))
    assert (time.process_time() - began) / 10 < 0.02
    assert looked == [worker.run] * 10


PUBLISH = """
import sys, time
from pathlib import Path
from runner.publisher_actor import PublisherActor
PublisherActor(sys.argv[1], sys.stdin.read() or None, {"MLFLOW_TRACKING_URI": sys.argv[2]})
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("home", ["postgresql"], indirect=True)
def test_the_publishers_process_copies_logs_while_mlflow_hangs(worker: Worker, home: Home) -> None:
    with socket.socket() as deaf:  # connections are made, and never answered
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        uri = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-c", PUBLISH, str(home.root), uri], stdin=subprocess.PIPE, text=True
        )
        assert process.stdin is not None and home.database_url is not None
        process.stdin.write(home.database_url)
        process.stdin.close()
        try:
            for number in range(5):
                worker.prints(f"line {number}\n".encode())
                wait_until(lambda: worker.kept() == worker.log.read_bytes(), f"line {number}")
        finally:
            process.kill()
            process.wait()
    said = home.publisher_log.read_text()
    assert "Traceback" not in said
