"""The pages of a home: both servers, really started, and who can reach them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from http.cookiejar import CookieJar
from pathlib import Path

import psutil
import pytest
from cli_harness import Lab
from patience import PATIENCE, wait_until

from runner import exits, ui, ui_record
from runner.paths import Home

# Does the same as the command `ui`, without its printing.
SERVE = """
import json, sys
from pathlib import Path
from runner.paths import Home
from runner.ui import serve
with serve(Home(Path(sys.argv[1])), int(sys.argv[2])) as services:
    print(json.dumps({page.name: page.url for page in services.pages}), flush=True)
    services.wait()
"""
ELSEWHERE = {
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"
}  # no server answers there: only TensorBoard is started
NOBODY = 65534


@dataclass
class Serving:
    """A process that serves, and the links that it printed."""

    process: subprocess.Popen[str]
    links: dict[str, str]

    @property
    def port(self) -> int:
        return int(self.links["TensorBoard"].split(":")[2].partition("/")[0])

    @property
    def children(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]

    @property
    def token(self) -> str:
        return self.links["TensorBoard"].partition("token=")[2]


@contextmanager
def serving(home: Path, port: int = 5000, variables: Mapping[str, str] = os.environ) -> Iterator[Serving]:
    """Serve until the block ends; a useless proxy is set, which the server must not use."""
    command = [sys.executable, "-c", SERVE, str(home), str(port)]
    environ = {**os.environ, "http_proxy": "http://127.0.0.1:9", **variables}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Serving(process, json.loads(process.stdout.readline()))
        finally:
            process.terminate()


@contextmanager
def listening() -> Iterator[int]:
    """A port of loopback on which another server listens, with free ports after it."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


class Browser:
    """Keeps cookies and follows redirects."""

    def __init__(self) -> None:
        keeps_cookies = urllib.request.HTTPCookieProcessor(CookieJar())
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), keeps_cookies)

    def get(self, url: str, **headers: str) -> HTTPResponse:
        return self._opener.open(urllib.request.Request(url, headers=headers), timeout=60)

    def status(self, url: str, **headers: str) -> int:
        try:
            return self.get(url, **headers).status
        except urllib.error.HTTPError as error:
            return error.code


def wait_until_gone(pids: list[int]) -> None:
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), f"the end of {pids}")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, new_mlflow_store: Path) -> Path:
    home = tmp_path_factory.mktemp("home")
    shutil.copy(new_mlflow_store, home)
    return home


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Serving]:
    with listening() as taken, serving(home, taken) as serving_:
        assert serving_.port > taken
        yield serving_


def test_each_link_opens_its_page_and_its_cookie_the_pages_behind_it(served: Serving) -> None:
    browser = Browser()
    charts = browser.get(served.links["MLflow"])
    assert b"<title>MLflow</title>" in charts.read()
    root, _, page = charts.url.partition("#")
    assert page == "/experiments/1/runs?workflowType=machine_learning&compareRunsMode=CHART"
    found = browser.get(f"{root}ajax-api/2.0/mlflow/experiments/get?experiment_id=1")
    assert json.load(found)["experiment"]["name"] == "capsnet"
    board = browser.get(served.links["TensorBoard"])
    assert b"TensorBoard" in board.read()
    assert "pinnedCards" in board.url and "test%2Faccuracy" in board.url
    assert json.load(browser.get(f"{board.url.partition('?')[0]}data/runs")) == []


def test_without_a_link_neither_server_says_anything(served: Serving) -> None:
    with_link = Browser()
    urls = [with_link.get(link).url.partition("?")[0].partition("#")[0] for link in served.links.values()]
    for url in (*urls, f"http://127.0.0.1:{served.port}/", f"{urls[0]}health", f"{urls[1]}data/runs"):
        assert Browser().status(url) == 401
        assert with_link.status(url, Host="evil.example") == 400
        assert with_link.status(url, Origin="http://127.0.0.1:6666") == 403


def test_a_program_may_use_mlflows_api_with_the_token(served: Serving) -> None:
    root = Browser().get(served.links["MLflow"]).url.partition("#")[0]
    url = f"{root}api/2.0/mlflow/experiments/get-by-name?experiment_name=capsnet"
    assert Browser().status(url, Authorization=f"Bearer {served.token}") == 200
    assert Browser().status(url, Authorization="Bearer wrong") == 401


