"""Upload of the files in an attempt's scratch folder to an object store while the attempt runs."""

from __future__ import annotations

import threading
from pathlib import Path

from capsnet.patience import described
from runner import growing
from runner.object_storage import BOARD
from runner.objects import Objects
from runner.paths import RunPaths
from runner.remote_checkpoint import Uploads

SECONDS = 10.0  # between two looks at what is new


class Uploading:
    """Thread that copies what is new, but for the checkpoint: its order counts, so `save` copies it."""

    def __init__(self, objects: Objects, key: str, run: RunPaths, number: int) -> None:
        """`key`: of the attempt's folder in the store."""
        self._objects = objects
        self._key = key
        self._run = run
        self._attempt = run.attempt(number)
        self._checkpoints = Uploads(objects, key)
        self._sent: dict[Path, tuple[int, int]] = {}  # bytes and time of change of what is up there
        self._told = False
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="uploading", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def save(self) -> None:
        """Copy the newest checkpoint, then what follows from it. Raises StorageError."""
        self._checkpoints.upload(self._attempt.checkpoint)
        self._whole(self._attempt.history)  # after the pointer: the epochs in it are published
        stem, suffix = self._attempt.checkpoint.stem, self._attempt.checkpoint.suffix
        for kept in sorted(self._attempt.folder.glob(f"{stem}.epoch-*{suffix}")):
            self._whole(kept)

    def copy(self) -> None:
        """Copy all that is new but the checkpoint. Raises StorageError."""
        with self._lock:
            for log in self._attempt.logs:
                self._growing(log)
            self._growing(self._attempt.system)
            for picture in sorted(self._attempt.figures.glob("[!.]*")):
                self._whole(picture)
            if not self._run.tensorboard.is_symlink():  # elsewhere, where the YAML names a folder
                for events in sorted(self._run.tensorboard.glob("**/[!.]*")):
                    if events.is_file():
                        self._growing(events)

    def end(self) -> None:
        """End the copying in the thread."""
        self._ended.set()

    def _work(self) -> None:
        while not self._ended.wait(SECONDS):
            try:
                self.copy()
            except OSError as error:
                if not self._told:
                    print(f"warning: not copied for now: {described(error)}", flush=True)
                self._told = True
            else:
                self._told = False

    def _key_of(self, file: Path) -> str:
        """Return the key of a file; in the store TensorBoard's folder, here the run's, is the attempt's."""
        if file.is_relative_to(self._attempt.folder):
            return f"{self._key}/{file.relative_to(self._attempt.folder)}"
        return f"{self._key}/{BOARD}/{file.relative_to(self._run.tensorboard)}"

    def _whole(self, file: Path) -> None:
        if (now := _looks(file)) is not None and self._sent.get(file) != now:
            self._objects.put(self._key_of(file), file)
            self._sent[file] = now

    def _growing(self, file: Path) -> None:
        now, (size, at) = _looks(file), self._sent.get(file, (0, 0))
        if now is not None and now != (size, at):
            end = growing.upload(self._objects, self._key_of(file), file, min(size, now[0]))
            self._sent[file] = end, now[1]


def _looks(file: Path) -> tuple[int, int] | None:
    """Return a file's bytes and time of change; None where there is no such file."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns
