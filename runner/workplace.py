"""Folder in which an attempt works: the one that all hosts see, or one here whose files are uploaded.

Both have the same layout. `save` makes durable what was just written to the checkpoint.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Protocol

from capsnet.files import clear_temporaries, previous_path
from capsnet.patience import Trouble, persist
from capsnet.private import private_folder
from runner import held, object_storage, ownership, remote_checkpoint, run_files
from runner.held import Held
from runner.object_storage import attempt_key
from runner.objects import Objects, StorageError
from runner.ownership import AttemptKept, ForeignRun
from runner.paths import Home, RunPaths, run_folder, scratch
from runner.run_files import Ending
from runner.uploading import Uploading

FOLDER_SECONDS = 5.0  # for which a shared file system may hide what another host has just made

OF_RANK_0 = (remote_checkpoint.POINTER, "outcome.json", "log.txt")  # what an attempt's first worker keeps

Tell = Callable[[Trouble | None], object]


class Workplace(Protocol):
    """Folder in which an attempt works; `run` has its paths."""

    run: RunPaths

    def open(self) -> None:
        """Make ready to write. Raises OSError where this machine cannot."""
        ...

    def claim(self, patience_seconds: float, tell: Tell) -> None:
        """Make sure that nothing of another run or attempt lies where this one writes; the first thing to do.

        Raises ForeignRun, and SavingError where that cannot be known for so long.
        """
        ...

    def fetch_earlier(self, patience_seconds: float, tell: Tell) -> None:
        """Bring the files that this attempt may go on from into the folders of the earlier attempts.

        Raises SavingError where that cannot be read for so long.
        """
        ...

    def save(self) -> None:
        """Make durable what the checkpoint's file holds. Raises OSError, and then may be called again."""
        ...

    def settle(self, patience_seconds: float, tell: Tell) -> None:
        """Make everything durable. Raises SavingError where that fails for so long."""
        ...

    def end(self, ending: Ending) -> None:
        """Record how the attempt ended. Raises OSError."""
        ...

    def leave(self) -> None:
        """Delete what is not needed any more."""
        ...


def of(
    home: Home,
    run_id: int,
    name: str,
    attempt: int,
    config: str,
    rank: int = 0,
    identity: str | None = None,
) -> Workplace:
    """Return the folder in which this attempt works, or the one of its workers that has this rank."""
    if not home.remote:
        return SharedFolder(home.run(run_id, name), attempt, identity)
    return Scratch(home, run_id, name, attempt, config, rank, identity)


class SharedFolder:
    """The run's own folder, as the scheduler has made it."""

    def __init__(self, run: RunPaths, attempt: int, identity: str | None) -> None:
        self.run = run
        self._number = attempt
        self._attempt = run.attempt(attempt)
        self._identity = identity

    def open(self) -> None:
        deadline = time.monotonic() + FOLDER_SECONDS
        while not self._attempt.folder.is_dir():
            if time.monotonic() > deadline:
                raise FileNotFoundError(f"{self._attempt.folder} is not there: is the runs' folder mounted?")
            time.sleep(0.1)

    def claim(self, patience_seconds: float, tell: Tell) -> None:
        """Check the folder's owner, set by the scheduler, and delete what killed workers were writing."""
        persist(self._require_own, patience_seconds, tell)
        clear_temporaries(self.run.folder)
        for number in range(1, self._number):
            earlier = self.run.attempt(number)
            clear_temporaries(earlier.folder)
            clear_temporaries(earlier.figures)

    def _require_own(self) -> None:
        if self._is_foreign:
            raise ForeignRun(str(self.run.folder))

    @property
    def _is_foreign(self) -> bool:
        return ownership.owner(self.run) not in (None, self._identity)

    def fetch_earlier(self, patience_seconds: float, tell: Tell) -> None:
        """Do nothing: the earlier attempts' files lie where they were written."""

    def save(self) -> None:
        """Do nothing: the checkpoint was durable when it was written."""

    def settle(self, patience_seconds: float, tell: Tell) -> None:
        """Do nothing: all files were durable when they were written."""

    def end(self, ending: Ending) -> None:
        if not self._is_foreign:
            run_files.write_ending(self._attempt, ending)

    def leave(self) -> None:
        """Do nothing: all files stay."""


