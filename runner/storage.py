"""Storage of the runs' files: folders that all hosts see, or an object store. One interface to both.

A reader names the parts that it needs and gets a folder that holds them; attempts write through
`runner.workplace`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from capsnet.files import previous_path, write_atomically
from capsnet.history import Row, read_history
from runner import ownership, run_files
from runner.object_storage import MARKER, Log, ObjectStorage, Part, require_own
from runner.objects import NoAnswer, StorageError
from runner.ownership import ForeignRun
from runner.paths import Home, RunPaths
from runner.run_files import Ending, EndingKind, append_row, link, mirror, prepare, read_ending, write_ending

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from runner.rows import Run

__all__ = [
    "Ending",
    "EndingKind",
    "Folders",
    "ForeignRun",
    "Log",
    "NoAnswer",
    "Storage",
    "StorageError",
    "append_row",
    "link",
    "mirror",
    "of",
    "prepare",
    "read_ending",
    "write_ending",
]


class Storage(Protocol):
    """Storage of the runs of one queue. Any method may raise OSError, with a line that says what is wrong."""

    def check(self, queue: str) -> None:
        """Raise StorageError unless runs of the queue with this id can be kept here."""
        ...

    def hand_over(self, before: str, queue: str) -> None:
        """Give a copy of the runs of the queue with the id `before` to another queue."""
        ...

    def highest_number(self) -> int:
        """Return the highest number of a run of which anything is kept; 0 where there is none."""
        ...

    def newest_attempt(self, run: Run) -> int:
        """The highest number of an attempt of the run of which anything is kept, at once; 0: not known."""
        ...

    def prepare(self, run: Run) -> None:
        """Make ready for the attempt that a run is about to begin.

        Raises ForeignRun where another run's files lie in its place. So does `read`; for the others below
        such a run has kept nothing.
        """
        ...

    def ending(self, run: Run) -> Ending | None:
        """Return how the run's newest attempt ended, as its worker recorded it; None without a record."""
        ...

    def newest_epoch(self, run: Run) -> Row | None:
        """Return the last row of the run's metric history; None before its first epoch is kept."""
        ...

    def read(self, run: Run, *parts: Part) -> RunPaths:
        """Return the run's folder, in which these parts of all its attempts are as new as they are kept."""
        ...

    def checkpoint(self, run: Run) -> AbstractContextManager[Path | None]:
        """Yield the checkpoint file of the newest attempt that has saved one, for a `with` block."""
        ...

    def keep_figures(self, checkpoint: Path) -> None:
        """Keep the pictures that were drawn beside a file that `checkpoint` gave."""
        ...

    def size(self, run: Run) -> int:
        """Return the bytes that the run takes."""
        ...

    def delete(self, run: Run) -> None:
        """Delete all files of the run, or what is left of them; raises OSError where some stay."""
        ...


def of(home: Home) -> Storage:
    """Return the storage of a home's runs; nothing is asked of it yet."""
    return ObjectStorage(home) if home.remote else Folders(home)


class Folders:
    """Runs in folders that every host of the cluster sees under the same path: nothing needs to be copied."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def check(self, queue: str) -> None:
        if self._home.storage is None:
            return
        folder = self._home.runs
        if "://" not in str(folder) and (odd := _like_a_url(folder)):
            raise StorageError(f"RUNNER_STORAGE={odd}: neither a folder nor a URL as in s3://BUCKET/PREFIX")
        self._mark(queue, queue)

    def hand_over(self, before: str, queue: str) -> None:
        if self._home.storage is not None:
            self._mark(before, queue)

    def _mark(self, before: str, queue: str) -> None:
        """Note whose runs the folder holds; raise StorageError unless it holds those of `before`, or none."""
        folder = self._home.runs
        marker = folder / MARKER
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            text = marker.read_bytes() if marker.exists() else None
            require_own(text, before, str(folder))
            write_atomically(
                marker, lambda file: file.write(json.dumps({"queue": queue}).encode()), shared=True
            )
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(f"RUNNER_STORAGE={folder}: {error.strerror or error}") from error

    def highest_number(self) -> int:
        return run_files.highest_number(self._home.runs)

    def newest_attempt(self, run: Run) -> int:
        return run_files.newest_attempt(self._paths(run)) if self._has_own(run) else 0

    def prepare(self, run: Run) -> None:
        ownership.claim(self._paths(run), run.identity, run.submitted_at)
        run_files.prepare(self._paths(run), run.attempt, run.config)

    def ending(self, run: Run) -> Ending | None:
        return read_ending(self._paths(run).attempt(run.attempt)) if self._has_own(run) else None

    def newest_epoch(self, run: Run) -> Row | None:
        history = run_files.history(self._paths(run), run.attempt) if self._has_own(run) else None
        return (read_history(history) or [None])[-1] if history else None

    def read(self, run: Run, *parts: Part) -> RunPaths:
        if not self._has_own(run):
            raise ForeignRun(str(self._paths(run).folder))
        return self._paths(run)

    @contextmanager
    def checkpoint(self, run: Run) -> Iterator[Path | None]:
        numbers = range(run.attempt, 0, -1) if self._has_own(run) else ()
        files = (self._paths(run).attempt(number).checkpoint for number in numbers)
        yield next((file for file in files if file.exists() or previous_path(file).exists()), None)

    def keep_figures(self, checkpoint: Path) -> None:
        """Do nothing: the pictures lie already where they are kept."""

    def size(self, run: Run) -> int:
        return run_files.size(self._paths(run)) if self._has_own(run) else 0

    def delete(self, run: Run) -> None:
        if self._has_own(run):
            run_files.delete(self._paths(run))

    def _paths(self, run: Run) -> RunPaths:
        return self._home.run(run.id, run.name)

    def _has_own(self, run: Run) -> bool:
        return ownership.is_own(self._paths(run), run.identity, run.submitted_at)


def _like_a_url(folder: Path) -> str | None:
    """Return a folder that was meant to be a URL: "s3:/bucket"."""
    relative = os.path.relpath(folder)
    return relative if relative.partition("/")[0].endswith(":") else None
