"""Server of an ASGI application on a port of loopback, in a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

HOST = "127.0.0.1"
BACKLOG = 128
STOP_SECONDS = 2  # for answers under way


class PortError(Exception):
    """No port is free; one line."""


def listen(first: int, ports: int) -> socket.socket:
    """Listen on the first free port of loopback from `first` on. Raises PortError.

    Bound once and kept: a port that was only looked at may be taken by another process a moment later.
    """
    last = min(first + ports, 65536)
    for port in range(first, last):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # no wait for old connections
        try:
            listener.bind((HOST, port))
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
        else:
            return listener
    raise PortError(f"no free port from {first} to {last - 1}: give another one with --port")


@contextlib.contextmanager
def serving(
    app: ASGIApp, listener: socket.socket, closing: Callable[[], Awaitable[object]]
) -> Iterator[threading.Thread]:
    """Serve until the block is left; answers from its beginning on. `closing` is awaited at the end.

    Yields the thread that serves; when it ends, nothing is served any more.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",
        access_log=False,  # addresses hold the token
        proxy_headers=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = uvicorn.Server(config)

    async def serve() -> None:
        try:
            await server.serve(sockets=[listener])
        finally:
            await closing()

    # The listener takes connections already; those that come before the thread runs wait in its queue.
    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="web server", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        server.should_exit = True
        thread.join()
