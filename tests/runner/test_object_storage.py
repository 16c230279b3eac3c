"""Real uploads and training with an object store that is cut off, hangs, refuses or has lost objects."""

from __future__ import annotations

import http.server
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import s3
from patience import PATIENCE, wait_until

from capsnet import checkpoint
from capsnet import saving as saving_beside
from capsnet.figures import output
from capsnet.history import metrics_of
from capsnet.patience import SavingError
from capsnet.saving import Writer
from capsnet.snapshot import Snapshot
from capsnet.state import State
from runner import growing, objects, remote_checkpoint, storage
from runner.attempt import Assignment, Standing, perform
from runner.object_storage import attempt_key
from runner.objects import Objects, StorageError
from runner.orders import Orders
from runner.paths import Home
from runner.rows import NewRun, Run
from runner.store import open_store

ATTEMPT = "7-digits/attempts/1"

# Uploads one checkpoint, then dies after the second one's data and before its pointer.
KILLED = """
import os, signal, sys
from pathlib import Path
from runner.objects import Objects
from runner.remote_checkpoint import POINTER, Uploads

class Cut(Objects):
    def put(self, key, content):
        if key.endswith(POINTER) and file.read_bytes() == b"second":
            os.kill(os.getpid(), signal.SIGKILL)
        super().put(key, content)

file = Path(sys.argv[2])
uploads = Uploads(Cut(sys.argv[1]), sys.argv[3])
for text in (b"first", b"second"):
    file.write_bytes(text)
    uploads.upload(file)
"""

SMALL = """
seed: 3
num_epochs: 100000
batch_size: 256
threads: 1
use_cuda: false
dataset: {name: digits, size: 12}
model: {conv_channels: 4, kernel_size: 3, primary_types: 2, class_dim: 4, decoder: {hidden: [8]}}
checkpoint: {interval_seconds: 1.0}
"""


@pytest.fixture
def uploaded(s3_server: s3.Server, tmp_path: Path) -> Objects:
    """A store with two checkpoints of one attempt: "older" and "newest"."""
    store = Objects(s3_server.new_url())
    uploads = remote_checkpoint.Uploads(store, ATTEMPT)
    for text in (b"oldest", b"older", b"newest"):
        (tmp_path / "local.pt").write_bytes(text)
        uploads.upload(tmp_path / "local.pt")
    return store


def downloads(store: Objects, tmp_path: Path) -> list[bytes | None]:
    """Return the bytes of each checkpoint that the pointer names, newest first; None if lost or damaged."""
    pointer = remote_checkpoint.read(store, ATTEMPT)
    assert pointer is not None
    file = tmp_path / "copy.pt"
    whole = (remote_checkpoint.download(store, ATTEMPT, saved, file) for saved in pointer.all)
    return [file.read_bytes() if is_whole else None for is_whole in whole]


def test_two_checkpoints_are_kept_and_no_more(uploaded: Objects, tmp_path: Path) -> None:
    assert downloads(uploaded, tmp_path) == [b"newest", b"older"]
    assert len(uploaded.list(ATTEMPT)) == 3


def test_the_same_checkpoint_twice_does_not_take_the_place_of_the_one_before(
    s3_server: s3.Server, tmp_path: Path
) -> None:
    store, file = Objects(s3_server.new_url()), tmp_path / "local.pt"
    uploads = remote_checkpoint.Uploads(store, ATTEMPT)
    for text in (b"one", b"two", b"two"):
        file.write_bytes(text)
        uploads.upload(file)
    assert downloads(store, tmp_path) == [b"two", b"one"]


def test_an_upload_that_is_killed_before_its_pointer_counts_for_nothing(
    s3_server: s3.Server, tmp_path: Path
) -> None:
    url = s3_server.new_url()
    killed = subprocess.run([sys.executable, "-c", KILLED, url, tmp_path / "local.pt", ATTEMPT])
    assert killed.returncode == -signal.SIGKILL
    store = Objects(url)
    assert len([key for key in store.list(ATTEMPT) if key.endswith(".pt")]) == 2
    assert downloads(store, tmp_path) == [b"first"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [(b"newe", "was cut off"), (b"nEwest", "SHA-256 differs"), (None, "not there any more")],
)
def test_a_damaged_checkpoint_is_told_and_the_one_before_serves(
    uploaded: Objects, tmp_path: Path, damage: bytes | None, said: str
) -> None:
    pointer = remote_checkpoint.read(uploaded, ATTEMPT)
    assert pointer is not None
    key = f"{ATTEMPT}/{pointer.newest.name}"
    if damage is None:
        uploaded.delete([key])
    else:
        uploaded.put(key, damage)
    with pytest.warns(UserWarning, match=said):
        assert downloads(uploaded, tmp_path) == [None, b"older"]


