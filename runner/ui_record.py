"""Record of the process that serves the pages of a home, on this host and for this user.

A lock is held for as long as the process lives; a record names the address, with the token, readable by this
user alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from capsnet.locks import lock
from capsnet.private import private_folder
from runner.private import VARIABLE, runner_folder

LOCK = "lock"
RECORD = "served.json"


@dataclass(frozen=True)
class Page:
    """A page to look at in a browser."""

    name: str
    url: str  # a link: with the token where this process serves the page


@dataclass(frozen=True)
class Served:
    """Pages that a process serves, and where; without pages: the record of a process that has ended."""

    path: str  # below which all pages are, the same at the next start: links within them stay
    port: int | None = None
    pid: int | None = None
    token: str | None = None
    pages: tuple[Page, ...] = ()


def folder(root: Path) -> Path:
    """Return the folder of the process that serves the home `root`; its sockets lie there, too.

    Raises PermissionError where it belongs to another user.
    """
    digest = hashlib.blake2b(os.fsencode(root), digest_size=6).hexdigest()
    return private_folder(runner_folder() / f"ui-{digest}", f"set {VARIABLE} to a folder of your own")


@contextmanager
def locked(place: Path) -> Iterator[bool]:
    """Hold the lock of a folder; yield False at once where another process holds it."""
    file = place / LOCK
    with file.open("a") as opened:
        yield lock(opened.fileno(), file, VARIABLE, wait=False)


def read(place: Path) -> Served | None:
    """Read the record; None where there is none, or none that this version understands."""
    try:
        found = json.loads((place / RECORD).read_text())
        pages = tuple(Page(**page) for page in found.pop("pages"))
        return Served(**found, pages=pages)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def write(place: Path, served: Served) -> None:
    """Write the record, whole or not at all."""
    part = place / f"{RECORD}.part"
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(served), file)
    part.replace(place / RECORD)
