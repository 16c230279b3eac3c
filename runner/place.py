"""Place of a queue: it tells a copy of the queue from the queue itself, moved or not.

A queue notes its place. Found at another one it is a copy, unless it was moved: then its file is the same one
still, or nothing of it is left at the old place.
"""

from __future__ import annotations

import json
import platform
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class FilePlace:
    """The place of a queue in a file."""

    file: str  # absolute path
    host: str | None = None  # None: not known
    inode: int | None = None
    device: int | None = None

    @property
    def text(self) -> str:
        return json.dumps(asdict(self))


def of_file(file: Path) -> FilePlace:
    """Return the place of a file that is there."""
    found = file.stat()
    return FilePlace(str(file.resolve()), platform.node(), found.st_ino, found.st_dev)


def read_file_place(text: str) -> FilePlace | None:
    """Parse the text of `FilePlace.text`; None for anything else."""
    try:
        return FilePlace(**json.loads(text))
    except (TypeError, ValueError):
        return None


def is_copy(noted: FilePlace, here: FilePlace, is_there: Callable[[str], bool]) -> bool:
    """Return whether the file is a copy of the one at the place that it has noted.

    `is_there`: whether the queue, too, is in a file of this host.
    """
    if noted.file == here.file:  # also one that was put back from a copy
        return False
    if noted.inode == here.inode and (noted.device == here.device or noted.host != here.host):
        return False  # moved, or seen under another path: devices have other numbers on other hosts
    if noted.host not in (None, here.host):  # whether it is there still is not known here
        return True
    return is_there(noted.file)


@contextmanager
def reading(file: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection that reads the queue in a file; nothing is written beside it."""
    in_use = file.with_name(f"{file.name}-wal").exists()
    uri = f"{file.as_uri()}?{'mode=ro' if in_use else 'immutable=1'}"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        yield connection


def holds(file: str, queue_id: str) -> bool:
    """Return whether a file holds the queue of this id, if it can be read; nothing is written beside it."""
    path = Path(file)
    if not path.is_file():
        return False
    try:
        with reading(path) as connection:
            return (queue_id,) in connection.execute("SELECT id FROM queue").fetchall()
    except sqlite3.Error as error:
        return not any(said in str(error) for said in ("no such table", "not a database"))
