"""MLflow's UI or TensorBoard as a child process, on a socket that only this user can reach.

Does not import mlflow or TensorBoard: this process only starts them, waits and ends them.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from runner.paths import Home
from runner.redaction import redacted
from runner.tracking import SETTINGS, Target

START_SECONDS = 120.0
ANSWER_SECONDS = 3.0
STOP_SECONDS = 5.0
POLL_SECONDS = 0.1
LINES = 5  # of what a child said last, in the error
# One worker and no engine for jobs that nobody here submits: 0.4 GB and 5 s instead of 2.3 GB and 20 s. Which
# hosts may ask, the gate before it decides.
MLFLOW_SETTINGS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_SERVER_ALLOWED_HOSTS": "*"}
MLFLOW_OPTIONS = frozenset(  # of another server than this one, if they are set
    {
        "MLFLOW_ARTIFACTS_ONLY",
        "MLFLOW_EXPOSE_PROMETHEUS",
        "MLFLOW_GUNICORN_OPTS",
        "MLFLOW_HOST",
        "MLFLOW_PORT",
        "MLFLOW_SERVE_ARTIFACTS",
    }
)


class UIError(Exception):
    """A user interface did not start, or ended; one line."""


@dataclass
class Child:
    """A server that runs as a child of this process, on a socket."""

    name: str
    process: subprocess.Popen[bytes]
    said: IO[bytes]  # all that it has printed
    socket: Path

    def require_alive(self) -> None:
        if self.process.poll() is not None:
            raise UIError(f"{self.name} ended (exit {self.process.returncode}): {self.last_words()}")

    def last_words(self) -> str:
        self.said.seek(0)
        said = redacted(self.said.read().decode(errors="replace"))
        lines = [line.strip() for line in said.splitlines()]
        return " | ".join(list(filter(None, lines))[-LINES:]) or "it said nothing"

    def await_answer(self, path: str) -> None:
        """Wait until it serves `path`. Raises UIError after START_SECONDS."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.require_alive()
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.get(path)[0] == http.HTTPStatus.OK:
                    return
            time.sleep(POLL_SECONDS)
        raise UIError(f"{self.name} did not answer for {START_SECONDS:.0f} s: {self.last_words()}")

    def get(self, path: str) -> tuple[int, bytes]:
        """Return the status and the body of its answer to a GET of `path`."""
        with contextlib.closing(_SocketConnection(self.socket)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def stop(self) -> None:
        """End it and its children: by SIGTERM, then by SIGKILL after STOP_SECONDS at most."""
        for order in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, order)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(ANSWER_SECONDS)
        self.sock.connect(str(self._path))


def mlflow_variables(tracking: Target, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of MLflow's server.

    The store's URI is a part of it and not of the command line, which all users may read: it may hold a
    password.
    """
    kept = {key: value for key, value in environ.items() if key not in MLFLOW_OPTIONS}
    return {**SETTINGS, **kept, **MLFLOW_SETTINGS, "MLFLOW_BACKEND_STORE_URI": tracking.uri}


def mlflow_command(tracking: Target, socket: Path, prefix: str) -> list[str]:
    """MLflow's server with one worker on a socket, its pages below `prefix`."""
    command = ["mlflow", "server"]
    if tracking.artifacts:
        command += ["--default-artifact-root", tracking.artifacts]
    options = f"--uds {shlex.quote(str(socket))} --log-level=warning"
    return _tied([*command, "--workers", "1", "--static-prefix", prefix, "--uvicorn-opts", options])


def tensorboard_command(home: Home, socket: Path, prefix: str) -> list[str]:
    """TensorBoard on all runs of a home; each is named by its folder there."""
    program = str(Path(__file__).with_name("tensorboard_server.py"))
    return _tied([program, str(socket), str(home.runs), prefix, f"{home.runs.name} - TensorBoard"])


def _tied(words: Sequence[str]) -> list[str]:
    """Return a command that ends with this process, even where that is killed."""
    return [sys.executable, "-P", str(Path(__file__).with_name("run_tied.py")), *words]


def start(
    name: str, socket: Path, command: Sequence[str], environ: Mapping[str, str], stack: ExitStack
) -> Child:
    """Start a child that ends, with its own children, when `stack` does."""
    socket.unlink(missing_ok=True)  # left by one that was killed
    said = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
    # A session of its own: Ctrl-C reaches this process only, which then ends the children in order.
    process = subprocess.Popen(
        command, env=environ, stdin=subprocess.PIPE, stdout=said, stderr=said, start_new_session=True
    )
    assert process.stdin is not None
    stack.callback(process.stdin.close)
    child = Child(name, process, said, socket)
    stack.callback(child.stop)
    return child
