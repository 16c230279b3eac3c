"""An ASGI application behind a token: a link that holds the token is exchanged for a cookie.

Nothing behind the gate sees the token, and nobody without it sees anything behind the gate. Wraps any ASGI
application, such as the pages of `ui`; knows neither MLflow nor TensorBoard.
"""

from __future__ import annotations

import secrets
import urllib.parse
from collections.abc import Collection, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN_BYTES = 16
PARAMETER = "token"  # of a link
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
BEARER = "Bearer "
# Headers by which a client could pretend to be another one.
NOT_PASSED_ON = ("forwarded", "x-forwarded-", "x-real-ip")
# No address of a page leaves it, and no page of another origin shows one of these in a frame.
PROTECTION = {"referrer-policy": "same-origin", "content-security-policy": "frame-ancestors 'self'"}
NO_TOKEN = (
    "This page needs a token: open the link that was printed where it is served.\n"
    "If you came here by a link on another page, reload this one.\n"
)
NOT_THIS_HOST = "This server is not known by that name.\n"
OTHER_PAGE = "Requests from pages of other servers are refused.\n"


def new_token() -> str:
    """128 random bits, as they may stand in a URL."""
    return secrets.token_urlsafe(TOKEN_BYTES)


class Gate:
    """Gate that passes on to `app` the requests with the token, as a cookie or bearer token; refuses others.

    A request with the token in its query gets the cookie and is redirected: to the page that `pages` names
    for its path, else to the same path without the token.

    Everything of `app` lies below `path`, and so does the cookie: browsers send a host's cookies to all its
    ports, where other users may listen, so that `path` should be one that they cannot guess. `hosts`: the
    names under which the server may be asked for, without port; a page of another site whose name was made to
    lead here is refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str,
        *,
        cookie: str,
        path: str = "",
        pages: Mapping[str, str] | None = None,
        hosts: Collection[str] = LOOPBACK,
    ) -> None:
        self._app = app
        self._token = token.encode()
        self._cookie = cookie
        self._path = path
        self._pages = pages or {}
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):  # the server's own start and end
            await self._app(scope, receive, send)
            return
        answer = self._answer(scope)
        if answer is None:
            await self._app(self._without_secrets(scope), receive, _protected(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
        else:
            answer.headers["cache-control"] = "no-store"
            await answer(scope, receive, _protected(send))

    def _answer(self, scope: Scope) -> Response | None:
        """Return the gate's own answer to a request; None: the application is to answer it."""
        headers = Headers(scope=scope)
        if _host_name(headers) not in self._hosts:
            return PlainTextResponse(NOT_THIS_HOST, HTTPStatus.BAD_REQUEST)
        if is_foreign(headers):
            return PlainTextResponse(OTHER_PAGE, HTTPStatus.FORBIDDEN)
        query = urllib.parse.parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if any(name == PARAMETER and self._is_token(value) for name, value in query):
            return self._login(scope, [pair for pair in query if pair[0] != PARAMETER])
        if scope["path"].startswith(f"{self._path}/") and self._has_token(headers):
            return None
        return PlainTextResponse(NO_TOKEN, HTTPStatus.UNAUTHORIZED)

    def _login(self, scope: Scope, query: list[tuple[str, str]]) -> Response:
        """Redirect to what was asked for, with the cookie."""
        path = "/" + urllib.parse.quote(scope["path"].lstrip("/"))  # two slashes would name another host
        same = path + (f"?{urllib.parse.urlencode(query)}" if query else "")
        answer = RedirectResponse(self._pages.get(path.rstrip("/") or "/", same), HTTPStatus.SEE_OTHER)
        answer.set_cookie(
            self._cookie,
            self._token.decode(),
            path=f"{self._path}/",
            httponly=True,
            samesite="strict",
            secure=scope["scheme"] in ("https", "wss"),
        )
        return answer

    def _has_token(self, headers: Headers) -> bool:
        bearer = headers.get("authorization", "").removeprefix(BEARER)
        # Whoever else serves a page on this host may have set a second cookie of the same name.
        cookies = [value for name, value in _cookies(headers) if name == self._cookie]
        return any(map(self._is_token, [bearer, *cookies]))

    def _is_token(self, value: str) -> bool:
        return secrets.compare_digest(value.encode(), self._token)

    def _without_secrets(self, scope: Scope) -> MutableMapping[str, Any]:
        """Return the request as it is passed on: without the token, and without claims of who sent it."""
        headers = Headers(scope=scope)
        kept = [
            (name, value)
            for name, value in headers.items()
            if name != "cookie"
            and not name.startswith(NOT_PASSED_ON)
            and not (name == "authorization" and self._is_token(value.removeprefix(BEARER)))
        ]
        if cookies := [f"{name}={value}" for name, value in _cookies(headers) if name != self._cookie]:
            kept.append(("cookie", "; ".join(cookies)))
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in kept]
        return {**scope, "headers": encoded}


def is_foreign(headers: Headers) -> bool:
    """Return whether a browser's request comes from another origin's page, and not from a followed link.

    Cookies alone do not tell: to a browser all ports of a host are one site.
    """
    origin = headers.get("origin")
    if origin is not None:
        return _netloc(origin) != headers["host"].lower()
    follows_link = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
    return headers.get("sec-fetch-site") in ("cross-site", "same-site") and not follows_link


def _netloc(origin: str) -> str:
    try:
        return urllib.parse.urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _host_name(headers: Headers) -> str | None:
    try:
        return urllib.parse.urlsplit(f"//{headers.get('host', '')}").hostname
    except ValueError:
        return None


def _cookies(headers: Headers) -> list[tuple[str, str]]:
    pairs = (pair.partition("=") for header in headers.getlist("cookie") for pair in header.split(";"))
    return [(name.strip(), value.strip()) for name, _, value in pairs]


def _protected(send: Send) -> Send:
    """Add the headers of protection to an answer."""

    async def send_protected(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = [(name.encode(), value.encode()) for name, value in PROTECTION.items()]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return send_protected
