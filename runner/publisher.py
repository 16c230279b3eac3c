"""Publishing to MLflow from the runs' folders and the queue's rows. Uses no Ray and no GPU.

Only what is durable is published: an epoch when it stands in the history.csv that follows its checkpoint.
So nothing that was published is lost later. How far MLflow has come is read from MLflow itself when this
process first handles a run, which makes a crash between MLflow's write and the queue's harmless.
"""

from __future__ import annotations

import functools
import getpass
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import capsnet
from capsnet.history import Row, read_history
from runner import model_artifact, ownership, record, run_files, source, storage, system_metrics
from runner.backlog import Backlog
from runner.code_cache import settle
from runner.log_copy import LogCopy
from runner.ownership import PlaceTaken
from runner.paths import Home, RunPaths
from runner.redaction import redacted
from runner.rows import Run
from runner.states import ENDED, State
from runner.store import Store
from runner.tracking import Record, Tracker, TrackingError, explain

FIRST_WAIT_SECONDS = 5.0  # before a run that could not be published is tried again; doubled each time
LONGEST_WAIT_SECONDS = 300.0
RUNS_A_ROUND = 20
NOWHERE = ".none"
LOOK_SECONDS = 5.0  # between two looks at what an object store holds of a run that runs

Fingerprint = tuple[object, ...]


@dataclass(frozen=True)
class Sampled:
    """Part of a system.csv that was published."""

    first: float  # time of its first sample
    end: int  # bytes


@dataclass(frozen=True)
class Wait:
    """Time at which a run that could not be published is tried again."""

    until: float
    seconds: float


