"""The gate before the pages, served on a port of loopback: requests that pass, and their form behind it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import urllib.parse
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from starlette.datastructures import Headers

from runner.web_gate import Gate, is_foreign, new_token
from runner.web_server import HOST, PortError, listen, serving

TOKEN = "Zk3_x-9aQ2LmR7vTn0Wd5g"
PATH = "/guess-me"
START = f"{PATH}/app/#/start"
COOKIE = {"cookie": f"runner={TOKEN}"}
NO_COOKIES: dict[str, str] = {}


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it was asked."""
    headers = [[name.decode(), value.decode()] for name, value in scope["headers"]]
    seen = {"path": scope["path"], "query": scope["query_string"].decode(), "headers": headers}
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"yes")]})
    await send({"type": "http.response.body", "body": json.dumps(seen).encode()})


GATE = Gate(echo, TOKEN, cookie="runner", path=PATH, pages={"/": START, "/app": START})


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def seen(self) -> dict[str, Any]:
        """Request that reached the application behind the gate: path, query and headers."""
        return json.loads(self.body)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    async def nothing_to_close() -> None:
        pass

    with contextlib.closing(listen(5000, 1000)) as listener:
        number = listener.getsockname()[1]
        with serving(GATE, listener, nothing_to_close):
            yield number


def ask(port: int, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Answer:
    with contextlib.closing(http.client.HTTPConnection(HOST, port)) as connection:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, named, answer.read())


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
@pytest.mark.parametrize(
    "path", ["/", "/app", f"{PATH}/", f"{PATH}/app/x", f"{PATH}/../app", "//app", "/%2e"]
)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"cookie": "runner="},
        {"cookie": f"runner={TOKEN[:-1]}"},
        {"cookie": f"other={TOKEN}"},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
    ],
)
def test_without_the_token_nothing_is_reached(
    port: int, path: str, headers: dict[str, str], method: str
) -> None:
    answer = ask(port, path, headers, method)
    assert answer.status == 401
    assert "x-app" not in answer.headers and PATH.encode() not in answer.body


@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong", f"?token={TOKEN}x", f"?Token={TOKEN}"])
def test_a_wrong_link_gives_no_cookie(port: int, query: str) -> None:
    answer = ask(port, f"/{query}")
    assert (answer.status, "set-cookie" in answer.headers) == (401, False)


@pytest.mark.parametrize("path", ["/", "/app", "/app/"])
def test_a_link_is_exchanged_for_a_cookie_and_leads_to_its_page(port: int, path: str) -> None:
    answer = ask(port, f"{path}?token={TOKEN}")
    assert (answer.status, answer.headers["location"]) == (303, START)
    cookie, *attributes = answer.headers["set-cookie"].split("; ")
    assert cookie == f"runner={TOKEN}"
    assert set(attributes) == {"HttpOnly", f"Path={PATH}/", "SameSite=strict"}
    assert answer.headers["cache-control"] == "no-store"


def test_with_the_cookie_the_application_answers_and_sees_no_secret(port: int) -> None:
    headers = {"cookie": f"theme=dark; runner={TOKEN}", "x-forwarded-for": "127.0.0.1", "accept": "text/html"}
    answer = ask(port, f"{PATH}/app/x?a=b", headers)
    assert answer.status == 200
    assert (answer.seen["path"], answer.seen["query"]) == (f"{PATH}/app/x", "a=b")
    seen = dict(answer.seen["headers"])
    assert (seen["cookie"], seen["accept"]) == ("theme=dark", "text/html")
    assert "x-forwarded-for" not in seen
    assert TOKEN not in answer.body.decode()


def test_a_program_may_give_the_token_with_each_request(port: int) -> None:
    answer = ask(port, f"{PATH}/api", {"authorization": f"Bearer {TOKEN}"}, method="POST")
    assert answer.status == 200
    assert TOKEN not in answer.body.decode()


def test_a_cookie_of_the_same_name_that_another_port_has_set_locks_nobody_out(port: int) -> None:
    assert ask(port, f"{PATH}/app", {"cookie": f"runner=theirs; runner={TOKEN}"}).status == 200


