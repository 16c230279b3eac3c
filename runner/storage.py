"""What a run keeps on disk besides its checkpoint: the only file that writes it.

An outcome is written before it is reported, so that a scheduler which finds a worker gone knows whether
the worker had finished.
"""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from capsnet.files import previous_path, write_atomically
from runner.paths import AttemptPaths, RunPaths
from runner.protocol import known

log = logging.getLogger(__name__)

EndingKind = Literal["finished", "failed", "stopped", "unable"]  # unable: its machine lacks what it needs


@dataclass(frozen=True)
class Ending:
    """How an attempt ended, in the worker's own words."""

    attempt: int
    kind: EndingKind
    reason: str | None
    at: float  # unix seconds


def write_ending(paths: AttemptPaths, ending: Ending) -> None:
    text = json.dumps(asdict(ending))
    write_atomically(paths.outcome, lambda file: file.write(text.encode()))


def read_ending(paths: AttemptPaths) -> Ending | None:
    """Return how the attempt ended, or None when it never said so, or nobody can read what it said."""
    try:
        return Ending(**known(Ending, json.loads(paths.outcome.read_text())))
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError) as error:  # one run's file must not stop the whole queue
        log.warning("%s: not an outcome, taken for none: %s", paths.outcome, error)
        return None


def append_row(path: Path, row: Mapping[str, float]) -> None:
    """Append a line to a CSV file; the first one brings the header."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row.keys())
        if new:
            writer.writeheader()
        writer.writerow(row)


def mirror(source: Path, target: Path) -> None:
    """Let `target` hold what `source` holds; a reader sees the old file or the new one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, part)
    part.replace(target)


def prepare(paths: RunPaths, attempt: int, config: str) -> None:
    """Make the attempt's folder, and let the run's folder show its files under plain names."""
    paths.attempt(attempt).folder.mkdir(parents=True, exist_ok=True)
    paths.attempt(attempt).outcome.unlink(missing_ok=True)
    _forget_before(paths, attempt - 1)
    write_atomically(paths.config, lambda file: file.write(config.encode()))
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
    """Let `name` lead to `target`, whatever it led to before."""
    part = name.with_name(name.name + ".part")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(name)


def figures(paths: RunPaths, attempts: int) -> list[Path]:
    """Return the pictures of the newest of so many attempts that has any; a half-written one is none."""
    folders = (paths.attempt(number).figures for number in range(attempts, 0, -1))
    found = (sorted(file for file in folder.glob("[!.]*") if file.is_file()) for folder in folders)
    return next(filter(None, found), [])


def size(paths: RunPaths) -> int:
    """Return the bytes that the run's folder takes; a file with two names counts once."""
    found = {}
    for path in paths.folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def delete(paths: RunPaths) -> None:
    """Delete the run's folder with all that it holds."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(paths.folder)
