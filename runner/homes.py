"""The homes of this user: which there are, as commands that used them have noted, and how each stands now.

Each is noted in a file of its own, so that processes need no lock. Nothing depends on these files: where
they cannot be written, `status --all` says so, and everything else works as before.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from capsnet.files import write_atomically
from capsnet.private import private_folder
from runner.paths import Home
from runner.place import reading
from runner.redaction import redacted

VARIABLE = "XDG_STATE_HOME"

Condition = Literal["up", "down", "gone", "unknown"]  # gone: its queue is not there any more


@dataclass(frozen=True)
class KnownHome:
    """A home that this user has used."""

    root: str  # absolute path of its folder
    database: str | None  # the URL of a queue outside the folder, without a password
    host: str  # on which it was used

    @property
    def name(self) -> str:
        """Name of the home for people: the URL of its queue, or its folder where the queue lies in it."""
        return self.database or self.root

    @property
    def setting(self) -> str:
        """The variable by which a command uses it, as a shell takes it."""
        if self.database is not None:
            return f"RUNNER_DATABASE_URL={shlex.quote(self.database)}"
        return f"RUNNER_HOME={shlex.quote(self.root)}"

    @property
    def queue(self) -> Path | None:
        """The file of its queue; None for one on a server."""
        home = Home(Path(self.root), self.database)
        return None if home.shared else home.database

    @property
    def file_name(self) -> str:
        """Name of the file in which the home is noted."""
        key = f"{self.name}\n{self.host}"
        return f"{hashlib.blake2b(os.fsencode(key), digest_size=8).hexdigest()}.json"


@dataclass(frozen=True)
class HomeStatus:
    """State of a home at one moment."""

    condition: Condition
    runs: Mapping[str, int] = field(default_factory=dict)  # how many by state, where there are any
    note: str | None = None  # why it is not known


def of(home: Home) -> KnownHome:
    """Return a home as it is noted."""
    url = None if home.database_url is None else redacted(home.database_url)
    return KnownHome(str(home.root), url, platform.node())


def folder() -> Path:
    """Return the private folder with a file for each home; made where there is none.

    Raises OSError (NotPrivate where it is another user's, or open to others), and RuntimeError for a user
    without a home directory.
    """
    named = os.environ.get(VARIABLE)
    base = Path(named).absolute() if named else Path.home() / ".local" / "state"
    return private_folder(base / "capsnet-runner" / "homes", f"set {VARIABLE} to a folder of your own")


def note(home: Home) -> None:
    """Note that this user uses a home, as far as that can be written."""
    known = of(home)
    with suppress(OSError, RuntimeError):
        file = folder() / known.file_name
        if not file.exists():
            text = json.dumps(asdict(known)).encode()
            write_atomically(file, lambda part: part.write(text), shared=True, mode=0o600)


def forget(known: KnownHome) -> None:
    """Remove what was noted of a home."""
    (folder() / known.file_name).unlink(missing_ok=True)


def known_homes() -> list[KnownHome]:
    """The homes that were noted, by name, each once. Raises OSError and RuntimeError as `folder` does."""
    found = {}
    for known in sorted(_noted(), key=lambda known: known.host == platform.node()):  # this host's word counts
        found[known.name, _host_that_matters(known)] = known
    return sorted(found.values(), key=lambda known: (known.name, known.host))


def _noted() -> Iterator[KnownHome]:
    for file in folder().glob("*.json"):
        with suppress(ValueError, TypeError, FileNotFoundError):  # of another version, or just forgotten
            known = KnownHome(**json.loads(file.read_text()))
            if all(isinstance(value, str | None) for value in asdict(known).values()):
                yield known


def _host_that_matters(known: KnownHome) -> str | None:
    """Return the host of a home that is not to be seen from here; None where all hosts mean the same one."""
    with suppress(OSError):  # as in a folder that has become another user's
        if known.queue is None or known.queue.is_file():
            return None
    return known.host


def look(known: KnownHome, now: float) -> HomeStatus:
    """Return how a home stands. Nothing is written there, and a queue of another version is read as it is."""
    file = known.queue
    if file is None:
        return HomeStatus("unknown", note=f"on a server: asked only where {known.setting} is set")
    try:
        file.stat()
        with reading(file) as connection:
            at, cluster = connection.execute("SELECT at, cluster FROM queue").fetchone()
            runs = dict(connection.execute("SELECT state, count(*) FROM runs GROUP BY state").fetchall())
    except FileNotFoundError:
        if known.host != platform.node():
            return HomeStatus("unknown", note=f"on host {known.host}")
        return HomeStatus("gone")
    except (OSError, sqlite3.Error, TypeError, ValueError) as error:  # TypeError: a table without rows
        return HomeStatus("unknown", note=str(error))
    from runner.service import is_beating

    return HomeStatus("up" if is_beating(at, cluster, now) else "down", runs)


def others_up(home: Home, now: float) -> list[KnownHome]:
    """Return the other homes of this user whose schedulers are up, as far as that is known."""
    try:
        known = known_homes()
    except (OSError, RuntimeError):  # `status --all` says why none are known
        return []
    return [each for each in known if each.name != of(home).name and look(each, now).condition == "up"]
