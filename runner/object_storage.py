"""Runs in an object store: what is asked for is copied into the home, where it lies as the worker had it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from capsnet.files import temporary
from capsnet.history import Row, parse_history
from runner import growing, held, ownership, remote_checkpoint, run_files
from runner.objects import Item, Objects, StorageError
from runner.ownership import ForeignRun
from runner.paths import AttemptPaths, Home, RunPaths, run_folder, run_number
from runner.run_files import Ending, parsed_ending

if TYPE_CHECKING:
    from runner.rows import Run

MARKER = "queue.json"  # says whose runs lie here: two queues would write to the same names
BOARD = "tensorboard"


@dataclass(frozen=True)
class Log:
    """Output that the worker of one rank printed."""

    rank: int = 0


Part = Log | Literal["metrics", "figures", "tensorboard"]


class ObjectStorage:
    """The runs of one home in an object store; in any thread."""

    def __init__(self, home: Home) -> None:
        assert home.storage is not None, "a home without a storage keeps its runs itself"
        self._home = home
        self._url = home.storage
        self._opened: Objects | None = None
        self._copied: dict[Path, str] = {}  # which content a copy holds
        self._verified: set[tuple[int, str | None]] = (
            set()
        )  # number and identity of runs that own their files
        self._lock = threading.Lock()  # two threads that copy one file would write to one temporary file

    def check(self, queue: str) -> None:
        self.hand_over(queue, queue)  # shows that one may write, too
        self._objects.list(MARKER)

    def hand_over(self, before: str, queue: str) -> None:
        require_own(self._objects.get(MARKER), before, self._url)
        self._objects.put(MARKER, json.dumps({"queue": queue}).encode())

    def highest_number(self) -> int:
        copied = run_files.highest_number(self._home.runs)
        return max([copied, *map(run_number, self._objects.folders())])

    def newest_attempt(self, run: Run) -> int:
        """Return 0, not known: asking the store takes a while, and the run's worker does it."""
        return 0

    def prepare(self, run: Run) -> None:
        """Do nothing: a worker makes its folder itself, on its own host."""

    def ending(self, run: Run) -> Ending | None:
        if not self._has_own(run):
            return None
        key = f"{attempt_key(run.id, run.name, run.attempt)}/outcome.json"
        text = self._objects.get(key)
        return None if text is None else parsed_ending(text, f"{self._url}/{key}")

    def newest_epoch(self, run: Run) -> Row | None:
        for number in range(run.attempt, 0, -1) if self._has_own(run) else ():
            text = self._objects.get(f"{attempt_key(run.id, run.name, number)}/history.csv")
            if text is not None:
                return (parse_history(text) or [None])[-1]
        return None

    def read(self, run: Run, *parts: Part) -> RunPaths:
        paths = self._home.run(run.id, run.name)
        if run.attempt:
            if not self._has_own(run):
                raise ForeignRun(f"{self._url}/{run_folder(run.id, run.name)}")
            ownership.claim(paths, run.identity, run.submitted_at)
            with self._lock:
                items = self._objects.list(run_folder(run.id, run.name))
                for number in range(1, run.attempt + 1):
                    self._copy(items, attempt_key(run.id, run.name, number), paths, number, parts)
                run_files.show(paths, run.attempt, run.config)
        return paths

    @contextmanager
    def checkpoint(self, run: Run) -> Iterator[Path | None]:
        """Yield a copy for this reader alone: another one, or a newer checkpoint, cannot take its place.

        That of a killed reader goes with the next reader's, or the next `rm`.
        """
        self._home.copies.mkdir(mode=0o700, parents=True, exist_ok=True)
        with held.own_folder(self._home.copies) as own:
            yield self._copied_newest(run, AttemptPaths(own))

    def _copied_newest(self, run: Run, own: AttemptPaths) -> Path | None:
        """Copy the newest checkpoint that is whole to the reader's own folder."""
        for number in range(run.attempt, 0, -1) if self._has_own(run) else ():
            key = attempt_key(run.id, run.name, number)
            pointer = remote_checkpoint.read(self._objects, key)
            if pointer is not None and any(
                remote_checkpoint.download(self._objects, key, saved, own.checkpoint) for saved in pointer.all
            ):
                attempt = self._home.run(run.id, run.name).attempt(number)
                self._replace(f"{key}/history.csv", attempt.history, None)
                run_files.link(own.figures, attempt.figures)  # what is drawn beside the copy outlives it
                return own.checkpoint
        return None

    def keep_figures(self, checkpoint: Path) -> None:
        figures = AttemptPaths(checkpoint.parent).figures.resolve()
        below = figures.relative_to(self._home.runs.resolve())
        for file in figures.glob("[!.]*"):
            self._objects.put(f"{below}/{file.name}", file)

    def size(self, run: Run) -> int:
        return sum(item.size for item in self._own(run).values())

    def delete(self, run: Run) -> None:
        self._objects.delete(self._own(run))
        copies = self._home.run(run.id, run.name)
        if ownership.is_own(copies, run.identity, run.submitted_at):
            run_files.delete(copies)
        with suppress(OSError):  # copies that killed readers have left are no part of the run
            held.clear(self._home.copies)

    def _own(self, run: Run) -> dict[str, Item]:
        """Return all objects of the run."""
        return self._objects.list(run_folder(run.id, run.name)) if self._has_own(run) else {}

    def _has_own(self, run: Run) -> bool:
        """Return whether the objects in the run's place are its own; False before its first attempt."""
        if run.attempt == 0:
            return False
        known = (run.id, run.identity)
        if known not in self._verified and owner(self._objects, run.id, run.name) in (None, run.identity):
            self._verified.add(known)
        return known in self._verified

    @property
    def _objects(self) -> Objects:
        """Opened when it is first needed, for what it imports takes most of a second."""
        if self._opened is None:
            self._opened = Objects(self._url)
        return self._opened

    def _copy(
        self, items: Mapping[str, Item], key: str, paths: RunPaths, number: int, parts: tuple[Part, ...]
    ) -> None:
        """Bring the copies of these parts of one attempt up to date with a listing."""
        attempt = paths.attempt(number)
        run_files.make_folders(paths, number)
        logs = {attempt.log_of(part.rank).name for part in parts if isinstance(part, Log)}
        sizes = growing.whole({name: item for name, item in items.items() if name.startswith(f"{key}/")})
        for name, size in sizes.items():
            file = name.removeprefix(f"{key}/")
            folder, _, picture = file.rpartition("/")
            if file in logs:
                growing.download(self._objects, name, size, attempt.folder / file)
            elif file == attempt.system.name and "metrics" in parts:
                growing.download(self._objects, name, size, attempt.system)
            elif file == attempt.history.name and "metrics" in parts:
                self._replace(name, attempt.history, items[name])
            elif folder == attempt.figures.name and "figures" in parts:
                self._replace(name, attempt.figures / picture, items[name])
            elif folder == BOARD and "tensorboard" in parts:
                growing.download(self._objects, name, size, paths.tensorboard / picture)

    def _replace(self, key: str, file: Path, item: Item | None) -> None:
        """Copy an object to a file, unless this process knows that it was copied."""
        if item is not None and self._copied.get(file) == item.version and file.exists():
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary(file, shared=True) as part:
            if self._objects.fetch(key, part, item.size if item else 0):
                part.replace(file)
                if item is not None:
                    self._copied[file] = item.version


def attempt_key(run_id: int, name: str, number: int) -> str:
    """Return the key of an attempt's folder: only the attempt writes below it."""
    return f"{run_folder(run_id, name)}/attempts/{number}"


def identity_key(run_id: int, name: str) -> str:
    """Return the key of the object that says which run a folder belongs to."""
    return f"{run_folder(run_id, name)}/identity"


def owner(objects: Objects, run_id: int, name: str) -> str | None:
    """Return the identity of the run whose files lie under this number and name; None where there is none."""
    text = objects.get(identity_key(run_id, name))
    return text.decode(errors="replace").strip() or None if text else None


def require_own(marker: bytes | None, queue: str, place: str) -> None:
    """Raise StorageError where runs of another queue lie, by what the marker there holds."""
    if marker is None:
        return
    try:
        owner = json.loads(marker)["queue"]
    except (KeyError, TypeError, ValueError):
        owner = None
    if owner != queue:
        raise StorageError(f"{place} holds the runs of another queue ({owner}): use another folder or prefix")
