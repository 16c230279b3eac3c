"""A real MLflow server as the tracking store: away, killed, hung, too old. Files go through it."""

from __future__ import annotations

import http.server
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from patience import wait_until
from published import CONFIG, Scheduler, append_samples, draw, files, mlflow_run, points, steps

from capsnet.history import read_history
from runner import publisher as publishing
from runner import tracking, ui_child
from runner.paths import Home
from runner.publisher import Publisher
from runner.record import SAMPLE
from runner.rows import NewRun, Run
from runner.states import Event, State
from runner.store import Store, open_store
from runner.tracking import Tracker
from runner.web_server import listen


class Server:
    """MLflow's server as a lab runs it: its store and artifacts are in a folder that no client reads."""

    def __init__(self, folder: Path, new_store: Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        shutil.copy(new_store, folder / "mlflow.db")
        with closing(listen(5600, 100)) as listener:
            self.port = listener.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = {
            "backend-store-uri": f"sqlite:///{self.folder}/mlflow.db",
            "artifacts-destination": self.folder / "artifacts",
            "port": self.port,
            "workers": 1,
        }
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mlflow", "server", "--serve-artifacts", *words],
            env={**os.environ, **tracking.SETTINGS, **ui_child.MLFLOW_SETTINGS},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self._answers, self.uri)

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, "the server ended"
        with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
            return True
        return False

    def kill(self) -> None:
        """kill -9, children included."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def signal(self, number: int) -> None:
        assert self._process is not None
        main = psutil.Process(self._process.pid)
        for process in [main, *main.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


@pytest.fixture
def server(tmp_path: Path, new_mlflow_store: Path) -> Iterator[Server]:
    server = Server(tmp_path / "served", new_mlflow_store)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def as_first_imported() -> Iterator[None]:
    """Set MLflow's log level as the publisher's import does; another test may have imported MLflow before."""
    logger = logging.getLogger("mlflow")
    before = logger.level
    logger.setLevel(tracking.SETTINGS["MLFLOW_LOGGING_LEVEL"])
    yield
    logger.setLevel(before)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "runs")
    home.root.mkdir()
    return home


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    with open_store(home) as store:
        yield store


@pytest.fixture
def scheduler(store: Store, home: Home) -> Scheduler:
    return Scheduler(store, home)


@pytest.fixture
def running_run(store: Store, scheduler: Scheduler) -> int:
    [run] = store.add([NewRun(name="tiny", config=CONFIG, num_epochs=3)], now=1.0)
    scheduler.start(run)
    return run


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the publisher's waits before it retries from minutes to at most a second."""
    monkeypatch.setattr(publishing, "FIRST_WAIT_SECONDS", 0.2)
    monkeypatch.setattr(publishing, "LONGEST_WAIT_SECONDS", 1.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")


def tracker_of(home: Home, uri: str) -> Tracker:
    environ = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_NAME": "test"}
    return Tracker(tracking.target(home, environ))


def end(scheduler: Scheduler, run_id: int, checkpoint: Path) -> None:
    """Finish a run with all files that a run leaves."""
    paths = scheduler.paths(run_id)
    scheduler.measure(run_id, 1, [1, 2, 3])
    paths.config.write_text(CONFIG)
    paths.attempt(1).log.write_text("done\n")
    draw(scheduler, run_id, 1, "confusion.png", "rotate.gif")
    shutil.copy(checkpoint, paths.attempt(1).checkpoint)
    scheduler.end(run_id, Event.FINISH)


def require_complete(run: Run, scheduler: Scheduler, tracker: Tracker, server: Server) -> None:
    """Assert that the server has one MLflow run with everything from the run's folder, each once."""
    assert (run.publish_error, run.published_epoch, run.published_state) == (None, 3, State.FINISHED)
    attempt = scheduler.paths(run.id).attempt(1)
    found = mlflow_run(tracker)
    assert (found.info.run_id, found.info.status) == (run.mlflow_run_id, "FINISHED")
    assert found.data.params["optim.lr"] == "0.001"
    history = read_history(attempt.history)
    for key in ("epoch", "train/loss", "test/accuracy"):
        expected = [(row["epoch"], row[key], round(row["time"] * 1000)) for row in history]
        assert points(tracker, key) == expected
    assert steps(tracker, SAMPLE) == [0, 10]
    assert files(tracker) == {"config.yaml", "history.csv", "attempts"}
    assert files(tracker, "attempts/1") == {"attempts/1/log.txt", "attempts/1/figures"}
    figures = {"attempts/1/figures/confusion.png", "attempts/1/figures/rotate.gif"}
    assert files(tracker, "attempts/1/figures") == figures
    [model] = tracker.client.search_logged_models([found.info.experiment_id])
    assert (model.status, model.source_run_id) == ("READY", run.mlflow_run_id)
    assert sorted((metric.key, metric.step) for metric in model.metrics or []) == [
        ("epoch", 3),
        ("test/accuracy", 3),
        ("train/loss", 3),
    ]
    assert [(output.model_id, output.step) for output in found.outputs.model_outputs] == [(model.model_id, 3)]
    assert len(list(server.folder.rglob("weights.npz"))) == 1
    [log] = server.folder.rglob("log.txt")
    assert log.read_text() == "done\n"


@contextmanager
def publishes(publisher: Publisher) -> Iterator[None]:
    """Publish repeatedly in a thread while the block runs, like the publisher's process."""
    ended = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        while not ended.wait(0.1):
            try:
                publisher.publish_once(time.monotonic())
            except BaseException as error:
                errors.append(error)
                return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert errors == []


@pytest.mark.slow
def test_a_server_that_is_killed_in_mid_run_and_at_its_end_misses_nothing_and_doubles_nothing(
    running_run: int,
    scheduler: Scheduler,
    store: Store,
    home: Home,
    server: Server,
    tiny_checkpoint: Path,
    quickly: None,
    as_first_imported: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    tracker = tracker_of(home, server.uri.replace("://", "://ada:secret@"))
    sample = {"process_cpu_percentage": 90.0}
    with publishes(Publisher(store, home, tracker)):
        scheduler.measure(running_run, 1, [1])
        append_samples(scheduler, running_run, 1, [{"time": 50.0, **sample}])
        wait_until(lambda: scheduler.run(running_run).published_epoch == 1)
        server.kill()
        scheduler.measure(running_run, 1, [1, 2])
        append_samples(scheduler, running_run, 1, [{"time": 60.0, **sample}])
        wait_until(lambda: scheduler.run(running_run).publish_error)
        said = scheduler.run(running_run).publish_error or ""
        assert said.startswith(f"{server.uri}: ")
        refused = ("[Errno 111] Connection refused", "[Errno 104] Connection reset by peer")
        assert said.endswith((*refused, "Remote end closed connection without response")), said
        server.start()
        wait_until(lambda: scheduler.run(running_run).published_epoch == 2)
        end(scheduler, running_run, tiny_checkpoint)
        wait_until(lambda: list(server.folder.rglob("MLmodel")))  # the rest of the model is on its way
        server.kill()
        server.start()
        wait_until(lambda: scheduler.run(running_run).published_state is State.FINISHED)
    assert capfd.readouterr() == ("", "")  # MLflow would print addresses, password included
    require_complete(scheduler.run(running_run), scheduler, tracker, server)


# Requests that would leave duplicates if they were carried out twice.
WRITES = ("create_run", "log_batch", "create_logged_model", "log_outputs")


@pytest.mark.slow
def test_a_server_that_hangs_and_carries_out_late_what_it_was_asked_doubles_nothing(
    running_run: int,
    scheduler: Scheduler,
    store: Store,
    home: Home,
    server: Server,
    tiny_checkpoint: Path,
    quickly: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracker = tracker_of(home, server.uri)
    tracker.check()
    hung: list[str] = []

    def hang_at_the_first(name: str) -> Callable[..., Any]:
        call = getattr(tracker.client, name)

        def hanging(*arguments: Any, **options: Any) -> Any:
            if name in hung:
                return call(*arguments, **options)
            hung.append(name)
            server.signal(signal.SIGSTOP)  # its kernel takes the request, and it carries it out when it wakes
            try:
                return call(*arguments, **options)
            finally:
                server.signal(signal.SIGCONT)

        return hanging

    for name in WRITES:
        monkeypatch.setattr(tracker.client, name, hang_at_the_first(name))
    append_samples(scheduler, running_run, 1, [{"time": 50.0, "process_cpu_percentage": 90.0}])
    append_samples(scheduler, running_run, 1, [{"time": 60.0, "process_cpu_percentage": 90.0}])
    with publishes(Publisher(store, home, tracker)):
        scheduler.measure(running_run, 1, [1])
        wait_until(lambda: scheduler.run(running_run).published_epoch == 1)
        end(scheduler, running_run, tiny_checkpoint)
        wait_until(lambda: scheduler.run(running_run).published_state is State.FINISHED)
    assert sorted(hung) == sorted(WRITES)
    require_complete(scheduler.run(running_run), scheduler, tracker, server)


class OldServer(http.server.BaseHTTPRequestHandler):
    """A server that answers only `/version`, with the version of an old MLflow server."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/version" else 404)
        self.end_headers()
        self.wfile.write(b"2.22.5" if self.path == "/version" else b"<!doctype html>")

    def log_message(self, format: str, *said: Any) -> None:  # noqa: A002 - as it is called above
        """Print nothing on the terminal of the tests."""


def test_a_server_that_is_too_old_is_refused_in_one_line_before_anything_is_written(
    running_run: int, scheduler: Scheduler, store: Store, home: Home
) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), OldServer) as old:
        threading.Thread(target=old.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{old.server_address[1]}"
        Publisher(store, home, tracker_of(home, uri)).publish_once(now=100.0)
        old.shutdown()
    said = scheduler.run(running_run).publish_error or ""
    assert said.startswith(f"{uri}: this server is MLflow 2.22.5, which takes no models from the MLflow 3.")
    assert said.endswith("upgrade the server to 3 or newer, or name another one in MLFLOW_TRACKING_URI")
    assert scheduler.run(running_run).state is State.RUNNING