class Publisher:
    """Publisher of a queue's runs to MLflow, with its memory of what is published."""

    def __init__(self, store: Store, home: Home, tracker: Tracker, logs: LogCopy | None = None) -> None:
        """`logs`: what is copied of the logs; no end is published before it is settled there."""
        self._store = store
        self._home = home
        self._storage = storage.of(home)
        self._looked: dict[int, tuple[float, tuple[object, ...]]] = {}  # when, and at which row, by run
        self._tracker = tracker
        self._logs = logs
        self._records: dict[int, Record] = {}
        self._published: dict[int, Fingerprint] = {}
        self._sampled: dict[tuple[str, Path], Sampled] = {}  # by MLflow run and system.csv
        self._waits: dict[int, Wait] = {}
        self._tried: dict[int, float] = {}  # when each run was last tried
        self._backlog = Backlog(store)
        self._epoch = self._scheduler_epoch()

    @property
    def superseded(self) -> bool:
        """Whether another scheduler has taken over since, which has a publisher of its own."""
        return self._scheduler_epoch() not in (None, self._epoch)

    def _scheduler_epoch(self) -> int | None:
        beat = self._store.scheduler_beat()
        return beat.epoch if beat else None

    def publish_once(self, now: float) -> None:
        """Publish what is new, or a part of it; what cannot be published is noted and tried again.

        `now` is of any clock that only goes on.
        """
        found = ((run, self._due(run, now)) for run in self._backlog.next())
        due = [(run, fingerprint) for run, fingerprint in found if fingerprint]
        if not due:
            return
        # Least recently tried first, so that many running runs cannot starve those that have ended.
        due.sort(key=lambda item: self._tried.get(item[0].id, -math.inf))
        try:
            self._tracker.check()
        except Exception as error:  # whatever it is, training goes on, and the row says why MLflow lacks it
            for run, _ in due:
                self._note(run, f"{redacted(self._tracker.target.uri)}: {explain(error)}")
            return
        for run, fingerprint in due[:RUNS_A_ROUND]:
            if self.superseded:
                return
            self._try(run, fingerprint, now)

    def _due(self, run: Run, now: float) -> Fingerprint | None:
        """Return the run's fingerprint if it must be published now; None if it is already, or must wait."""
        wait = self._waits.get(run.id)
        if wait and now < wait.until:
            return None
        if is_annotated_only(run):
            return (run.state, run.annotations)
        if self._logs is not None and not self._logs.settled(run):
            return None
        if not self._has_looked(run, now):
            return None
        fingerprint = _fingerprint(run, self._paths(run))
        # The row says otherwise where another publisher has noted late what it had seen before.
        return None if run.is_published and self._published.get(run.id) == fingerprint else fingerprint

    def _paths(self, run: Run) -> RunPaths:
        """Return the run's folder; one that does not exist where another run's files lie in its place."""
        paths = self._home.run(run.id, run.name)
        own = ownership.is_own(paths, run.identity, run.submitted_at)
        return paths if own else RunPaths(paths.folder / NOWHERE)

    def _has_looked(self, run: Run, now: float) -> bool:
        """Bring the run's folder up to date; return False, and note why, where the storage fails."""
        row = (run.state, run.attempt, run.queued_at)
        at, before = self._looked.get(run.id, (-math.inf, ()))
        if not self._home.remote or not run.attempt or (row == before and now < at + LOOK_SECONDS):
            return True
        try:
            self._storage.read(run, "metrics", *((storage.Log(), "figures") if run.state in ENDED else ()))
        except PlaceTaken:  # its own is nothing
            pass
        except OSError as error:
            self._wait(run, now, str(error))
            return False
        self._looked[run.id] = now, row
        return True

    def _wait(self, run: Run, now: float, error: str) -> None:
        """Note why a run cannot be published, and try it again later."""
        before = self._waits.get(run.id)
        seconds = min(2 * before.seconds, LONGEST_WAIT_SECONDS) if before else FIRST_WAIT_SECONDS
        self._waits[run.id] = Wait(now + seconds, seconds)
        self._note(run, error)

    def _try(self, run: Run, fingerprint: Fingerprint, now: float) -> None:
        self._tried[run.id] = now
        try:
            self._publish(run)
        except Exception as error:  # as above; the other runs are not held up by this one
            self._records.pop(run.id, None)  # MLflow may have taken a part: ask again how far it has come
            self._wait(run, now, explain(error))
        else:
            self._waits.pop(run.id, None)
            self._published[run.id] = fingerprint
            if run.state in ENDED:
                self._records.pop(run.id, None)
                self._tried.pop(run.id, None)
                self._looked.pop(run.id, None)

    def _note(self, run: Run, error: str) -> None:
        if run.publish_error != error:
            self._store.published(run.id, error=error)

    def _publish(self, run: Run) -> None:
        if not (is_annotated_only(run) and self._annotate(run)):
            self._publish_all(run)

    def _annotate(self, run: Run) -> bool:
        """Publish tags and note alone, for all else is there; False where MLflow has lost the run."""
        known = self._tracker.find(run.mlflow_run_id or "")
        if known is None:
            return False
        self._tracker.set_tags(known, record.user_tags(run, self._own_tags(run), known.tags))
        self._store.published(run.id, annotations=run.annotations)
        return True

    def _publish_all(self, run: Run) -> None:
        paths = self._paths(run)
        known = self._describe(run, paths)
        history = _history(run, paths)
        rows = read_history(history) if history else []
        self._tracker.add_points(known, record.epochs(row for row in rows if row["epoch"] > known.epoch))
        self._add_samples(run, known, paths)
        if run.state in ENDED:
            self._add_files(run, known, paths)
        if run.state is State.FINISHED:
            self._add_result(run, known, paths, rows)
        self._store.published(
            run.id, attempt=run.attempt, epoch=known.epoch, state=run.state, annotations=run.annotations
        )

    def _describe(self, run: Run, paths: RunPaths) -> Record:
        """Bring the run's params, tags and status up to date; return MLflow's record of the run."""
        own, attempts = self._own_tags(run), self._store.attempts(run.id)
        if run.id not in self._records or run.state in ENDED:
            # At the end MLflow is asked again: one that hung may have made a double of the run since.
            started_at = attempts[0].started_at if attempts else run.submitted_at
            self._records[run.id] = self._open(run, started_at, record.user_tags(run, own, {}) | own)
        known = self._records[run.id]
        tags = record.user_tags(run, own, known.tags) | own
        if not known.params:
            self._tracker.add_params(known, record.params(run.config))
        self._tracker.set_tags(known, tags | record.changes(run.config, known.params, known.tags))
        seconds = run.trained_seconds if run.state in ENDED else None
        self._tracker.set_status(known, record.STATUS[run.state], seconds)
        return known

    def _own_tags(self, run: Run) -> dict[str, str | None]:
        folder = self._home.place(run.id, run.name)
        return record.tags(run, self._store.queue_id, folder, _user(), capsnet.__version__)

    def _open(self, run: Run, started_at: float, tags: Mapping[str, str | None]) -> Record:
        """Return MLflow's record of the run, made if there is none; all publishers agree which one it is."""
        found = self._tracker.open(run.mlflow_run_id, record.label(run), started_at, tags)
        if found.id != run.mlflow_run_id:
            agreed = self._store.bind(run.id, run.mlflow_run_id, found.id)
            if agreed != found.id:  # the one that was just made is empty, and goes when MLflow is asked again
                raise TrackingError(f"another publisher made its MLflow run {agreed}: going on with that one")
        return found

    def _add_samples(self, run: Run, known: Record, paths: RunPaths) -> None:
        attempts = self._store.attempts(run.id)
        for attempt in attempts:
            file = paths.attempt(attempt.number).system
            before = self._sampled.get((known.id, file))
            rows, end = system_metrics.read(file, before.end if before else 0)
            if rows:
                first = before.first if before else rows[0]["time"]
                started = attempt.started_at - attempts[0].started_at
                self._tracker.add_points(known, record.samples(rows, first, started, known.sampled))
                self._sampled[known.id, file] = Sampled(first, end)

    def _add_files(self, run: Run, known: Record, paths: RunPaths) -> None:
        """Add the files of a run that has ended, laid out as in its own folder."""
        for file in (paths.config, _history(run, paths)):
            if file and file.exists():
                self._tracker.add_file(known, file)
        for number in range(1, run.attempt + 1):
            if (log := paths.attempt(number).log).exists():
                self._tracker.add_file(known, log, f"attempts/{number}")
        # Each attempt's pictures lie apart: those that an earlier one alone has would pass for the newest's.
        for picture in run_files.figures(paths, run.attempt):
            self._tracker.add_file(known, picture, str(picture.parent.relative_to(paths.folder)))

    def _add_result(self, run: Run, known: Record, paths: RunPaths, rows: list[Row]) -> None:
        """Add a finished run's results: the metrics of the epoch that validation chose, and the model."""
        if known.epoch < run.last_epoch:  # a shared file system may show the newest history late
            raise TrackingError(f"{_history(run, paths)}: ends at epoch {known.epoch} of {run.last_epoch}")
        self._tracker.add_points(known, [record.best(rows)])
        [newest] = record.epochs(rows[-1:])
        with self._storage.checkpoint(run) as checkpoint:
            if checkpoint is None:
                raise TrackingError(f"{self._home.place(run.id, run.name)}: its checkpoint is gone")
            save = functools.partial(model_artifact.save, checkpoint, self._packages(run))
            self._tracker.add_model(known, run.name, known.epoch, newest, save)

    def _packages(self, run: Run) -> Path:
        """Return the folder of the code that trained the run."""
        kept = self._store.source(run.code) if run.code else None
        return settle(kept.archive) if kept else source.folder("capsnet").parent


