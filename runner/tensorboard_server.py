"""TensorBoard on a UNIX socket, which its own program does not offer; run as a file.

    python tensorboard_server.py SOCKET LOGDIR PATH_PREFIX WINDOW_TITLE

Its own program may also start a server for reading logs, on a TCP port that every user of the machine can
reach: it is not used. Imports nothing of this package.
"""

from __future__ import annotations

import logging
import signal
import sys
from typing import Any

from tensorboard import default, program
from werkzeug.serving import ThreadedWSGIServer

Application = Any  # a WSGI application


def main(socket: str, logdir: str, path_prefix: str, window_title: str) -> None:
    class Server(ThreadedWSGIServer, program.TensorBoardServer):
        def __init__(self, application: Application, flags: Any) -> None:
            super().__init__(f"unix://{socket}", 0, application)

        def get_url(self) -> str:
            return path_prefix

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # else a line for each request
    board = program.TensorBoard(default.get_plugins(), server_class=Server)
    board.configure(logdir=logdir, load_fast="false", path_prefix=path_prefix, window_title=window_title)
    board.launch()
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
