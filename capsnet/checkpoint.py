"""The state of a run in one file: written so that a crash leaves a whole one, read without trust."""

from __future__ import annotations

import pickle
import threading
import warnings
import zipfile
import zlib
from pathlib import Path

import torch

from capsnet.config import Checkpoint
from capsnet.files import CHECKPOINT, locate, previous_path, write_atomically
from capsnet.history import HISTORY, read_history, write_history
from capsnet.snapshot import Snapshot
from capsnet.state import CheckpointError, State, checked, is_kept

__all__ = [
    "HISTORY",
    "CheckpointError",
    "Writer",
    "load",
    "locate",
    "previous_path",
    "read_history",
    "save",
    "write_history",
]


# What the standard library raises on the way to an altered byte.
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, ValueError)


class DamageError(CheckpointError):
    """The file is missing, cut off or altered: the one before it may still serve."""


def history_path(path: Path) -> Path:
    """history.csv; named after the checkpoint where that has a name of its own, as two may share a folder."""
    return path.with_name(HISTORY if path.name == CHECKPOINT else f"{path.stem}.{HISTORY}")


def kept_path(path: Path, epoch: int) -> Path:
    return path.with_name(f"{path.stem}.epoch-{epoch:04d}{path.suffix}")


def files_of(path: Path) -> list[Path]:
    """All existing files that belong to the checkpoint at `path`."""
    kept = sorted(path.parent.glob(f"{path.stem}.epoch-*{path.suffix}"))
    return [file for file in (path, previous_path(path), history_path(path), *kept) if file.exists()]


def save(state: State, path: Path) -> None:
    """Put `state` at `path`, keep what was there as the previous one, then write the history beside it.

    A damaged file is not kept: it would take the place of the whole one that the run has gone on from.
    At every `checkpoint.keep_every`th epoch's end the weights are also kept in a file of their own.
    """
    previous = previous_path(path) if _is_whole(path) else None
    write_atomically(path, lambda file: torch.save(state, file), previous)
    write_history(state["history"], history_path(path))
    if is_kept(state):
        weights = state | {"optimizer": None, "best": None}
        write_atomically(kept_path(path, state["epoch"]), lambda file: torch.save(weights, file))


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
    try:
        if altered := _altered(path):  # torch.load itself reads altered weights without a word
            raise DamageError(f"{path} is damaged (checksum of {altered})")
        return checked(torch.load(path, map_location="cpu", weights_only=True), path)
    except FileNotFoundError as error:
        raise DamageError(f"there is no checkpoint {path}") from error
    except (PermissionError, IsADirectoryError) as error:  # the user's to mend, not the disk's fault
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
    """The first entry whose checksum is wrong."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def _is_whole(path: Path) -> bool:
    """Whether there is a file whose every byte is as it was written."""
    try:
        return _altered(path) is None
    except (OSError, RuntimeError, *BROKEN):
        return False


def due(settings: Checkpoint, ended: int | None, num_epochs: int, seconds: float) -> bool:
    """Whether to save now, `seconds` after the last time, at the end of epoch `ended` (None: within one)."""
    at_end = ended == num_epochs
    kept = ended is not None and settings.keep_every is not None and ended % settings.keep_every == 0
    return at_end or kept or seconds >= settings.interval_seconds


class Writer:
    """A thread that saves states, so that training does not stop for the disk, nor for their way to the CPU.

    A state that still waits when a newer one comes is not written, except where `checkpoint.keep_every`
    asks for it. An error in the thread is raised by the next call of any method.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.durable: tuple[int, int] | None = None  # (epoch, step) of the state last written
        self._waiting: list[Snapshot] = []  # what is being written stays in it until it is on disk
        self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="checkpoint writer", daemon=True)
        self._thread.start()

    def submit(self, snapshot: Snapshot) -> None:
        """Have its state written soon."""
        with self._changed:
            self._raise_error()
            in_work, later = self._waiting[:1], self._waiting[1:]
            self._waiting = [*in_work, *(each for each in later if each.is_kept), snapshot]
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when everything submitted is on disk."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._waiting)
            self._raise_error()

    def close(self) -> None:
        """Write what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                snapshot = self._waiting[0]
            try:
                save(snapshot.state(), self.path)
            except BaseException as error:  # raised again in the thread that trains
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                self.durable = snapshot.epoch, snapshot.step
                del self._waiting[0]
                self._changed.notify_all()