def test_no_server_listens_where_other_users_are_let_in(served: Serving, home: Path) -> None:
    pids = [served.process.pid, *served.children]
    listening = [
        connection.laddr
        for pid in pids
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == [("127.0.0.1", served.port)]
    sockets = [
        Path(str(connection.laddr))
        for pid in pids
        for connection in psutil.Process(pid).net_connections("unix")
        if str(connection.laddr).endswith(".sock")
    ]
    assert {path.name for path in sockets} == {"mlflow.sock", "tensorboard.sock"}
    for folder in {path.parent for path in sockets}:
        assert (stat.S_IMODE(folder.stat().st_mode), folder.stat().st_uid) == (0o700, os.getuid())
    assert stat.S_IMODE((ui_record.folder(home) / ui_record.RECORD).stat().st_mode) == 0o600


def test_neither_the_token_nor_the_stores_uri_stands_on_a_command_line(served: Serving) -> None:
    called = [word for pid in served.children for word in psutil.Process(pid).cmdline()]
    assert not any("mlflow.db" in word or served.token in word for word in called)


ATTACK = """
import encodings.idna, os, socket, sys, urllib.request, urllib.error  # all now: Python may lie in root's home
os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
port, folder, pid = sys.argv[2:]
for path in ("/", "/mlflow", "/mlflow/api/2.0/mlflow/experiments/search", "/tensorboard/data/runs"):
    try:
        print("REACHED", urllib.request.urlopen(f"http://127.0.0.1:{port}{path}").read())
    except urllib.error.HTTPError as error:
        assert error.code == 401, error
for name in ("mlflow.sock", "tensorboard.sock"):
    try:
        socket.socket(socket.AF_UNIX).connect(f"{folder}/{name}")
        print("CONNECTED", name)
    except PermissionError:
        pass
for file in (f"{folder}/served.json", f"/proc/{pid}/environ", f"/proc/{pid}/mem"):
    try:
        print("READ", file, open(file, "rb").read(1))
    except OSError:
        pass
print("done")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_of_the_machine_gets_in_nowhere(served: Serving, home: Path) -> None:
    arguments = [NOBODY, served.port, ui_record.folder(home), served.process.pid]
    done = subprocess.run(
        [sys.executable, "-c", ATTACK, *map(str, arguments)],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_a_second_one_says_that_one_runs_and_where(served: Serving, home: Path) -> None:
    with pytest.raises(ui.AlreadyServed) as already, ui.serve(Home(home)):
        pass
    assert already.value.served.pid == served.process.pid
    assert {page.name: page.url for page in already.value.served.pages} == served.links


def test_the_command_prints_the_links_of_the_one_that_runs(
    served: Serving, home: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_HOME", str(home))
    shutil.copy(lab.home.database, home)
    done = lab.call("ui")
    assert done.code == exits.OK
    assert done.out.splitlines() == [f"{name:<12} {link}" for name, link in served.links.items()]
    assert f"process {served.process.pid} serves these pages already" in done.err
    assert all(len(line) <= 80 for line in done.out.splitlines())


def test_ctrl_c_ends_both_servers_and_forgets_the_token(home: Path, served: Serving) -> None:
    children = served.children
    before = ui_record.read(ui_record.folder(home))
    served.process.send_signal(signal.SIGINT)
    served.process.wait(PATIENCE)
    wait_until_gone(children)
    after = ui_record.read(ui_record.folder(home))
    assert before is not None and after == ui_record.Served(before.path)


def test_two_that_start_at_once_are_one_that_serves_and_one_that_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVE, str(tmp_path), "5000"]
    both = [
        subprocess.Popen(
            command,
            env={**os.environ, **ELSEWHERE},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    [other] = wait_until(lambda: [process for process in both if process.poll() is not None])
    [first] = [process for process in both if process is not other]
    assert "AlreadyServed: process" in other.communicate()[1]
    assert first.stdout is not None
    links = json.loads(first.stdout.readline())
    assert Browser().status(links["TensorBoard"]) == 200
    first.terminate()
    first.communicate(timeout=PATIENCE)


def test_one_that_is_killed_leaves_no_server_behind_and_the_next_has_the_same_addresses(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, variables=ELSEWHERE) as killed:
        children = killed.children
        address = Browser().get(killed.links["TensorBoard"]).url
        killed.process.kill()
        killed.process.wait(PATIENCE)
    wait_until_gone(children)
    with serving(tmp_path, killed.port, ELSEWHERE) as after:
        assert after.token != killed.token
        browser = Browser()
        assert browser.status(killed.links["TensorBoard"]) == 401
        assert (
            browser.get(after.links["TensorBoard"]).url.partition("?")[0].split("/")[3:]
            == (address.partition("?")[0].split("/")[3:])
        )


def test_a_closed_terminal_leaves_no_server_behind(tmp_path: Path) -> None:
    with serving(tmp_path, variables=ELSEWHERE) as served:
        children = served.children
        assert children
        served.process.send_signal(signal.SIGHUP)
        assert served.process.wait(PATIENCE) == 128 + signal.SIGHUP
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
    with_password = {"MLFLOW_TRACKING_URI": "http://ada:secret@127.0.0.1:9/mlflow/"}
    with ui.serve(Home(tmp_path), environ=with_password) as services:
        assert [page.name for page in services.pages] == ["MLflow", "TensorBoard"]
        assert services.pages[0].url == "http://127.0.0.1:9/mlflow"
        assert [child.name for child in services.children] == ["TensorBoard"]
        services.children[0].process.kill()
        with pytest.raises(ui.UIError, match=r"TensorBoard ended \(exit -9\)"):
            services.wait()


def test_a_host_without_the_runs_folders_names_the_server_and_starts_nothing(
    tmp_path: Path,
) -> None:
    with ui.serve(Home(tmp_path / "elsewhere", "postgresql://lab"), environ=ELSEWHERE) as services:
        assert [page.url for page in services.pages] == [ELSEWHERE["MLFLOW_TRACKING_URI"]]
        assert services.children == ()


def test_a_temporary_folder_with_too_long_a_path_is_one_line_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with (
        pytest.raises(ui.UIError, match="too long a path for a socket: set RUNNER_RAY_DIR"),
        ui.serve(Home(tmp_path)),
    ):
        pass