def _history(run: Run, paths: RunPaths) -> Path | None:
    """Return the file that holds what is durable of the run.

    While a newer attempt may still re-measure what an older one measured, only the newest one's counts:
    an older one may be written by a worker that was cut off and does not know that it lost its run.
    """
    if run.state in ENDED:
        return run_files.history(paths, run.attempt)
    newest = paths.attempt(run.attempt).history
    return newest if newest.exists() else None


def is_annotated_only(run: Run) -> bool:
    """Return whether tracking has all of an ended run but the newest tags or note."""
    is_whole = run.state in ENDED and run.published_state is run.state and run.mlflow_run_id is not None
    has_epochs = (run.durable_epoch or 0) <= (run.published_epoch or 0)
    return is_whole and has_epochs and run.annotations != run.published_annotations


def _fingerprint(run: Run, paths: RunPaths) -> Fingerprint:
    """Return a value that changes whenever there is something new to publish."""
    files = (_history(run, paths), paths.attempt(run.attempt).system)
    row = (run.state, run.attempt, run.queued_at, run.reason, run.host, run.devices)
    return (*row, *map(_version_of, files))


def _version_of(file: Path | None) -> tuple[int, int, int] | None:
    """Return which content a file holds, without reading it."""
    try:
        status = file.stat() if file else None
    except FileNotFoundError:
        return None
    return status and (status.st_ino, status.st_mtime_ns, status.st_size)


def _user() -> str:
    """Return the name of this process's user; in a container there may be none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
