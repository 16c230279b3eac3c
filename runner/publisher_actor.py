"""The publisher as an actor: started by the scheduler when there is something to publish.

A process of its own, for MLflow's client can block for minutes; it leaves when there is nothing left to
do, for what it imports takes some 400 MB.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runner import settings
from runner.output_log import log_to
from runner.paths import Home
from runner.run_files import make_folder
from runner.store import StoreError

if TYPE_CHECKING:
    from runner.log_copy import LogCopy
    from runner.store import Store

NAME = "publisher"
ROUND_SECONDS = 1.0
IDLE_SECONDS = 60.0


class PublisherActor:
    """Actor of the publisher; Ray makes one at a time for each queue."""

    def __init__(self, root: str, database_url: str | None, given: Mapping[str, str]) -> None:
        """`given`: variables as they are where the scheduler was started (runner.settings)."""
        self._home = Home(Path(root), database_url, given.get(settings.STORAGE))
        settings.adopt(given)
        log_to(self._home.publisher_log)
        os.nice(19)  # on a small machine training goes first
        self._start(self._publish)

    def status(self) -> None:
        """Answer; that it answers shows that it lives."""

    def _start(self, work: Callable[[], None]) -> None:
        """Run `work` in a thread; when it ends, this process ends."""

        def live() -> None:
            try:
                work()
            except StoreError as error:  # such as a database that is away: the next one goes on from there
                print(f"leaving: {error}", flush=True)
            except BaseException:
                traceback.print_exc()
            os._exit(0)  # the scheduler starts another one when there is something to do

        threading.Thread(target=live, name=work.__name__, daemon=True).start()

    def _publish(self) -> None:
        from runner.publisher import Publisher
        from runner.store import open_store
        from runner.tracking import Tracker, target

        tracking = target(self._home)
        if tracking.lock is not None:  # a store of our own, whose files MLflow would leave to the umask
            make_folder(self._home.artifacts)
        with open_store(self._home, create=False) as store:
            logs = self._copied_logs(store) if self._home.shared else None
            publisher = Publisher(store, self._home, Tracker(tracking), logs)
            idle_since = time.monotonic()
            while not publisher.superseded and time.monotonic() - idle_since < IDLE_SECONDS:
                publisher.publish_once(time.monotonic())
                if store.anything_unpublished():
                    idle_since = time.monotonic()
                time.sleep(ROUND_SECONDS)

    def _copied_logs(self, store: Store) -> LogCopy:
        """Return the logs, copied in a thread of its own: MLflow may keep the other one for minutes."""
        from runner.log_copy import LogCopy

        logs = LogCopy(store, self._home)

        def copy_logs() -> None:
            while True:
                logs.copy_once(time.monotonic())
                time.sleep(ROUND_SECONDS)

        self._start(copy_logs)
        return logs
