"""Owners of run folders: numbers may come again where a queue is lost, or put back from a copy.

A run's folder holds its identity in a file. A folder without one is of a run that an earlier version of this
program submitted or started.
"""

from __future__ import annotations

import os
from contextlib import suppress

from capsnet.files import sync_folder, temporary
from runner import run_files
from runner.paths import RunPaths

CLOCKS_SECONDS = 60.0  # by which the clocks of a database server and a file server may differ


class PlaceTaken(Exception):  # noqa: N818 - the name says what happened
    """Files that are not an attempt's own lie where it would write: one line that says what to do."""


class ForeignRun(PlaceTaken):
    """Another run's files lie where a run's belong."""

    def __init__(self, place: str) -> None:
        super().__init__(
            f"{place} holds another run, of a queue that was deleted or put back from a copy: nothing is "
            "written there; submit this run again, and it gets another number"
        )


class AttemptKept(PlaceTaken):
    """The run has had an attempt of this number, of which its queue does not know."""

    def __init__(self, place: str) -> None:
        super().__init__(
            f"{place} holds an attempt that the queue, put back from a copy, does not know: nothing is "
            "written there; `resume` goes on with the next number"
        )


def owner(paths: RunPaths) -> str | None:
    """Return the identity of the run that a folder belongs to; None where it names none."""
    try:
        return paths.identity.read_text().strip() or None
    except FileNotFoundError:
        return None


def is_own(paths: RunPaths, identity: str | None, submitted_at: float) -> bool:
    """Return whether the folder, if it exists, belongs to the run of this identity (None: it has none)."""
    found = owner(paths)
    if found is not None or identity is None:
        return found == identity
    try:
        prepared_at = paths.config.stat().st_mtime
    except FileNotFoundError:
        return True
    # A scheduler of an earlier version, without identities, has made it: for this run, or for an older one.
    return prepared_at >= submitted_at - CLOCKS_SECONDS


def claim(paths: RunPaths, identity: str | None, submitted_at: float) -> None:
    """Make the folder this run's. Raises ForeignRun where it is another one's, and OSError."""
    if not is_own(paths, identity, submitted_at):
        raise ForeignRun(str(paths.folder))
    if identity is None or owner(paths) == identity:
        return
    run_files.make_folder(paths.folder)
    with temporary(paths.identity, shared=True, mode=run_files.file_mode(paths.folder)) as part:
        part.write_text(f"{identity}\n")
        with part.open("rb") as written:
            os.fsync(written.fileno())
        with suppress(OSError):  # there is one, or this file system has no hard links
            os.link(part, paths.identity)
        if owner(paths) is None:
            part.replace(paths.identity)
    sync_folder(paths.folder)
    if owner(paths) != identity:  # another run's claim was quicker
        raise ForeignRun(str(paths.folder))