READS = """
import sys, time
from pathlib import Path
from runner import storage
from runner.paths import Home
from runner.store import open_store

home, url, queue = sys.argv[1:]
with open_store(Path(queue)) as store:
    run = store.run(1)
with storage.of(Home(Path(home), storage=url)).checkpoint(run) as file:
    print(file, flush=True)
    time.sleep(600)
"""


@dataclass
class Saving:
    """A run that saves given bytes, and a home that reads them."""

    url: str
    folder: Path

    def __post_init__(self) -> None:
        self.home = Home(self.folder / "home", storage=self.url)
        self.run = run_of("small", SMALL, self.folder)
        self.uploads = remote_checkpoint.Uploads(Objects(self.url), attempt_key(1, "small", 1))

    def save(self, text: bytes) -> None:
        (self.folder / "local.pt").write_bytes(text)
        self.uploads.upload(self.folder / "local.pt")

    def read(self) -> bytes | None:
        with storage.of(self.home).checkpoint(self.run) as file:
            return file and file.read_bytes()

    @property
    def copies(self) -> list[Path]:
        return list(self.home.copies.glob("*/checkpoint.pt"))


@pytest.fixture
def saving(s3_server: s3.Server, tmp_path: Path) -> Saving:
    return Saving(s3_server.new_url(), tmp_path)


def test_each_reader_has_a_copy_of_its_own_though_another_ends_or_finds_a_newer_checkpoint(
    saving: Saving,
) -> None:
    saving.save(b"older")
    readers = [storage.of(saving.home) for _ in range(3)]
    with readers[0].checkpoint(saving.run) as first:
        with readers[1].checkpoint(saving.run) as second:
            assert first is not None and second is not None and first != second
            saving.save(b"newer")
            with readers[2].checkpoint(saving.run) as third:
                assert third is not None and third.read_bytes() == b"newer"
            assert first.read_bytes() == second.read_bytes() == b"older"
        assert first.read_bytes() == b"older"
        assert [copy.parent for copy in saving.copies] == [first.parent]
    assert saving.copies == []


