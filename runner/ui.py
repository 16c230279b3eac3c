"""The pages of a home, MLflow's UI and TensorBoard, on this machine's loopback and for this user alone.

Both are child processes (runner.ui_child) that listen on sockets in a private folder. This process serves
them on one port behind a token (runner.web_gate).
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from runner import ui_record
from runner.paths import Home
from runner.private import VARIABLE
from runner.redaction import redacted
from runner.tracking import Target, locked, target
from runner.ui_child import (
    ANSWER_SECONDS,
    POLL_SECONDS,
    START_SECONDS,
    Child,
    UIError,
    mlflow_command,
    mlflow_variables,
    start,
    tensorboard_command,
)
from runner.ui_record import Page, Served

HOST = "127.0.0.1"
PORT = 5000
PORTS = 100  # tried from there on
LONGEST_SOCKET = 103  # bytes of a socket's path that every system takes
PATH_BYTES = 9  # of the random path below which everything lies
# Where each page lies below that path; the short links that are printed have the same names.
MLFLOW, TENSORBOARD = "mlflow", "tensorboard"
# The runs of an experiment with a chart for each metric; without the mode it is a table without one.
CHARTS = "runs?workflowType=machine_learning&compareRunsMode=CHART"
PINNED = ("test/accuracy", "test/loss", "train/loss")  # what TensorBoard shows first


class AlreadyServed(Exception):  # noqa: N818 - the name says what happened
    """Another process serves the same pages."""

    def __init__(self, served: Served) -> None:
        super().__init__(f"process {served.pid} serves them on port {served.port}")
        self.served = served


@dataclass(frozen=True)
class Services:
    """Pages that are being served, with the child processes and the server's thread."""

    pages: tuple[Page, ...]
    children: tuple[Child, ...] = ()
    server: threading.Thread | None = None

    def wait(self) -> None:
        """Return never: raises UIError when a server ends, KeyboardInterrupt on Ctrl-C."""
        while True:
            for child in self.children:
                child.require_alive()
            if self.server is not None and not self.server.is_alive():
                raise UIError("the server of the pages ended")
            time.sleep(POLL_SECONDS)


@contextmanager
def serve(
    home: Home,
    port: int = PORT,
    environ: Mapping[str, str] = os.environ,
    prepare: Callable[[], None] | None = None,
) -> Iterator[Services]:
    """Serve MLflow's UI and TensorBoard until the block is left, by Ctrl-C or a signal to end too.

    They answer when the block begins. Where MLFLOW_TRACKING_URI names a server, its own UI is the page;
    where the runs' folders are not to be seen from this host, there is no TensorBoard. Raises UIError, and
    AlreadyServed where another process of this user serves this home; one that is starting is waited for.
    `prepare` is called before the servers start, where none serves it.
    """
    tracking = target(home, environ)
    if tracking.served and not home.runs.is_dir():
        yield Services((Page("MLflow", _external(tracking)),))
        return
    with ExitStack() as stack:
        stack.enter_context(_ended_by_signals())
        place = stack.enter_context(_claimed(home))
        if prepare is not None:
            prepare()
        before = ui_record.read(place)
        path = before.path if before else f"/{secrets.token_urlsafe(PATH_BYTES)}"
        children = _started(home, tracking, environ, place, path, stack)
        services, served = _opened(tracking, children, path, port, stack)
        ui_record.write(place, served)
        stack.callback(ui_record.write, place, Served(path))
        yield services


@contextmanager
def _claimed(home: Home) -> Iterator[Path]:
    """Lock the folder of a home's server for this process; yield it. Raises AlreadyServed and UIError."""
    try:
        place = ui_record.folder(home.root)
    except PermissionError as error:
        raise UIError(str(error)) from error
    if len(os.fsencode(place / f"{TENSORBOARD}.sock")) > LONGEST_SOCKET:
        raise UIError(f"{place}: too long a path for a socket: set {VARIABLE} to a shorter one")
    served = None
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with ui_record.locked(place) as held:
            if held:
                yield place
                return
        served = ui_record.read(place)
        if served is not None and _answers(served):
            raise AlreadyServed(served)
        time.sleep(POLL_SECONDS)
    whose = f", process {served.pid}," if served is not None and served.pid else ""
    raise UIError(f"another `ui` of this home{whose} does not answer: end it, and try again")