def test_a_token_in_the_address_of_a_page_is_taken_out_of_it(port: int) -> None:
    answer = ask(port, f"{PATH}/app/x%20y?a=b%26c&token={TOKEN}")
    assert answer.headers["location"] == f"{PATH}/app/x%20y?a=b%26c"


def test_a_redirect_never_leaves_the_host(port: int) -> None:
    assert ask(port, f"//evil.example/x?token={TOKEN}").headers["location"] == "/evil.example/x"


@pytest.mark.parametrize("name", ["evil.example", "evil.example:5000", "127.0.0.1.evil.example", "[", ""])
@pytest.mark.parametrize("path", [f"{PATH}/app", f"/?token={TOKEN}"])
def test_a_name_that_was_made_to_lead_here_is_refused_even_with_the_token(
    port: int, name: str, path: str
) -> None:
    answer = ask(port, path, {**COOKIE, "host": name})
    assert answer.status == 400
    assert "set-cookie" not in answer.headers and "x-app" not in answer.headers


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost:7777", "[::1]:5000"])
def test_a_forwarded_port_may_have_another_number(port: int, name: str) -> None:
    assert ask(port, f"{PATH}/app", {**COOKIE, "host": name}).status == 200


HERE = "127.0.0.1:5000"
LINK = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({}, False),  # a program, or an old browser
        ({"origin": f"http://{HERE}"}, False),
        ({"origin": "http://127.0.0.1:6666"}, True),  # a page of another user of this machine
        ({"origin": "http://localhost:5000"}, True),
        ({"origin": "https://evil.example"}, True),
        ({"origin": "null"}, True),
        ({"origin": "http://["}, True),
        ({"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}, False),
        ({"sec-fetch-site": "none", **LINK}, False),  # typed, or a bookmark
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, True),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, True),
        ({"sec-fetch-site": "cross-site", **LINK}, False),  # a link that was followed: its page sees nothing
    ],
)
def test_a_page_of_another_origin_may_lead_here_by_a_link_and_do_nothing_else(
    port: int, headers: dict[str, str], foreign: bool
) -> None:
    assert is_foreign(Headers({"host": HERE, **headers})) is foreign
    answer = ask(port, f"{PATH}/app", {**COOKIE, "host": HERE, **headers})
    assert answer.status == (403 if foreign else 200)


@pytest.mark.parametrize("path", ["/", f"{PATH}/app"])
def test_every_answer_keeps_its_address_to_itself_and_out_of_frames(port: int, path: str) -> None:
    headers = ask(port, path, COOKIE).headers
    assert headers["referrer-policy"] == "same-origin"
    assert headers["content-security-policy"] == "frame-ancestors 'self'"


@pytest.mark.parametrize(("cookies", "sent"), [([], "websocket.close"), ([COOKIE["cookie"]], "reached")])
def test_a_websocket_needs_the_token_too(cookies: list[str], sent: str) -> None:
    messages = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "reached"})

    async def send(message: Any) -> None:
        messages.append(message["type"])

    headers = [(b"host", HERE.encode()), *((b"cookie", cookie.encode()) for cookie in cookies)]
    scope = {
        "type": "websocket",
        "path": f"{PATH}/x",
        "query_string": b"",
        "headers": headers,
        "scheme": "ws",
    }
    gate = Gate(application, TOKEN, cookie="runner", path=PATH)
    asyncio.run(gate(scope, None, send))  # type: ignore[arg-type] # nothing is received
    assert messages == [sent]


def test_a_token_is_new_each_time_and_stands_in_a_url_as_it_is() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) == len(TOKEN) and urllib.parse.quote(token) == token for token in tokens)


def test_no_free_port_is_one_line_with_a_way_out() -> None:
    with (
        contextlib.closing(listen(65535, 1)),
        pytest.raises(PortError, match="from 65535 to 65535: give another one with --port"),
    ):
        listen(65535, 100)
