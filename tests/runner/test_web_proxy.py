"""Requests that are passed on to a server behind a socket, and its answers: a real port, a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import socketserver
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from runner.web_proxy import SocketProxy
from runner.web_server import HOST, listen, serving

PIECE = b"x" * (1 << 16)
NONE: Mapping[str, str] = {}
PIECES = 200  # 13 MB, more than any buffer on the way holds


class Behind(BaseHTTPRequestHandler):
    """The server behind the socket."""

    protocol_version = "HTTP/1.1"
    goes_on = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/twice":
            self.answer(
                b"", {"Set-Cookie": "a=1", "set-cookie": "b=2", "Connection": "X-Mine", "X-Mine": "1"}
            )
        elif self.path == "/packed":
            self.answer(gzip.compress(b"text"), {"Content-Encoding": "gzip"})
        elif self.path == "/moved":
            self.answer(b"", {"Location": "/twice"}, status=302)
        elif self.path == "/slow":
            self.send_response(200)
            self.send_header("Content-Length", str(PIECES * len(PIECE)))
            self.end_headers()
            self.wfile.write(PIECE)
            self.goes_on.wait()
            for _ in range(PIECES - 1):
                self.wfile.write(PIECE)
        elif self.path == "/broken":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half")
            self.close_connection = True
        else:
            self.answer(f"{self.command} {self.path} {self.headers['Host']}".encode())

    do_HEAD = do_DELETE = do_GET  # noqa: N815 - as the library calls them

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        self.answer(f"{size} {self.rfile.read(size) == PIECE * 3} {self.headers['Content-Type']}".encode())

    def answer(self, body: bytes, headers: Mapping[str, str] = NONE, status: int = 200) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - the library's name
        pass


class SocketServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def get_request(self):
        request, _ = super().get_request()
        return request, ("behind", 0)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a proxy that forwards to the server."""
    path = tmp_path_factory.mktemp("s") / "s"
    with SocketServer(str(path), Behind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        proxy = SocketProxy(path, "The server")
        with contextlib.closing(listen(6000, 1000)) as listener, serving(proxy, listener, proxy.close):
            yield listener.getsockname()[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def connection(port: int) -> Iterator[http.client.HTTPConnection]:
    with contextlib.closing(http.client.HTTPConnection(HOST, port)) as connection:
        yield connection


def test_path_and_query_and_host_arrive_as_they_were_sent(connection: http.client.HTTPConnection) -> None:
    target = "/a%2Fb%20c/../d?x=%26+y&z=%E2%82%AC"
    connection.request("GET", target, headers={"Host": "127.0.0.1:7777"})
    assert connection.getresponse().read().decode() == f"GET {target} 127.0.0.1:7777"


def test_an_answer_of_any_length_is_passed_on_while_it_comes(connection: http.client.HTTPConnection) -> None:
    Behind.goes_on.clear()
    connection.request("GET", "/slow")
    answer = connection.getresponse()
    assert answer.read(len(PIECE)) == PIECE  # the server sends no more before the event
    Behind.goes_on.set()
    assert answer.getheader("content-length") == str(PIECES * len(PIECE))
    assert sum(len(piece) for piece in iter(lambda: answer.read(1 << 20), b"")) == (PIECES - 1) * len(PIECE)


@pytest.mark.parametrize("in_pieces", [False, True])
def test_what_is_uploaded_arrives_whole(connection: http.client.HTTPConnection, in_pieces: bool) -> None:
    headers = {"Content-Type": "image/png", "Content-Length": str(3 * len(PIECE))}
    connection.request("POST", "/", body=iter([PIECE] * 3) if in_pieces else PIECE * 3, headers=headers)
    assert connection.getresponse().read().decode() == f"{3 * len(PIECE)} True image/png"


def test_an_answer_is_not_unpacked_on_the_way(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/packed")
    answer = connection.getresponse()
    assert answer.getheader("content-encoding") == "gzip"
    assert gzip.decompress(answer.read()) == b"text"


def test_headers_arrive_as_often_as_they_were_sent_but_for_those_of_the_connection(
    connection: http.client.HTTPConnection,
) -> None:
    connection.request("GET", "/twice")
    answer = connection.getresponse()
    assert [value for name, value in answer.getheaders() if name == "set-cookie"] == ["a=1", "b=2"]
    assert answer.getheader("x-mine") is None


def test_a_redirect_is_left_to_the_browser(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/moved")
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("location")) == (302, "/twice")


def test_a_head_has_the_length_and_no_body(connection: http.client.HTTPConnection) -> None:
    connection.request("HEAD", "/head")
    answer = connection.getresponse()
    assert int(answer.getheader("content-length") or 0) > 0 and answer.read() == b""
    connection.request("DELETE", "/next")  # the connection is still in order
    assert connection.getresponse().read().startswith(b"DELETE /next")


def test_an_answer_that_breaks_off_does_not_pass_for_whole(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/broken")
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        connection.getresponse().read()


def test_a_server_that_is_gone_is_one_line(tmp_path: Path) -> None:
    proxy = SocketProxy(tmp_path / "s", "MLflow")
    with (
        contextlib.closing(listen(6000, 1000)) as listener,
        serving(proxy, listener, proxy.close),
        contextlib.closing(http.client.HTTPConnection(*listener.getsockname())) as connection,
    ):
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (
            502,
            b"MLflow does not answer: UnixClientConnectorError\n",
        )


def test_a_websocket_is_refused(tmp_path: Path) -> None:
    sent = []

    async def send(message) -> None:
        sent.append(message["type"])

    asyncio.run(SocketProxy(tmp_path / "s", "MLflow")({"type": "websocket"}, None, send))  # type: ignore[arg-type] # nothing is received
    assert sent == ["websocket.close"]
