"""A real PostgreSQL server for tests, in a folder of its own, started, hung, stopped and started again."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg
from patience import PATIENCE

PASSWORD = "gl@d:os/%"  # with signs that a URL must escape


def missing() -> str | None:
    """Return why no server can be started on this machine, or None if one can."""
    if programs() is None:
        return "no PostgreSQL here: no initdb on the PATH or in /usr/lib/postgresql (apt install postgresql)"
    if os.getuid() == 0 and servant() is None:
        return "PostgreSQL does not run as root, and there is no user postgres or nobody to run it as"
    return None


class Server:
    """A server whose superuser `postgres` needs a password over the network, and none through its socket."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.folder = folder
        self._data = folder / "data"
        self.port = _free_port()
        self._settings = [
            f"port={self.port}",
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={folder}",
            *settings,
        ]
        self._new = 0
        password_file = folder / "password"
        password_file.write_text(PASSWORD)
        if (user := servant()) is not None:
            for path in (folder, password_file):
                shutil.chown(path, user.pw_name)
        access = ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password_file}"]
        names = ["--username=postgres", "--encoding=UTF8", "--locale=C"]
        self._run("initdb", f"--pgdata={self._data}", "--no-sync", *access, *names)

    def start(self) -> None:
        """Start, and wait until it can be used."""
        options = " ".join(f"-c {setting}" for setting in self._settings)
        log = f"--log={self.folder / 'log'}"
        self._run("pg_ctl", "start", f"--pgdata={self._data}", "-w", f"-t{PATIENCE:.0f}", log, "-o", options)

    def stop(self, mode: str = "fast") -> None:
        """Stop: `fast` breaks all connections, `immediate` is a crash."""
        self._run("pg_ctl", "stop", f"--pgdata={self._data}", "-w", f"-t{PATIENCE:.0f}", f"-m{mode}")

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Stop the server during the block and start it afterwards."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Suspend all processes of the server during the block: connections are accepted but not answered."""
        main = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
        processes = [main, *main.children(recursive=True)]
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)

    def url(self, database: str, user: str = "postgres", password: str = PASSWORD) -> str:
        """Return the URL of a database, over the network."""
        password, database = quote(password, safe=""), quote(database, safe="")
        return f"postgresql+psycopg://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def execute(
        self, statement: str, parameters: Sequence[Any] = (), database: str = "postgres"
    ) -> list[Any]:
        """Run a statement as the superuser; the rows that it gives."""
        with closing(self.connect(database)) as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def connect(self, database: str) -> psycopg.Connection[Any]:
        """A connection of the superuser, in which each statement is a transaction."""
        return psycopg.connect(
            host=str(self.folder), port=self.port, user="postgres", dbname=database, autocommit=True
        )

    def new_database(self, template: str = "template1") -> str:
        """Make an empty database and return its URL."""
        self._new += 1
        name = f"test{self._new}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def empty_queue(self, url: str) -> None:
        """Empty a queue, which is quicker than making a new one."""
        self.execute(
            "TRUNCATE runs, attempts, log_pieces, sources RESTART IDENTITY; "
            "UPDATE queue SET epoch = 0, at = NULL, code = NULL, protocol = NULL, "
            "cluster = NULL, version = NULL, tracking = NULL, pid = NULL, host = NULL, cores = NULL, "
            "gpus = NULL, machines = NULL, home = NULL, message = NULL, down_at = NULL, down_force = NULL",
            database=url.rpartition("/")[2],
        )

    def _run(self, program: str, *arguments: str) -> None:
        folder = programs()
        assert folder is not None
        command = [str(folder / program), *arguments]
        if (user := servant()) is not None:
            own = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
            command = ["setpriv", *own, *command]
        with (self.folder / "output").open(
            "a+"
        ) as output:  # a pipe would stay open as long as the server runs
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, cwd="/", check=False)
            output.seek(0)
            assert done.returncode == 0, output.read()


@contextmanager
def server(*settings: str) -> Iterator[Server]:
    """A server that runs, in a folder of its own with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as folder:
        started = Server(Path(folder), *settings)
        started.start()
        try:
            yield started
        finally:
            started.stop("immediate")


def programs() -> Path | None:
    """The folder of PostgreSQL's programs, the newest one's where there are several."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in found), key=lambda path: int(path.parent.name), default=None)


def servant() -> pwd.struct_passwd | None:
    """Return the user to run the server as if this process is root's, which PostgreSQL refuses; else None."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
