"""The scheduler as an actor that Ray keeps alive.

Its constructor touches no database and raises nothing, for an exception in a restarted constructor would
kill it for good. Its loop ends the whole process on an unexpected error, so that Ray starts it anew: an
exception in a thread would leave the process alive without its loop.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import capsnet
from runner import cluster, settings, source, storage
from runner.paths import Home, recorded
from runner.redaction import redacted
from runner.run_files import file_mode
from runner.scheduler import Scheduler
from runner.states import UNFINISHED
from runner.store import NoQueue, Occupied, Store, Superseded, Unreachable, open_store
from runner.tracking import target

log = logging.getLogger("runner")

NAME = "scheduler"
TICK_SECONDS = 0.3
RETRY_SECONDS = 1.0  # before it takes over, asks the database again, or is started anew
STALE_SECONDS = 30.0  # of silence, after which the scheduler of another cluster may be followed
WAITING = "waiting for the database"
LOG_BYTES = 1_000_000


class Elsewhere(Exception):  # noqa: N818 - the name says what happened
    """This machine is not the place for the scheduler; one line."""


class SchedulerActor:
    """Actor of the scheduler; Ray makes one for each queue."""

    def __init__(
        self, root: str, database_url: str | None, cluster_name: str, given: Mapping[str, str]
    ) -> None:
        """`given`: variables for this process, the publisher and the workers (runner.settings)."""
        self._home = Home(Path(root), database_url, given.get(settings.STORAGE))
        self._cluster_name = cluster_name
        self._given = given
        self._message = "starting"
        self._place: str | None = None
        threading.Thread(target=self._live, name="scheduler", daemon=True).start()

    def status(self) -> str:
        """Return "serving", or in one line what it waits for."""
        return self._message

    def place(self) -> str | None:
        """Return where the queue is that it serves (`Store.place`); None while that is not open."""
        return self._place

    def leave(self) -> None:
        cluster.leave()

    def _live(self) -> None:
        try:
            settings.adopt(self._given)
            _log_to(self._home.scheduler_log)
            self._serve()
        except (NoQueue, Superseded) as error:
            log.info("leaving: %s", error)
            cluster.tell_self("leave")
        except Elsewhere as error:
            log.info("going on elsewhere: %s", error)
            time.sleep(RETRY_SECONDS)
            os._exit(1)
        except BaseException:
            log.exception("unexpected error; starting anew")
            time.sleep(RETRY_SECONDS)
            os._exit(1)

    def _serve(self) -> None:
        with self._opened() as store:
            self._place = store.place()
            own = source.here().archive
            epoch = self._take_over(store, own.digest)
            log.info("scheduler epoch %d: serving %s on %s", epoch, self._home.root, self._cluster_name)
            self._number_above_what_is_kept(store)
            scheduler = Scheduler(store, self._home, epoch, self._given, own)
            queue = _identity(self._home)
            while True:
                started = time.monotonic()
                self._tick(scheduler, store)
                if _identity(self._home) != queue:
                    raise NoQueue(f"{self._home.database} was removed or replaced")
                if scheduler.outstays:
                    scheduler.give_way()
                    raise Elsewhere("its machine is being drained")
                time.sleep(max(0.0, TICK_SECONDS - (time.monotonic() - started)))

    def _number_above_what_is_kept(self, store: Store) -> None:
        """Raise the next run's number above all with files here, which hosts that submit may not see."""
        try:
            store.number_above(storage.of(self._home).highest_number())
        except (OSError, Unreachable) as error:
            log.warning("which numbers of runs are taken is not known: %s", error)

    def _tick(self, scheduler: Scheduler, store: Store) -> None:
        try:
            scheduler.tick(store.now())
        except Unreachable as error:
            self._wait_for_database(error)
            scheduler.keep_workers()
        else:
            self._say("serving")

    def _say(self, message: str) -> None:
        """Set the message that `status` returns, and log it once."""
        if message != self._message:
            log.info("%s", message)
            self._message = message

    def _wait_for_database(self, error: Unreachable) -> None:
        """Set the message to why it waits; the log has only the first of several reasons in a row."""
        message = f"{WAITING}: {error}"
        if self._message.startswith(WAITING):
            self._message = message
        self._say(message)

    def _opened(self) -> Store:
        while True:
            try:
                return open_store(self._home, create=False)
            except Unreachable as error:
                self._wait_for_database(error)
                time.sleep(RETRY_SECONDS)

    def _take_over(self, store: Store, code: str) -> int:
        """Begin an epoch; the scheduler of another cluster must have been silent for a while."""
        tracking = redacted(target(self._home, self._given).uri)
        while True:
            try:
                if refusal := elsewhere(store, self._home):
                    raise Elsewhere(refusal)
                return store.take_over(
                    store.now(),
                    self._cluster_name,
                    capsnet.__version__,
                    tracking,
                    home=self._home.record,
                    stale_after=STALE_SECONDS,
                    code=code,
                )
            except Occupied as error:
                self._say(str(error))
            except Unreachable as error:
                self._wait_for_database(error)
            time.sleep(RETRY_SECONDS)


def elsewhere(store: Store, home: Home) -> str | None:
    """Return, in one line, that runs which are to go on have files elsewhere than here; None if not so."""
    text = store.recorded_home()
    if text in (None, home.record):
        return None
    before = recorded(text)
    begun = [run for run in store.runs(UNFINISHED) if run.attempt]
    if before.storage == home.storage:
        begun = [run for run in begun if not home.remote and not home.run(run.id, run.name).folder.is_dir()]
    if not begun:
        return None
    number = f"run {begun[0].id}" + (f" and {len(begun) - 1} more" if begun[1:] else "")
    has = "have" if begun[1:] else "has"
    there, here = before.storage or before.root, home.storage or home.root
    variable = "RUNNER_HOME" if before.storage == home.storage else "RUNNER_STORAGE"
    return (
        f"what {number} {has} saved lies in {there} and not in {here}: set {variable}={there}, "
        "or move the folders"
    )


def _identity(home: Home) -> tuple[int, int] | None:
    """Return the database's device and inode: an open connection does not notice that it was deleted."""
    if home.shared:
        return None
    try:
        found = home.database.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


class _Redacted(logging.Formatter):
    """Lines of the log, tracebacks included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def _log_to(path: Path) -> None:
    path.touch(mode=file_mode(path.parent))
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1)
    handler.setFormatter(_Redacted("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
