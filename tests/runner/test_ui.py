"""The two servers, really started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from patience import PATIENCE, wait_until

from runner import ui
from runner.paths import Home

# What the command `ui` does, without its printing.
SERVE = """
import json, sys
from pathlib import Path
from runner.paths import Home
from runner.ui import serve
with serve(Home(Path(sys.argv[1])), int(sys.argv[2])) as services:
    print(json.dumps([page.url for page in services.pages]), flush=True)
    services.wait()
"""
ELSEWHERE = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}  # where nobody answers


@contextmanager
def listening() -> Iterator[int]:
    """A port of loopback on which somebody else listens, with free ones after it."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def get(url: str, host: str = "") -> bytes:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def wait_until_gone(pids: list[int]) -> None:
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), f"the end of {pids}")


@contextmanager
def served(
    home: Path, port: int, environ: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A process that serves, and its pages. A proxy that is of no use here must not be in its way."""
    command = [sys.executable, "-c", SERVE, str(home), str(port)]
    environ = {**os.environ, "http_proxy": "http://127.0.0.1:9", **environ}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())


def descendants(process: subprocess.Popen) -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]


def test_both_pages_answer_on_the_next_free_ports_until_ctrl_c_ends_both_servers(
    new_mlflow_store: Path,
) -> None:
    with listening() as taken, served(new_mlflow_store.parent, taken, {}) as (process, pages):
        mlflow, _, experiment = pages[0].partition("/#")
        port = int(mlflow.removeprefix("http://127.0.0.1:"))
        assert port > taken
        assert experiment == "/experiments/1/runs?workflowType=machine_learning"
        assert b"<title>MLflow</title>" in get(mlflow)
        assert b"<title>MLflow</title>" in get(mlflow, host=f"localhost:{port}")
        assert b"TensorBoard" in get(pages[1])
        children = descendants(process)
        assert len(children) >= 2
        called = [word for pid in children for word in psutil.Process(pid).cmdline()]
        assert not any("mlflow.db" in word for word in called)  # the store's URI may hold a password
        process.send_signal(signal.SIGINT)
    wait_until_gone(children)


def test_a_closed_terminal_leaves_no_server_behind(tmp_path: Path) -> None:
    with served(tmp_path, 5000, ELSEWHERE) as (process, _):
        children = descendants(process)
        assert children
        process.send_signal(signal.SIGHUP)
        assert process.wait(PATIENCE) == 128 + signal.SIGHUP
    wait_until_gone(children)


def test_a_server_that_cannot_start_says_its_last_words_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database " * 100)
    with (
        pytest.raises(ui.UIError, match=r"MLflow ended .*file is not a database") as caught,
        ui.serve(Home(tmp_path)),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_tracking_server_that_is_named_is_the_page_and_only_tensorboard_is_started(tmp_path: Path) -> None:
    with ui.serve(Home(tmp_path), environ=ELSEWHERE) as services:
        assert [page.name for page in services.pages] == ["MLflow", "TensorBoard"]
        assert services.pages[0].url == ELSEWHERE["MLFLOW_TRACKING_URI"]
        assert [child.name for child in services.children] == ["TensorBoard"]


def test_the_page_of_a_tracking_server_does_not_show_its_password(tmp_path: Path) -> None:
    with_password = {"MLFLOW_TRACKING_URI": "http://ada:secret@127.0.0.1:9/mlflow/"}
    with ui.serve(Home(tmp_path), environ=with_password) as services:
        assert services.pages[0].url == "http://127.0.0.1:9/mlflow"


def test_a_host_without_the_runs_folders_names_the_server_and_starts_nothing(
    tmp_path: Path,
) -> None:
    with ui.serve(Home(tmp_path / "elsewhere", "postgresql://lab"), environ=ELSEWHERE) as services:
        assert [page.url for page in services.pages] == [ELSEWHERE["MLFLOW_TRACKING_URI"]]
        assert services.children == ()


def test_a_server_that_ends_later_ends_the_wait(tmp_path: Path) -> None:
    with ui.serve(Home(tmp_path), environ=ELSEWHERE) as services:
        services.children[0].process.kill()
        with pytest.raises(ui.UIError, match=r"TensorBoard ended \(exit -9\)"):
            services.wait()


def test_no_free_port_is_one_line_with_a_way_out() -> None:
    with pytest.raises(ui.UIError, match="from 65535 to 65535: give another one with --port"):
        ui.free_ports(65535)
