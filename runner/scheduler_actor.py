"""The scheduler as an actor that Ray keeps alive.

Its constructor touches no database and raises nothing, for an exception in a restarted constructor would
kill it for good. Its loop ends the whole process on an unexpected error, so that Ray starts it anew: an
exception in a thread would leave it alive and deaf.
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
from runner import cluster
from runner.paths import Home
from runner.scheduler import Scheduler
from runner.store import NoQueue, Occupied, Store, Superseded, open_store
from runner.tracking import shown, target

log = logging.getLogger("runner")

NAME = "scheduler"
TICK_SECONDS = 0.3
RETRY_SECONDS = 1.0  # before it takes over, or is started anew
LOG_BYTES = 1_000_000


class SchedulerActor:
    """Ray makes one for each queue."""

    def __init__(self, root: str, cluster_name: str, tracking: Mapping[str, str]) -> None:
        """`tracking`: MLflow's variables, for the publisher."""
        self._home = Home(Path(root))
        self._cluster_name = cluster_name
        self._tracking = tracking
        self._message = "starting"
        threading.Thread(target=self._live, name="scheduler", daemon=True).start()

    def status(self) -> str:
        """Return "serving", or in one line what it waits for."""
        return self._message

    def leave(self) -> None:
        cluster.leave()

    def _live(self) -> None:
        try:
            _log_to(self._home.scheduler_log)
            self._serve()
        except (NoQueue, Superseded) as error:
            log.info("leaving: %s", error)
            cluster.tell_self("leave")
        except BaseException:
            log.exception("unexpected error; starting anew")
            time.sleep(RETRY_SECONDS)
            os._exit(1)

    def _serve(self) -> None:
        with open_store(self._home, create=False) as store:
            epoch = self._take_over(store)
            log.info("scheduler epoch %d: serving %s on %s", epoch, self._home.root, self._cluster_name)
            self._message = "serving"
            scheduler = Scheduler(store, self._home, epoch, self._tracking)
            queue = _identity(self._home)
            while True:
                started = time.monotonic()
                scheduler.tick(time.time())
                if _identity(self._home) != queue:
                    raise NoQueue(f"{self._home.database} was removed or replaced")
                time.sleep(max(0.0, TICK_SECONDS - (time.monotonic() - started)))

    def _take_over(self, store: Store) -> int:
        """Begin an epoch; the scheduler of another cluster must have been silent for a while."""
        while True:
            try:
                tracking = shown(target(self._home, self._tracking).uri)
                return store.take_over(time.time(), self._cluster_name, capsnet.__version__, tracking)
            except Occupied as error:
                self._message = str(error)
                time.sleep(RETRY_SECONDS)


def _identity(home: Home) -> tuple[int, int] | None:
    """Which file the database is: an open connection would not notice that its folder was deleted."""
    try:
        found = home.database.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _log_to(path: Path) -> None:
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
