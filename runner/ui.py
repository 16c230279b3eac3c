"""The MLflow UI and TensorBoard on a home: two child processes on this machine's loopback, and no others.

Does not import mlflow or TensorBoard: this process only starts them, waits and ends them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import IO

from runner.paths import Home
from runner.redaction import redacted
from runner.tracking import SETTINGS, Target, locked, target

HOST = "127.0.0.1"
PORT = 5000  # of MLflow; TensorBoard takes the next free one
PORTS = 100  # tried from there on
START_SECONDS = 120.0
ANSWER_SECONDS = 3.0
STOP_SECONDS = 5.0
POLL_SECONDS = 0.1
LINES = 5  # of what a child said last, in the error
# One worker and no engine for jobs that nobody here submits: 0.4 GB and 5 s instead of 2.3 GB and 20 s.
MLFLOW_SETTINGS = {**SETTINGS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class UIError(Exception):
    """A user interface did not start, or ended; one line."""


@dataclass(frozen=True)
class Page:
    """Something to look at in a browser."""

    name: str
    url: str


@dataclass
class Child:
    """A server that runs as a child of this process."""

    name: str
    process: subprocess.Popen[bytes]
    said: IO[bytes]  # all that it has printed

    def require_alive(self) -> None:
        if self.process.poll() is not None:
            raise UIError(f"{self.name} ended (exit {self.process.returncode}): {self.last_words()}")

    def last_words(self) -> str:
        self.said.seek(0)
        said = redacted(
            self.said.read().decode(errors="replace")
        )  # MLflow may name its database, password included
        lines = [line.strip() for line in said.splitlines()]
        return " | ".join(list(filter(None, lines))[-LINES:]) or "it said nothing"

    def stop(self) -> None:
        """Ask it and its children to end; insist after a while."""
        for order in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, order)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)


@dataclass(frozen=True)
class Services:
    """What is being served."""

    pages: tuple[Page, ...]
    children: tuple[Child, ...]

    def wait(self) -> None:
        """Return never: raises UIError when a server ends, KeyboardInterrupt on Ctrl-C."""
        while True:
            for child in self.children:
                child.require_alive()
            time.sleep(POLL_SECONDS)


@contextmanager
def serve(home: Home, port: int = PORT, environ: Mapping[str, str] = os.environ) -> Iterator[Services]:
    """Serve MLflow's UI and TensorBoard until the block is left, by Ctrl-C or a signal to end too.

    They answer when the block begins. Where MLFLOW_TRACKING_URI names a server, its own UI is the page;
    where the runs' folders are not to be seen from this host, there is no TensorBoard. Raises UIError.
    """
    tracking = target(home, environ)
    first, second = free_ports(port)
    pages, children = [], []
    with ExitStack() as stack:
        stack.enter_context(_ended_by_signals())
        if home.runs.is_dir():  # started first: the two come up beside each other
            children.append(_start("TensorBoard", tensorboard_command(home, second), environ, stack))
        mlflow_url = redacted(tracking.uri).rstrip("/")
        if not tracking.served:
            mlflow_url = f"http://{HOST}:{first}"
            # The server sets up a store that is not there yet: not while the publisher does.
            with locked(tracking.lock):
                # By environment: it may hold a password, and all may read what a process was called with.
                settings = {**MLFLOW_SETTINGS, **environ, "MLFLOW_BACKEND_STORE_URI": tracking.uri}
                mlflow = _start("MLflow", mlflow_command(tracking, first), settings, stack)
                _await_answer(mlflow, f"{mlflow_url}/health")
                children.append(mlflow)
        pages.append(Page("MLflow", runs_url(mlflow_url, tracking.experiment)))
        if home.runs.is_dir():
            pages.append(Page("TensorBoard", f"http://{HOST}:{second}"))
            _await_answer(children[0], pages[-1].url)
        yield Services(tuple(pages), tuple(children))


def runs_url(mlflow_url: str, experiment: str) -> str:
    """The page of MLflow that lists the runs of an experiment; its start page where there is none yet."""
    query = urllib.parse.urlencode({"experiment_name": experiment})
    try:
        with _get(f"{mlflow_url}/api/2.0/mlflow/experiments/get-by-name?{query}") as answer:
            number = json.load(answer)["experiment"]["experiment_id"]
    except (OSError, ValueError, KeyError):  # not there yet, or a server that wants to be logged in to
        return mlflow_url
    return f"{mlflow_url}/#/experiments/{number}/runs?workflowType=machine_learning"


def mlflow_command(tracking: Target, port: int) -> list[str]:
    """MLflow's server with one worker, for this machine only."""
    command = [sys.executable, "-P", "-m", "mlflow", "server"]
    if tracking.artifacts:
        command += ["--default-artifact-root", tracking.artifacts]
    return [
        *command,
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
        "--uvicorn-opts",
        "--log-level=warning",
    ]


def tensorboard_command(home: Home, port: int) -> list[str]:
    """TensorBoard on all runs of a home; each is named by its folder there."""
    command = [sys.executable, "-P", "-m", "tensorboard.main", "--logdir", str(home.runs)]
    return [
        *command,
        "--host",
        HOST,
        "--port",
        str(port),
        "--window_title",
        f"{home.runs.name} - TensorBoard",
    ]


def free_ports(first: int) -> tuple[int, int]:
    """Two ports on loopback that nobody listens on, the first ones from `first` on. Raises UIError."""
    last = min(first + PORTS, 65536)
    free = (port for port in range(first, last) if _is_free(port))
    try:
        return next(free), next(free)
    except StopIteration:
        raise UIError(f"no two free ports from {first} to {last - 1}: give another one with --port") from None


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as servers do: no wait for old connections
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _start(name: str, command: Sequence[str], environ: Mapping[str, str], stack: ExitStack) -> Child:
    """Start a child that ends, with its own children, when `stack` does."""
    said = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
    # A session of its own: Ctrl-C reaches this process only, which then ends the children in order.
    process = subprocess.Popen(
        command, env=environ, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
    )
    child = Child(name, process, said)
    stack.callback(child.stop)
    return child


def _get(url: str) -> IO[bytes]:
    """Open a URL without a proxy, which would know nothing of our loopback."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=ANSWER_SECONDS)


def _await_answer(child: Child, url: str) -> None:
    """Return when the child serves `url`."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        child.require_alive()
        with contextlib.suppress(OSError), _get(url):
            return
        time.sleep(POLL_SECONDS)
    raise UIError(f"{child.name} did not answer for {START_SECONDS:.0f} s: {child.last_words()}")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM, and the SIGHUP of a closed terminal, end the block as Ctrl-C does: no child is left behind."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    heard = (
        number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN
    )
    before = {number: signal.signal(number, end) for number in heard}  # nohup has had SIGHUP ignored
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