@pytest.mark.parametrize("removed", [False, True])
def test_the_copy_of_a_reader_that_is_killed_goes_with_the_next_reader_or_rm_and_no_other_does(
    saving: Saving, removed: bool
) -> None:
    saving.save(b"weights")
    command = [sys.executable, "-c", READS, saving.home.root, saving.url, saving.folder / "queue.db"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        theirs = Path(reader.stdout.readline().strip())
        with storage.of(saving.home).checkpoint(saving.run) as ours:
            assert theirs.read_bytes() == b"weights", "its reader lives"
            reader.kill()
            reader.wait()
            storage.of(saving.home).delete(saving.run) if removed else saving.read()
            assert not theirs.exists() and ours is not None and ours.exists()
    assert [path.name for path in saving.home.copies.iterdir()] == ["lock"]


def test_a_server_that_hangs_under_one_who_leaves_in_a_hurry_gets_a_whole_checkpoint_or_none(
    saving: Saving, s3_process: s3.Server, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving_beside, "HURRY_SECONDS", 0.5)
    saving.save(b"older")
    begun = threading.Event()

    def save(state: State, path: Path) -> None:
        begun.set()
        saving.save(f"step {state['step']}".encode())

    state = checkpoint.load(tiny_checkpoint)
    others = threading.enumerate()
    writer = Writer(saving.folder / "unused.pt", patience_seconds=600.0, save=save)
    s3_process.stop()
    try:
        writer.submit(Snapshot({**state, "step": 1}, "cpu"))
        assert begun.wait(PATIENCE)
        writer.submit(Snapshot({**state, "step": 2}, "cpu"))
        began = time.monotonic()
        with pytest.raises(SavingError, match="the storage does not answer; what was saved before is kept"):
            writer.close(patient=False)
        assert time.monotonic() - began < objects.ANSWER_SECONDS / 2
        left = threading.enumerate()
    finally:
        s3_process.go_on()
    [thread] = [thread for thread in left if thread not in others and thread.name == "checkpoint writer"]
    thread.join(PATIENCE)
    assert saving.read() == b"step 1"


def test_what_two_readers_draw_at_once_is_in_the_runs_folder_and_kept(saving: Saving) -> None:
    saving.save(b"weights")
    readers = [storage.of(saving.home) for _ in range(2)]
    with readers[0].checkpoint(saving.run) as first, readers[1].checkpoint(saving.run) as second:
        for reader, copy, name in zip(readers, (first, second), ("rotate.png", "perturb.png"), strict=True):
            assert copy is not None
            output.save(name.encode(), output.folder_of(copy) / name)
            reader.keep_figures(copy)
    figures = saving.home.run(1, "small").attempt(1).figures
    assert sorted(file.name for file in figures.iterdir()) == ["perturb.png", "rotate.png"]
    key = f"{attempt_key(1, 'small', 1)}/figures"
    assert set(Objects(saving.url).list(key)) == {f"{key}/perturb.png", f"{key}/rotate.png"}


def test_a_pointer_that_nobody_can_read_is_an_error_and_not_a_run_without_a_checkpoint(
    uploaded: Objects,
) -> None:
    uploaded.put(f"{ATTEMPT}/checkpoint.json", b'{"newest": 1}')
    with pytest.raises(StorageError, match=r"checkpoint\.json is not what was written there"):
        remote_checkpoint.read(uploaded, ATTEMPT)


def test_a_long_file_grows_in_pieces_and_only_the_last_one_is_written_again(
    s3_server: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "PIECE_BYTES", 10)
    store, file, copy, end = Objects(s3_server.new_url()), tmp_path / "log", tmp_path / "copy", 0
    for text in (b"", b"12345", b"67890", b"abc", b"defghijklmnopqrstuvwxyz"):
        with file.open("ab") as log:
            log.write(text)
        before = store.list("a")
        end = growing.upload(store, "a/log", file, end)
        after = store.list("a")
        assert sum(item != before.get(key) for key, item in after.items()) <= 1 + len(text) // 10
        assert growing.whole(after) == {"a/log": end}
        growing.download(store, "a/log", end, copy)
        assert copy.read_bytes() == file.read_bytes()
    assert sorted(after) == ["a/log", *(f"a/log.piece-00000{number}" for number in (1, 2, 3))]


@pytest.mark.parametrize("url", ["s3://", "s3://no-such-bucket/runs", "nosuch://bucket/runs"])
def test_a_storage_that_cannot_be_used_is_one_line(s3_server: s3.Server, tmp_path: Path, url: str) -> None:
    kept = storage.of(Home(tmp_path, storage=url))
    with pytest.raises(StorageError) as raised:
        kept.check("queue")
    assert url in str(raised.value) and "\n" not in str(raised.value)


class Forbids(http.server.BaseHTTPRequestHandler):
    """A server that denies access to every request."""

    def answer(self) -> None:
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = answer  # noqa: N815 - the names are http.server's

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - likewise
        """Say nothing."""


@pytest.fixture
def forbidden(s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a store to which there is no access."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Forbids) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"s3://forbidden-{server.server_port}/runs"
        server.shutdown()


def test_a_storage_without_permission_is_named_before_anything_is_queued(
    forbidden: str, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match=f"{forbidden}: no permission: Forbidden"):
        storage.of(Home(tmp_path, storage=forbidden)).check("queue")


@dataclass
class Training:
    """One attempt that trains in a thread, as a worker would."""

    assignment: Assignment
    orders: Orders = field(default_factory=Orders)

    def __enter__(self) -> Training:
        place = self.assignment.workplace
        place.open()
        self.standing = Standing(self.assignment, place)
        arguments = (self.assignment, self.orders, self.standing)
        self.thread = threading.Thread(target=perform, args=arguments)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.orders.stop()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()

    @property
    def row(self) -> dict[str, object]:
        return dict(self.standing.status.fields)

    def until(self, condition: Callable[[dict[str, object]], object]) -> dict[str, object]:
        def met() -> object:
            if condition(self.row):
                return True
            assert self.standing.status.ending is None, self.standing.status.ending
            return False

        wait_until(met, lambda: self.row)
        return self.row


@pytest.fixture
def assignment(s3_server: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Assignment:
    monkeypatch.setenv("RUNNER_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(objects, "ANSWER_SECONDS", 0.5)
    url = s3_server.new_url()
    return Assignment(
        str(tmp_path / "home"), 1, "small", 1, "node", SMALL, 1.0, 0.0, use_best=False, storage=url
    )


def position(row: dict[str, object], kind: str = "durable_") -> tuple[object, object]:
    return row.get(f"{kind}epoch") or 0, row.get(f"{kind}step") or 0


def run_of(name: str, config: str, folder: Path) -> Run:
    """Run 1 of a queue in the folder, in its first attempt."""
    with open_store(folder / "queue.db") as store:
        store.add([NewRun(name=name, config=config, num_epochs=1)], 1.0)
        store.claim(store.take_over(1.0, "cluster", "version"), 1, 1.0, 0.0, 1.0)
        run = store.run(1)
    assert run is not None
    return run


@pytest.mark.parametrize("killed", [False, True])
def test_training_goes_on_while_the_server_is_away_and_saves_when_it_is_back(
    assignment: Assignment, s3_process: s3.Server, tmp_path: Path, killed: bool
) -> None:
    with Training(assignment) as training:
        before = training.until(lambda row: row.get("durable_epoch"))
        s3_process.kill() if killed else s3_process.stop()
        try:
            away = training.until(lambda row: row.get("reason"))
            assert str(away["reason"]).startswith("cannot save since ")
            assert str(away["reason"]).endswith(f"{assignment.storage} does not answer")
            training.until(lambda row: position(row, "") > position(away, ""))
        finally:
            s3_process.start() if killed else s3_process.go_on()
        back = training.until(lambda row: "reason" in row and row["reason"] is None)
        assert position(training.until(lambda row: position(row) > position(back))) > position(before)
    ending = training.standing.status.ending
    assert ending is not None and ending.kind == "stopped"
    kept = storage.of(Home(tmp_path / "other", storage=assignment.storage))
    run = run_of(assignment.name, assignment.config, tmp_path)
    with kept.checkpoint(run) as file:
        assert file is not None
        state = checkpoint.load(file)
    assert (state["epoch"], state["step"]) == position(training.row)
    assert kept.ending(run) == ending
    newest = kept.newest_epoch(run)
    assert newest is not None and ending.kept is not None
    assert newest["epoch"] == state["epoch"] and metrics_of(newest) == metrics_of(ending.kept)


@pytest.mark.slow
def test_a_run_that_can_save_nothing_for_20_intervals_fails_and_says_why(
    assignment: Assignment, s3_process: s3.Server
) -> None:
    with Training(assignment) as training:
        training.until(lambda row: row.get("durable_epoch"))
        s3_process.stop()
        try:
            training.thread.join(PATIENCE)
        finally:
            s3_process.go_on()
    ending = training.standing.status.ending
    assert ending is not None and ending.kind == "failed"
    assert ending.reason is not None
    assert ending.reason.startswith("could not be saved for 2")
    assert ending.reason.endswith(f"s: {assignment.storage} does not answer; what was saved before is kept")


def test_a_resume_waits_for_a_server_that_is_away_and_goes_on_from_what_it_has(
    assignment: Assignment, s3_process: s3.Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Training(assignment) as first:
        first.until(lambda row: row.get("durable_epoch"))
    assert [file.name for file in (tmp_path / "scratch").glob("*/*")] == ["lock"]
    following = Assignment(**{**vars(assignment), "attempt": 2})
    s3_process.stop()
    try:
        second = Training(following)
        with second:
            second.until(lambda row: row.get("reason"))
            s3_process.go_on()
            second.until(lambda row: position(row) > position(first.row))
    finally:
        s3_process.go_on()
    assert f"from epoch {position(first.row)[0] + 1}" in capfd.readouterr().out  # type: ignore[operator]
