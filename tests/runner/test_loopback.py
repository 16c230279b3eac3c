"""Servers on this machine while a proxy is set that refuses them, like those of companies and clusters."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import s3

from runner import storage, tracking
from runner.loopback import bypass_proxies
from runner.paths import Home

PROXY = "http://127.0.0.1:9"  # where nothing listens


@pytest.fixture(autouse=True)
def proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, PROXY)
    for name in ("NO_PROXY", "no_proxy"):  # set first, so that what is changed in the test is undone
        monkeypatch.setenv(name, "")


class Version(http.server.BaseHTTPRequestHandler):
    """The one page of an MLflow server that is too old."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"2.9.0")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Version) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_tracking_server_of_this_machine_is_asked_without_the_proxy(server: str, tmp_path: Path) -> None:
    tracker = tracking.Tracker(tracking.target(Home(tmp_path), {"MLFLOW_TRACKING_URI": server}))
    with pytest.raises(tracking.TrackingError, match="this server is MLflow 2"):
        tracker.check()


def test_an_object_store_of_this_machine_is_asked_without_the_proxy(
    s3_server: s3.Server, tmp_path: Path
) -> None:
    """In a process of its own: connections to the store outlive a test."""
    code = (
        "import sys; from pathlib import Path; from runner import storage; from runner.paths import Home\n"
        "storage.of(Home(Path('.'), storage=sys.argv[1])).check('queue')"
    )
    url = s3_server.new_url()
    subprocess.run([sys.executable, "-c", code, url], check=True, cwd=tmp_path)
    bypass_proxies()
    with pytest.raises(storage.StorageError, match="holds the runs of another queue"):
        storage.of(Home(tmp_path, storage=url)).check("another")


def test_a_server_elsewhere_that_the_proxy_refuses_is_one_line_that_names_the_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bypass_proxies()
    with pytest.raises(requests.RequestException) as caught:
        requests.get("http://mlflow.invalid:5000/", timeout=60)
    said = tracking.explain(caught.value)
    assert said.startswith("the proxy that HTTP_PROXY or HTTPS_PROXY names (NO_PROXY leaves hosts out): ")
    assert "Connection refused" in said and "\n" not in said


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_hosts_that_were_left_out_of_the_proxy_stay_so(name: str) -> None:
    environ = {name: "example.org, localhost"}
    bypass_proxies(environ)
    assert environ == dict.fromkeys(("no_proxy", "NO_PROXY"), "example.org,localhost,127.0.0.1,::1")
    bypass_proxies(environ)
    assert environ["NO_PROXY"].count("localhost") == 1