class Scratch:
    """A private folder of this host; what is durable is what was copied up from it."""

    def __init__(
        self,
        home: Home,
        run_id: int,
        name: str,
        attempt: int,
        config: str,
        rank: int,
        identity: str | None,
    ) -> None:
        assert home.storage is not None, "only an object store needs one"
        self._folder = scratch(home.storage, run_id, attempt, rank)
        self.run = Home(self._folder).run(run_id, name)
        self._url = home.storage
        self._keys = [attempt_key(run_id, name, number) for number in range(1, attempt + 1)]
        self._run_id, self._name = run_id, name
        self._number = attempt
        self._config = config
        self._rank = rank
        self._identity = identity
        self._claimed = False  # before that nothing is written to the store
        self._held: Held | None = None
        self._uploading: Uploading | None = None

    def open(self) -> None:
        private_folder(self._folder.parent, "set RUNNER_SCRATCH to a folder of your own")
        self._held = held.hold(self._folder)
        if self._held is None:
            raise StorageError(f"{self._folder}: another process works there")
        run_files.prepare(self.run, self._number, self._config)
        Objects(self._url)  # says now where this machine lacks what it needs

    def claim(self, patience_seconds: float, tell: Tell) -> None:
        persist(self._claim, patience_seconds, tell)
        self._claimed = True
        self._opened.start()

    def _claim(self) -> None:
        objects = Objects(self._url)
        folder = f"{self._url}/{run_folder(self._run_id, self._name)}"
        found = object_storage.owner(objects, self._run_id, self._name)
        if found not in (None, self._identity):
            raise ForeignRun(folder)
        if self._rank:  # rank 0 does the rest
            return
        kept = objects.list(self._keys[-1])
        if any(f"{self._keys[-1]}/{name}" in kept for name in OF_RANK_0):
            is_foreign = found is None and self._identity is not None and self._number == 1
            raise ForeignRun(folder) if is_foreign else AttemptKept(f"{self._url}/{self._keys[-1]}")
        if found is None and self._identity is not None:
            objects.put(object_storage.identity_key(self._run_id, self._name), self._identity.encode())

    @property
    def _opened(self) -> Uploading:
        if self._uploading is None:
            self._uploading = Uploading(Objects(self._url), self._keys[-1], self.run, self._number)
        return self._uploading

    def fetch_earlier(self, patience_seconds: float, tell: Tell) -> None:
        persist(self._fetch, patience_seconds, tell)

    def _fetch(self) -> None:
        objects = Objects(self._url)
        for number in range(self._number - 1, 0, -1):
            key, paths = self._keys[number - 1], self.run.attempt(number)
            pointer = remote_checkpoint.read(objects, key)
            if pointer is None:
                continue
            paths.folder.mkdir(parents=True, exist_ok=True)
            whole = remote_checkpoint.download(objects, key, pointer.newest, paths.checkpoint)
            if not whole and pointer.previous:
                whole = remote_checkpoint.download(
                    objects, key, pointer.previous, previous_path(paths.checkpoint)
                )
            if whole:
                if pointer.previous:
                    self._forget_before(objects, number)
                return
            paths.checkpoint.write_bytes(b"")  # there was one, and to begin anew would throw it away

    def _forget_before(self, objects: Objects, number: int) -> None:
        """Delete the checkpoints that an attempt's own two have made needless, and broken uploads too."""
        for key in self._keys[: number - 1]:
            objects.delete([f"{key}/{remote_checkpoint.POINTER}"])
            checkpoints = f"{key}/{remote_checkpoint.NAME}"
            objects.delete([found for found in objects.list(key) if found.startswith(checkpoints)])

    def save(self) -> None:
        for number in range(1, self._number):  # what it went on from is not needed here any more
            shutil.rmtree(self.run.attempt(number).folder, ignore_errors=True)
        self._opened.save()

    def settle(self, patience_seconds: float, tell: Tell) -> None:
        if self._claimed:
            persist(self._opened.copy, patience_seconds, tell)

    def end(self, ending: Ending) -> None:
        if self._claimed:
            Objects(self._url).put(f"{self._keys[-1]}/outcome.json", run_files.ending_text(ending))

    def leave(self) -> None:
        self._opened.end()
        if self._held is not None:
            self._held.leave()
            self._held = None
