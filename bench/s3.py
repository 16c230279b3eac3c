"""A real S3 server for tests and benches: moto's, a process of its own, with a bucket."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

BUCKET = "runs"
SERVE = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"
START_SECONDS = 240.0


def missing() -> str | None:
    """Return why no server can be started here; None where one can be."""
    packages = ("s3fs", "moto", "flask")
    lacking = [name for name in packages if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(lacking)}: pip install -e '.[dev]'" if lacking else None


@dataclass
class Server:
    """One S3 server on this machine; its objects are lost when it is killed."""

    port: int
    process: subprocess.Popen[bytes] | None = None
    niceness: int = 0
    number: int = field(default=0)

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables by which clients reach the server."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def new_url(self) -> str:
        """Return a new prefix, which no other caller has."""
        self.number += 1
        return f"s3://{BUCKET}/test-{self.number}"

    def start(self) -> None:
        """Start the server on its port, and make the bucket."""
        self.process = subprocess.Popen(
            ["nice", "-n", str(self.niceness), sys.executable, "-c", SERVE, str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "MOTO_ALLOW_NONEXISTENT_REGION": "true"},
        )
        deadline = time.monotonic() + START_SECONDS
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{BUCKET}", method="PUT")
        while True:
            try:
                urllib.request.urlopen(request, timeout=5).close()
                return
            except OSError:  # it refuses, or on a busy machine has not answered yet
                assert self.process.poll() is None and time.monotonic() < deadline, "moto did not start"
                time.sleep(0.05)

    def stop(self) -> None:
        """Suspend the server: it takes connections and answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def server(niceness: int = 0) -> Iterator[Server]:
    """Run a server for a `with` block, and kill it at the end."""
    started = Server(free_port(), niceness=niceness)
    try:
        started.start()
        yield started
    finally:
        started.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