def _answers(served: Served) -> bool:
    """Return whether a server takes the token on record; another process may have the port by now."""
    if not served.pages or served.port is None:
        return False
    connection = http.client.HTTPConnection(HOST, served.port, timeout=ANSWER_SECONDS)
    try:
        connection.request("HEAD", f"/?token={served.token}")
        return connection.getresponse().status == http.HTTPStatus.SEE_OTHER
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _started(
    home: Home, tracking: Target, environ: Mapping[str, str], place: Path, path: str, stack: ExitStack
) -> dict[str, Child]:
    """Start the servers, which answer then, and end with `stack`; by the names of their pages."""
    children: dict[str, Child] = {}
    if home.runs.is_dir():  # started first: the two come up beside each other
        board = place / f"{TENSORBOARD}.sock"
        command = tensorboard_command(home, board, f"{path}/{TENSORBOARD}")
        children[TENSORBOARD] = start("TensorBoard", board, command, environ, stack)
    if not tracking.served:
        tracker = place / f"{MLFLOW}.sock"
        # The server sets up a store that is not there yet: not while the publisher does.
        with locked(tracking.lock):
            variables = mlflow_variables(tracking, environ)
            command = mlflow_command(tracking, tracker, f"{path}/{MLFLOW}")
            mlflow = start("MLflow", tracker, command, variables, stack)
            mlflow.await_answer(f"{path}/{MLFLOW}/health")
        children = {MLFLOW: mlflow} | children
    if TENSORBOARD in children:
        children[TENSORBOARD].await_answer(f"{path}/{TENSORBOARD}/")
    return children


def _opened(
    tracking: Target, children: Mapping[str, Child], path: str, port: int, stack: ExitStack
) -> tuple[Services, Served]:
    """Serve the children's pages on one port behind a token, until `stack` ends."""
    from starlette.routing import Mount, Router

    from runner.web_gate import Gate, new_token
    from runner.web_proxy import SocketProxy
    from runner.web_server import PortError, listen, serving

    proxies = {name: SocketProxy(child.socket, child.name) for name, child in children.items()}
    starts = {name: _start_page(name, child, tracking, path) for name, child in children.items()}
    try:
        listener = listen(port, PORTS)
    except PortError as error:
        raise UIError(str(error)) from error
    number = listener.getsockname()[1]
    token = new_token()
    gate = Gate(
        Router([Mount(f"{path}/{name}", app=proxy) for name, proxy in proxies.items()]),
        token,
        cookie=f"runner-{number}",
        path=path,
        pages={"/": next(iter(starts.values()))} | {f"/{name}": page for name, page in starts.items()},
    )

    async def close() -> None:
        for proxy in proxies.values():
            await proxy.close()

    server = stack.enter_context(serving(gate, listener, close))
    links = [
        Page(child.name, f"http://{HOST}:{number}/{name}?token={token}") for name, child in children.items()
    ]
    pages = (*([Page("MLflow", _external(tracking))] if tracking.served else []), *links)
    services = Services(pages, tuple(children.values()), server)
    return services, Served(path, number, os.getpid(), token, pages)


def _start_page(name: str, child: Child, tracking: Target, path: str) -> str:
    """Return the address, on its own server, of the page to begin with."""
    if name == TENSORBOARD:
        pinned = json.dumps([{"plugin": "scalars", "tag": tag} for tag in PINNED], separators=(",", ":"))
        return f"{path}/{TENSORBOARD}/?{urllib.parse.urlencode({'pinnedCards': pinned})}#timeseries"
    root = f"{path}/{MLFLOW}"
    try:
        _, answer = child.get(f"{root}{_experiment_query(tracking.experiment)}")
        return f"{root}/{_charts(json.loads(answer))}"
    except (OSError, ValueError, KeyError, http.client.HTTPException):  # no such experiment yet
        return f"{root}/"


def _external(tracking: Target) -> str:
    """Return the page of a tracking server with the experiment's runs, or its start page."""
    url = redacted(tracking.uri).rstrip("/")
    try:
        with _get(f"{url}{_experiment_query(tracking.experiment)}") as answer:
            return f"{url}/{_charts(json.load(answer))}"
    except (OSError, ValueError, KeyError):  # not there yet, or a server that wants to be logged in to
        return url


def _experiment_query(experiment: str) -> str:
    query = urllib.parse.urlencode({"experiment_name": experiment})
    return f"/api/2.0/mlflow/experiments/get-by-name?{query}"


def _charts(answer: Mapping[str, Mapping[str, str]]) -> str:
    return f"#/experiments/{answer['experiment']['experiment_id']}/{CHARTS}"


def _get(url: str) -> IO[bytes]:
    """Open a URL without a proxy, which would know nothing of our loopback."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=ANSWER_SECONDS)


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
