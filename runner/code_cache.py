"""Source as a folder from which a process imports it: whole whenever it is used, and once on a machine.

Standard library only, and nothing of ours but what travels too (`runner.guest`).
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import time
from pathlib import Path

from capsnet.locks import lock, locked
from capsnet.private import private_folder
from runner.private import VARIABLE, runner_folder
from runner.source import PACKAGES, Archive, SourceError, digest, folder, python_path, read, write

UNUSED_SECONDS = 7 * 86400.0  # after which source that no process uses is deleted


def bring(archive: Archive) -> None:
    """Let this process import our packages from this source, and from nowhere else.

    Raises ImportError, in one line with both names, where it has imported others; SourceError; OSError.
    """
    place = settle(archive)
    # While this process lives, neither `_clear` deletes it nor systemd, which cleans /tmp.
    lock(os.open(place, os.O_RDONLY), place, VARIABLE, shared=True)
    sys.path.insert(0, str(place))
    os.environ["PYTHONPATH"] = python_path(place, os.environ)  # its children too
    importlib.invalidate_caches()  # the folder may be younger than what was last looked up in its parent
    for package in PACKAGES:
        if (found := folder(package)) != place / package:
            other = digest(read({name: folder(name) for name in PACKAGES}))
            raise ImportError(
                f"{package} is imported from {found}, which is code {other}, and not from {place}, "
                f"code {archive.digest}"
            )
    if (found := digest(read(_packages(place)))) != archive.digest:  # another process writes there right now
        raise ImportError(f"what was imported from {place} is code {found} and not code {archive.digest}")


def settle(archive: Archive, cache: Path | None = None) -> Path:
    """Return the folder that holds this source; made where there is none, made anew where it is damaged.

    `cache`: that of all source; by default one of this user's own on this machine. Raises SourceError for a
    damaged archive, and OSError.
    """
    remedy = f"set {VARIABLE} to a folder of your own"
    cache = private_folder(cache or runner_folder() / "code", remedy)
    place = cache / archive.digest
    with locked(cache / "lock", VARIABLE):
        if not _holds(place, archive.digest):
            _clear(cache)
            _make(place, archive)
        os.utime(place)
    return place


def _packages(place: Path) -> dict[str, Path]:
    return {package: place / package for package in PACKAGES}


def _holds(place: Path, name: str) -> bool:
    try:
        return digest(read(_packages(place))) == name
    except (OSError, SourceError):
        return False


def _make(place: Path, archive: Archive) -> None:
    """Write the source beside its place first: the place holds all of it or none."""
    part = place.with_name(f".{place.name}")
    write(archive.files(), part)
    if place.exists():  # damaged; a process that has imported some of it goes on with what it has
        place.rename(place.with_name(f".{place.name}-damaged"))
    part.rename(place)


def _clear(cache: Path) -> None:
    """Delete what a killed process left half made, and what nobody has used for a while."""
    for entry in cache.iterdir():
        left = entry.name.startswith(".")
        if entry.is_dir() and (left or _is_unused(entry)):
            shutil.rmtree(entry, ignore_errors=True)
        elif left:
            entry.unlink()


def _is_unused(entry: Path) -> bool:
    if time.time() - entry.stat().st_mtime < UNUSED_SECONDS:
        return False
    opened = os.open(entry, os.O_RDONLY)
    try:
        return lock(opened, entry, VARIABLE, wait=False)
    finally:
        os.close(opened)
