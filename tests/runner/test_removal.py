"""`rm` of runs of which not everything can be deleted at once: the queue still knows all that is left."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest
import s3
from cli_harness import Lab
from patience import PATIENCE

from runner import exits, objects
from runner.commands.cleanup import best, prunable
from runner.object_storage import attempt_key
from runner.objects import Objects
from runner.states import State

OBJECTS = ("checkpoint.json", "history.csv", "outcome.json")
OF_THE_CONNECTION = {"connection", "content-length", "expect", "transfer-encoding"}


class Gate(http.server.ThreadingHTTPServer):
    """A proxy of a store that refuses, or never answers, deletions of objects with a given name."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.store_port = port
        self.refused: str | None = None
        self.unanswered: str | None = None
        self.ended = threading.Event()


class Passing(http.server.BaseHTTPRequestHandler):
    """One request on its way to the store."""

    protocol_version = "HTTP/1.1"  # who sends a body waits to be told that it may
    server: Gate  # pyright: ignore[reportIncompatibleVariableOverride] - by whom it is made

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.command == "DELETE" and (name := self.server.unanswered) and name in self.path:
            self.server.ended.wait(PATIENCE)
        if self.command == "DELETE" and (name := self.server.refused) and name in self.path:
            self.say(403, {}, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.store_port)
        connection.request(self.command, self.path, body, passed_on(self.headers))
        found = connection.getresponse()
        self.say(found.status, passed_on(found.headers), found.read())
        connection.close()

    def say(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815 - the names are http.server's

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - likewise
        """Say nothing."""


def passed_on(headers: Message) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in OF_THE_CONNECTION}


@pytest.fixture
def gate(s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    with Gate(s3_server.port) as gate:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{gate.server_port}")
        threading.Thread(target=gate.serve_forever, daemon=True).start()
        yield gate
        gate.ended.set()
        gate.shutdown()


@pytest.fixture
def url(gate: Gate, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of the queue's storage: the store, through the gate."""
    url = s3_server.new_url()
    monkeypatch.setenv("RUNNER_STORAGE", url)
    return url


def ended_runs(lab: Lab, url: str, count: int) -> Objects:
    """Runs that have ended, each with some objects in the store."""
    store = Objects(url)
    for _ in range(count):
        number = lab.ended()
        for name in OBJECTS:
            store.put(f"{attempt_key(number, lab.run(number).name, 1)}/{name}", b"content")
    return store


def test_an_rm_that_may_not_delete_an_object_says_whose_it_is_and_a_second_one_finishes(
    lab: Lab, gate: Gate, url: str
) -> None:
    store = ended_runs(lab, url, 2)
    gate.refused = "1-tiny/attempts/1/history.csv"
    done = lab.call("rm", 1, 2, "--yes", "--unpublished")
    assert done.code == exits.USAGE
    assert done.err == (
        "deleted run 2, freed 0.0 MB\n"
        f"run 1: {url}: no permission: Access Denied; what is left is in {url}/1-tiny: "
        "`python -m runner rm 1` deletes it\n"
    )
    assert store.list("2-tiny") == {} and lab.store.run(2) is None
    assert [key.rpartition("/")[2] for key in store.list("1-tiny")] == ["history.csv", "outcome.json"]
    assert "is being deleted: `python -m runner rm 1` finishes that" in lab.call("show", 1).out
    assert lab.call("resume", 1, "--set", "num_epochs=20").err == (
        "run 1 is being deleted: `python -m runner rm 1` finishes that\n"
    )
    gate.refused = None
    assert lab.call("rm", 1, "--yes", "--unpublished").err == "deleted run 1, freed 0.0 MB\n"
    assert store.list("1-tiny") == {} and lab.store.runs() == []


def test_an_rm_whose_store_falls_silent_tries_no_other_run_and_names_all_that_are_left(
    lab: Lab, gate: Gate, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ended_runs(lab, url, 3)
    gate.unanswered = "2-tiny/attempts/1/outcome.json"
    monkeypatch.setattr(objects, "ANSWER_SECONDS", 1.0)
    done = lab.call("rm", 1, 2, 3, "--yes", "--unpublished")
    assert done.code == exits.USAGE
    first, *others = done.err.splitlines()
    assert first == "deleted run 1, freed 0.0 MB"
    assert others == [
        f"run {number}: {url} does not answer; what is left is in {url}/{number}-tiny: "
        f"`python -m runner rm {number}` deletes it"
        for number in (2, 3)
    ]
    assert [len(store.list(f"{number}-tiny")) for number in (1, 2, 3)] == [0, 1, 3]
    assert [run.id for run in lab.store.runs()] == [2, 3]
    gate.unanswered = None
    assert lab.call("rm", 2, 3, "--yes", "--unpublished").code == 0
    assert store.list("") == {} and lab.store.runs() == []


def test_an_rm_of_a_store_that_is_away_changes_nothing(
    lab: Lab, url: str, gate: Gate, s3_process: s3.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ended_runs(lab, url, 1)
    monkeypatch.setattr(objects, "ANSWER_SECONDS", 1.0)
    s3_process.stop()
    try:
        done = lab.call("rm", 1, "--yes", "--unpublished")
    finally:
        s3_process.go_on()
    assert (done.code, done.err) == (exits.USAGE, f"{url} does not answer\n")
    assert len(store.list("1-tiny")) == len(OBJECTS) and lab.run(1).intent is None


@pytest.mark.parametrize("shared", [False, True])
def test_a_folder_that_cannot_be_deleted_keeps_its_run_until_it_can(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    place = tmp_path / "shared" if shared else lab.home.root
    if shared:
        monkeypatch.setenv("RUNNER_STORAGE", str(place))
    for number in (lab.ended(), lab.ended()):
        (tmp_path / f"disk-{number}").mkdir()
        (place / f"{number}-tiny").parent.mkdir(exist_ok=True)
    (place / "1-tiny").symlink_to(tmp_path / "disk-1")  # moved by a user, who owns the link's target
    (tmp_path / "disk-2").rename(place / "2-tiny")
    done = lab.call("rm", 1, 2, "--yes", "--unpublished")
    assert done.code == exits.USAGE
    deleted, left = done.err.splitlines()
    assert deleted == "deleted run 2, freed 0.0 MB"
    assert left == (
        f"run 1: Cannot call rmtree on a symbolic link; what is left is in {place}/1-tiny: "
        "`python -m runner rm 1` deletes it"
    )
    assert [run.id for run in lab.store.runs()] == [1]
    (place / "1-tiny").unlink()
    assert lab.call("rm", 1, "--yes", "--unpublished").code == 0
    assert lab.store.runs() == []


def test_a_run_that_is_being_deleted_is_nobodys_best_and_prune_deletes_it_to_the_end(lab: Lab) -> None:
    for accuracy in (0.9, 0.8):
        lab.ended(State.INTERRUPTED, accuracy=accuracy)
    assert [run.id for run in best(lab.store.runs())] == [1]
    lab.store.begin_removal([1], now=1.0)
    assert [run.id for run in best(lab.store.runs())] == [2]
    assert [run.id for run in prunable(lab.store.runs(), ended_before=0.0, keep_best=True)] == [1]
    assert lab.call("prune", "--keep-best", "--yes", "--unpublished").err == "deleted run 1, freed 0.0 MB\n"
