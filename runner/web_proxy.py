"""An ASGI application that passes requests on to a server behind a UNIX socket, and streams the answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from http import HTTPStatus
from pathlib import Path

import aiohttp
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send
from yarl import URL

CONNECT_SECONDS = 5.0
# Headers that concern one connection (RFC 9110, section 7.6.1), and not what is transferred.
OF_CONNECTION = frozenset(
    {
        "connection",
        "expect",  # both connections of a request settle for themselves whether its body is wanted
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
NO_LIMIT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)  # a large file takes its time
OURS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")  # what aiohttp would add by itself


class SocketProxy:
    """Proxy that keeps the path, query and Host of requests as they are: the server knows its own prefix.

    WebSockets are refused: neither MLflow nor TensorBoard uses them. Close it in the event loop that served.
    """

    def __init__(self, socket: Path, name: str) -> None:
        """`name`: of the server, for the answer where it does not respond."""
        self._socket = socket
        self._name = name
        self._opened: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003, "reason": "not supported"})
            return
        request = Request(scope, receive)
        path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        url = URL.build(
            scheme="http",
            host="localhost",
            path=path,
            query_string=scope["query_string"].decode("latin-1"),
            encoded=True,
        )
        try:
            answer = await self._session().request(
                request.method,
                url,
                headers=_passed_on(request.headers.items()),
                data=request.stream() if _has_body(request.headers) else None,
                allow_redirects=False,
            )
        except aiohttp.ClientError as error:
            said = f"{self._name} does not answer: {type(error).__name__}\n"
            await PlainTextResponse(said, HTTPStatus.BAD_GATEWAY)(scope, receive, send)
            return
        async with answer:
            passed_on = StreamingResponse(_pieces(answer), answer.status)
            passed_on.raw_headers = [
                (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
                for name, value in _passed_on(answer.headers.items())
            ]
            await passed_on(scope, receive, send)

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    def _session(self) -> aiohttp.ClientSession:
        """Return the client, made in the event loop that serves.

        Each request has a connection of its own: a server may close one that waits for the next request at
        the moment at which that is sent, and a request that changes something must not be sent twice.
        """
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(self._socket), force_close=True),
                timeout=NO_LIMIT,
                auto_decompress=False,
                skip_auto_headers=OURS,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._opened


async def _pieces(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async for piece in answer.content.iter_any():
        yield piece


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _passed_on(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    found = list(headers)
    named = {
        word.strip().lower()
        for name, value in found
        if name.lower() == "connection"
        for word in value.split(",")
    }
    return [(name, value) for name, value in found if name.lower() not in OF_CONNECTION | named]
