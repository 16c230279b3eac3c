"""Every path of the runner's home and of a run in it. No other file joins strings to a path."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DATABASE = "queue.db"  # the file of a home's queue
LARGEST_NUMBER = 2**31 - 1  # of a run, that every database takes
LONGEST_NAME = 80  # characters of a run's name in its folder's name; most file systems allow 255 bytes


@dataclass(frozen=True)
class AttemptPaths:
    """The files of one attempt. No other attempt writes here: that is what keeps a zombie harmless."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def history(self) -> Path:
        return self.folder / "history.csv"

    @property
    def figures(self) -> Path:
        return self.folder / "figures"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def log_of(self, rank: int) -> Path:
        """Return the path of the log of one of several workers that train the run together.

        That of rank 0 is the attempt's.
        """
        return self.folder / f"log.rank-{rank}.txt" if rank else self.log

    @property
    def logs(self) -> list[Path]:
        """Logs of the workers, as far as they exist."""
        return sorted(self.folder.glob("log*.txt"))

    @property
    def outcome(self) -> Path:
        return self.folder / "outcome.json"

    @property
    def system(self) -> Path:
        return self.folder / "system.csv"


@dataclass(frozen=True)
class RunPaths:
    """The folder of one run."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def identity(self) -> Path:
        """The file that says which run the folder belongs to."""
        return self.folder / "identity"

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tensorboard"

    @property
    def attempts(self) -> Path:
        return self.folder / "attempts"

    def attempt(self, number: int) -> AttemptPaths:
        """Return the files of the attempt with this number (from 1)."""
        return AttemptPaths(self.attempts / str(number))


@dataclass(frozen=True)
class Home:
    """The folder that holds a queue, its tracking store and its runs."""

    root: Path
    # Of the queue, where it does not lie in the folder; it may hold a password.
    database_url: str | None = field(default=None, repr=False)
    # Of the runs, where they do not lie in the folder: another folder, or the URL of an object store.
    storage: str | None = None

    @property
    def remote(self) -> bool:
        """Whether the runs lie in an object store; what lies in the folder are then copies."""
        return self.storage is not None and "://" in self.storage

    @property
    def runs(self) -> Path:
        """The folder of the runs' folders."""
        return Path(self.storage) if self.storage and not self.remote else self.root

    @property
    def record(self) -> str:
        """The folder and the storage as one text, which `recorded` reads."""
        return str(self.root) + (f"\n{self.storage}" if self.storage else "")

    @property
    def shared(self) -> bool:
        """Whether the queue lies on a database server, for several hosts to use."""
        return self.database_url is not None and not self.database_url.startswith("sqlite:")

    @property
    def database(self) -> Path:
        """The file of a queue that does not lie on a server."""
        return Path((self.database_url or "").removeprefix("sqlite:///") or self.root / DATABASE)

    @property
    def mlflow_database(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def copies(self) -> Path:
        """Where each reader of a checkpoint in an object store keeps its own copy meanwhile."""
        return self.root / "copies"

    @property
    def service_lock(self) -> Path:
        return self.root / "service.lock"

    @property
    def scheduler_log(self) -> Path:
        return self.root / "scheduler.log"

    @property
    def publisher_log(self) -> Path:
        return self.root / "publisher.log"

    def run(self, run_id: int, name: str) -> RunPaths:
        """Return the folder `<id>-<name>`; signs that a file name cannot hold become hyphens."""
        return RunPaths(self.runs / run_folder(run_id, name))

    def place(self, run_id: int, name: str) -> str:
        """Return where the files of a run are kept, for people to read."""
        folder = run_folder(run_id, name)
        return f"{self.storage}/{folder}" if self.remote else str(self.runs / folder)


def home(environ: Mapping[str, str] = os.environ) -> Home:
    """The home that RUNNER_HOME names, else ./runs; absolute, so that a change of directory is harmless.

    Its queue is the one of RUNNER_DATABASE_URL where that is set, and its runs lie in RUNNER_STORAGE.
    """
    root = Path(environ.get("RUNNER_HOME") or "runs").expanduser().resolve()
    storage = storage_named(environ.get("RUNNER_STORAGE") or "", root)
    return Home(root, _absolute(environ.get("RUNNER_DATABASE_URL") or None), storage)


def storage_named(text: str, root: Path) -> str | None:
    """Return a storage as RUNNER_STORAGE names it: a URL, or an absolute folder; None for the home itself."""
    if "://" in text and not text.startswith("file://"):
        scheme, _, path = text.partition("://")
        return f"{scheme}://{path.rstrip('/')}"
    folder = Path(text.removeprefix("file://")).expanduser().resolve() if text else root
    return None if folder == root else str(folder)


def recorded(text: str) -> Home:
    """Parse a home that `Home.record` wrote."""
    root, _, storage = text.partition("\n")
    return Home(Path(root), storage=storage or None)


def scratch(
    storage: str, run_id: int, attempt: int, rank: int = 0, environ: Mapping[str, str] = os.environ
) -> Path:
    """The folder of this host in which an attempt of a run works whose files are kept in an object store.

    Each of several workers has one of its own, by its rank.
    """
    named = environ.get("RUNNER_SCRATCH")
    place = Path(named).expanduser() if named else Path(tempfile.gettempdir())
    parent = place / f"runner-scratch-{os.getuid()}"  # several users may name one place
    queue = hashlib.blake2b(storage.encode(), digest_size=6).hexdigest()
    return parent / (f"{queue}-{run_id}-{attempt}" + (f"-{rank}" if rank else ""))


def _absolute(url: str | None) -> str | None:
    """Return the URL of a database; of one in a file, the same for processes of other directories."""
    file = re.fullmatch(r"sqlite(\+pysqlite)?:///([^?:][^?]*)(\?.*)?", url or "")
    return f"sqlite:///{Path(file[2]).expanduser().resolve()}" if file else url


def run_folder(run_id: int, name: str) -> str:
    return f"{run_id}-{_as_file_name(name)}"


def run_number(folder: str) -> int:
    """Return the number of the run whose folder has this name; 0 where it is no run's."""
    found = re.fullmatch(r"([1-9]\d{0,9})-.+", folder)
    number = int(found[1]) if found else 0
    return number if number <= LARGEST_NUMBER else 0


def _as_file_name(name: str) -> str:
    return re.sub(r"[^\w.+=-]+", "-", name, flags=re.ASCII).strip("-.")[:LONGEST_NAME] or "run"
