"""The state of a run in one file: written so that a crash leaves a whole file, read as untrusted data."""

from __future__ import annotations

import pickle
import warnings
import zipfile
import zlib
from pathlib import Path

import torch

from capsnet.files import CHECKPOINT, locate, odd_kind, previous_path, write_atomically
from capsnet.history import HISTORY, read_history, write_history
from capsnet.state import CheckpointError, State, checked, is_kept

__all__ = [
    "HISTORY",
    "CheckpointError",
    "load",
    "locate",
    "previous_path",
    "read_history",
    "save",
    "write_history",
]


# Errors of the standard library in reading an altered file.
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, ValueError)


class DamageError(CheckpointError):
    """Error where a file is missing, cut off or altered: the checkpoint before it may still be usable."""


def history_path(path: Path) -> Path:
    """history.csv; named after the checkpoint where that has a name of its own, as two may share a folder."""
    return path.with_name(HISTORY if path.name == CHECKPOINT else f"{path.stem}.{HISTORY}")


def kept_path(path: Path, epoch: int) -> Path:
    return path.with_name(f"{path.stem}.epoch-{epoch:04d}{path.suffix}")


def files_of(path: Path) -> list[Path]:
    """All existing files that belong to the checkpoint at `path`."""
    kept = sorted(path.parent.glob(f"{path.stem}.epoch-*{path.suffix}"))
    return [file for file in (path, previous_path(path), history_path(path), *kept) if file.exists()]


def save(state: State, path: Path, mode: int = 0o600) -> None:
    """Put `state` at `path`, keep what was there as the previous one, then write the history beside it.

    A damaged file is not kept: it would take the place of the whole one that the run has gone on from.
    At every `checkpoint.keep_every`th epoch's end the weights are also kept in a file of their own.
    `mode`: of all these files, which by default only this user may read.
    """
    previous = previous_path(path) if _is_whole(path) else None
    write_atomically(path, lambda file: torch.save(state, file), previous, mode=mode)
    write_history(state["history"], history_path(path), mode)
    if is_kept(state):
        weights = state | {"optimizer": None, "best": None}
        write_atomically(kept_path(path, state["epoch"]), lambda file: torch.save(weights, file), mode=mode)


def load(path: Path) -> State:
    """The state at `path`, or with a warning the one before it when that file is damaged.

    Raises CheckpointError when neither can be read, or when the file holds code or is from a newer version.
    """
    try:
        return _read(path)
    except DamageError as error:
        previous = previous_path(path)
        if not previous.exists():
            raise
        state = _read(previous)
        warnings.warn(f"{error}; going on from {previous}", stacklevel=2)
        return state


def _read(path: Path) -> State:
    if kind := odd_kind(path):  # to read it could take for ever
        raise CheckpointError(f"{path} is a {kind} and no checkpoint")
    try:
        if altered := _altered(path):  # torch.load itself reads altered weights without a word
            raise DamageError(f"{path} is damaged (checksum of {altered})")
        return checked(torch.load(path, map_location="cpu", weights_only=True), path)
    except FileNotFoundError as error:
        raise DamageError(f"there is no checkpoint {path}") from error
    except (PermissionError, IsADirectoryError) as error:  # for the user to mend; the file is not damaged
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except OSError as error:
        raise DamageError(f"{path} cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, which could run code: it is not loaded"
        ) from error
    except BROKEN as error:
        raise DamageError(f"{path} is not a checkpoint, or was cut off") from error
    except RuntimeError as error:
        raise DamageError(f"{path} is not a checkpoint: {str(error).splitlines()[0]}") from error


def _altered(path: Path) -> str | None:
    """Return the first entry whose checksum is wrong."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def _is_whole(path: Path) -> bool:
    """Return whether there is a file whose every byte is as it was written."""
    try:
        return _altered(path) is None
    except (OSError, RuntimeError, *BROKEN):
        return False
