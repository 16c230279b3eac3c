"""Files that a run keeps in its folder besides its checkpoint; only this module writes them.

An outcome is written before it is reported, so that a scheduler which finds a worker gone knows whether
the worker had finished.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from capsnet.files import previous_path, temporary_path, write_atomically
from capsnet.history import Row
from runner.paths import AttemptPaths, RunPaths, run_number
from runner.protocol import known

log = logging.getLogger(__name__)

EndingKind = Literal["finished", "failed", "stopped", "unable"]  # unable: its machine lacks what it needs


@dataclass(frozen=True)
class Ending:
    """End of an attempt, as its worker recorded it."""

    attempt: int
    kind: EndingKind
    reason: str | None  # why it failed; of one that has finished why before its last epoch
    at: float  # unix seconds
    epochs: int | None = None  # behind it when it finished; None: all of them, or it has not
    kept: Row | None = None  # the newest epoch of its history that is durable; None: not known, or none is


def write_ending(paths: AttemptPaths, ending: Ending) -> None:
    write_atomically(paths.outcome, lambda file: file.write(ending_text(ending)))


def ending_text(ending: Ending) -> bytes:
    return json.dumps(asdict(ending)).encode()


def read_ending(paths: AttemptPaths) -> Ending | None:
    """Return how the attempt ended, or None where no outcome was written, or it cannot be read."""
    try:
        return parsed_ending(paths.outcome.read_bytes(), str(paths.outcome))
    except FileNotFoundError:
        return None
    except OSError as error:  # one run's file must not stop the whole queue
        log.warning("%s: not an outcome, taken for none: %s", paths.outcome, error)
        return None


def parsed_ending(text: bytes, place: str) -> Ending | None:
    """Parse the text of `ending_text`; for anything else log a warning and return None."""
    try:
        return Ending(**known(Ending, dict(json.loads(text))))
    except (TypeError, ValueError) as error:
        log.warning("%s: not an outcome, taken for none: %s", place, error)
        return None


def append_row(path: Path, row: Mapping[str, float]) -> None:
    """Append a line to a CSV file, or nothing where it does not fit; the first one brings the header."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, row.keys())
    with path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if not end:
            writer.writeheader()
        writer.writerow(row)
        try:
            left = text.getvalue().encode()
            while left:
                left = left[file.write(left) :]
        except OSError:  # the disk is full: half a line would spoil the next one
            file.truncate(end)
            raise


def highest_number(folder: Path) -> int:
    """Return the highest number of a run whose folder lies in this one; 0 where there is none."""
    if not folder.is_dir():
        return 0
    named = ((run_number(entry.name), entry.path) for entry in os.scandir(folder))
    runs = sorted(((number, path) for number, path in named if number), reverse=True)
    # What else people keep there may begin with a number, too.
    return next((number for number, path in runs if RunPaths(Path(path)).attempts.is_dir()), 0)


def newest_attempt(paths: RunPaths) -> int:
    """Return the highest number of an attempt that has a folder; 0 where none has."""
    try:
        names = [entry.name for entry in os.scandir(paths.attempts)]
    except FileNotFoundError:
        return 0
    return max((int(name) for name in names if re.fullmatch(r"[1-9]\d{0,8}", name)), default=0)


def mirror(source: Path, target: Path) -> None:
    """Make `target` a copy or hard link of `source`; a reader sees the old file or the new one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = temporary_path(target)
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, part)
    part.replace(target)


def is_shared(folder: Path) -> bool:
    """Return whether a folder is shared with its group: the group may write to it, others may not."""
    return folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH) == stat.S_IWGRP


def file_mode(folder: Path) -> int:
    """Return the mode of what only the owner of a home, or the group that has it, may read."""
    return 0o660 if is_shared(folder) else 0o600


def make_folder(folder: Path) -> None:
    """Make a folder for this user or, in one that is shared with a group, for that, whatever the umask."""
    if folder.is_dir():
        return
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)  # another process may make it at this instant
    if is_shared(folder.parent):
        folder.chmod(folder.stat().st_mode | stat.S_IRWXG)


def make_folders(paths: RunPaths, attempt: int) -> None:
    """Make the folders of a run and of its attempt."""
    for folder in (paths.folder, paths.attempts, paths.attempt(attempt).folder):
        make_folder(folder)


def prepare(paths: RunPaths, attempt: int, config: str) -> None:
    """Make the attempt's folder, and let the run's folder show its files under plain names."""
    make_folders(paths, attempt)
    paths.attempt(attempt).outcome.unlink(missing_ok=True)
    _forget_before(paths, attempt - 1)
    show(paths, attempt, config)


def show(paths: RunPaths, attempt: int, config: str) -> None:
    """Let the run's folder show its configuration, and the files of an attempt, under plain names."""
    mode = file_mode(paths.folder)
    write_atomically(paths.config, lambda file: file.write(config.encode()), shared=True, mode=mode)
    newest = paths.attempt(attempt)
    for file in (newest.checkpoint, newest.history, newest.log, newest.figures):
        link(paths.folder / file.name, file.relative_to(paths.folder))


def _forget_before(paths: RunPaths, attempt: int) -> None:
    """Delete the checkpoints that an attempt's own two have made needless: each takes some 100 MB."""
    checkpoint = paths.attempt(attempt).checkpoint
    if not checkpoint.exists() or not previous_path(checkpoint).exists():
        return
    for number in range(1, attempt):
        needless = paths.attempt(number).checkpoint
        needless.unlink(missing_ok=True)
        previous_path(needless).unlink(missing_ok=True)


def link(name: Path, target: Path) -> None:
    """Link `name` to `target`, whatever it was linked to before."""
    part = temporary_path(name, shared=True)
    part.symlink_to(target)
    part.replace(name)


def figures(paths: RunPaths, attempts: int) -> list[Path]:
    """Return the pictures of the newest of so many attempts that has any; a half-written one is none."""
    folders = (paths.attempt(number).figures for number in range(attempts, 0, -1))
    found = (sorted(file for file in folder.glob("[!.]*") if file.is_file()) for folder in folders)
    return next(filter(None, found), [])


def history(paths: RunPaths, attempts: int) -> Path | None:
    """Return the metric history of the newest of so many attempts that has saved one."""
    files = (paths.attempt(number).history for number in range(attempts, 0, -1))
    return next((file for file in files if file.exists()), None)


def size(paths: RunPaths) -> int:
    """Return the bytes that the run's folder takes; a file with two names counts once."""
    found = {}
    for path in paths.folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def delete(paths: RunPaths) -> None:
    """Delete the run's folder with all that it holds. Raises OSError where something stays."""
    try:
        shutil.rmtree(paths.folder)
    except FileNotFoundError:
        if paths.folder.exists():  # another process deletes there too, and may not come to its end
            raise
