"""Checks that a run overwrites only files of runs where its YAML names places outside its own folder.

Done when a run is submitted or begins, and again right before the write. Imports no PyTorch.
"""

from __future__ import annotations

import errno
import pickletools
import stat
import struct
from collections.abc import Callable, Iterator
from os import stat_result
from pathlib import Path
from typing import IO

from capsnet.files import locate
from capsnet.sections import Checkpoint
from capsnet.state import KEYS, CheckpointError

EVENTS = "events.out.tfevents.*"  # as TensorBoard names its files
OTHER_FILE = "move it, or set checkpoint.model_path to another file"
OTHER_FOLDER = "move it, or set checkpoint.log_dir to a new folder"
ZIP_HEADER = struct.Struct(
    "<4s4xH16xHH"
)  # of an entry: signature, method, lengths of its name and its extras


def obstacles(named: Checkpoint) -> Iterator[tuple[str, str]]:
    """Yield each key that names a place where something else lies, and a line that says what to do."""
    checks = {"model_path": lambda path: require_checkpoint(locate(path)), "log_dir": require_board}
    for key, check in checks.items():
        if path := getattr(named, key):
            try:
                check(Path(path))
            except CheckpointError as error:
                yield key, str(error)


def require_checkpoint(path: Path) -> None:
    """Raise CheckpointError where something else than a checkpoint would be overwritten at `path`."""
    _require(path, "a checkpoint", _is_checkpoint)


def require_history(path: Path) -> None:
    """Raise CheckpointError where something else than a metric history would be overwritten at `path`."""
    # Of a run that has not finished an epoch it is an empty line.
    _require(path, "the history of a run", lambda file: file.read(6) in (b"epoch,", b"\n"))


def require_board(folder: Path) -> None:
    """Raise CheckpointError unless `folder` is new, empty, or TensorBoard's."""
    found = _found(folder, OTHER_FOLDER)
    if found is None:
        return
    if not stat.S_ISDIR(found.st_mode):
        raise CheckpointError(f"{folder} cannot be TensorBoard's folder, it is a file: {OTHER_FOLDER}")
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
        if any(folder.glob(EVENTS)):
            return
        others = [
            entry for entry in entries if not any(entry.glob(EVENTS))
        ]  # of runs in folders of their own
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}: {OTHER_FOLDER}") from error
    if others:
        raise CheckpointError(
            f"{folder} holds other files than TensorBoard's, as {others[0].name}: {OTHER_FOLDER}"
        )


def _require(path: Path, kind: str, is_one: Callable[[IO[bytes]], bool]) -> None:
    found = _found(path, OTHER_FILE)
    if found is None:
        return
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{path} is not an ordinary file and is not overwritten: {OTHER_FILE}")
    try:
        with path.open("rb") as file:
            if found.st_size == 0 or is_one(file):
                return
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}) and is not overwritten: {OTHER_FILE}"
        ) from error
    raise CheckpointError(f"{path} is not {kind} of this program and is not overwritten: {OTHER_FILE}")


def _found(path: Path, remedy: str) -> stat_result | None:
    """Return the status of `path`, links followed; None where nothing is there and something can be made."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        file = next(parent for parent in path.parents if parent.exists() and not parent.is_dir())
        raise CheckpointError(f"{path} cannot be made, {file} is a file: {remedy}") from error
    except OSError as error:
        said = "its links lead in a circle" if error.errno == errno.ELOOP else error.strerror
        raise CheckpointError(f"{path} cannot be looked at: {said}: {remedy}") from error


def _is_checkpoint(file: IO[bytes]) -> bool:
    """Return whether a file holds the state of a run, by the keys in its pickle, which is not executed.

    PyTorch writes a zip file, of which the pickle is the first entry, uncompressed; the file may be cut off
    after it.
    """
    header = file.read(ZIP_HEADER.size)
    if len(header) < ZIP_HEADER.size:
        return False
    signature, method, name, extra = ZIP_HEADER.unpack(header)
    if signature != b"PK\x03\x04" or method != 0 or not file.read(name).endswith(b"/data.pkl"):
        return False
    file.read(extra)
    missing = set(KEYS)
    try:
        for _, value, _ in pickletools.genops(file):
            missing.discard(value)
            if not missing:
                return True
    except ValueError:  # no pickle, or half of one
        pass
    return False
