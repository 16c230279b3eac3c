"""Questions to a storage on how attempts ended, in a few threads: the scheduler waits for no slow answer."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field

from capsnet.history import Row
from runner.rows import Run
from runner.storage import Ending, Storage

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.1  # for which new questions are waited for, all together: most are answered by then
RETRY_SECONDS = 2.0
ASKERS = 8  # threads: a host that takes a hundred runs with it must not take the scheduler's time too


@dataclass
class Question:
    """Question about how one attempt ended, and its answer."""

    answer: Ending | None = None
    kept: Row | None = None  # the newest epoch that its run has kept
    trouble: str | None = None  # why it could not be asked
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def answered(self) -> bool:
        return self.over.is_set()


class Endings:
    """Known ends of attempts; for use in one thread."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._questions: dict[tuple[int, int], Question] = {}  # by run and attempt
        self._open: queue.SimpleQueue[tuple[Run, Question]] = queue.SimpleQueue()
        self._askers = 0

    @property
    def trouble(self) -> str | None:
        """Reason why some end is not known, in one line; None without one."""
        return next((asked.trouble for asked in list(self._questions.values()) if asked.trouble), None)

    def ask(self, runs: Collection[Run]) -> None:
        """Start to find out how the newest attempts of these runs, whose workers are gone, ended.

        Waits for at most WAIT_SECONDS in all; each question is repeated until its answer is known.
        """
        new = [run for run in runs if (run.id, run.attempt) not in self._questions]
        for run in new:
            self._questions[run.id, run.attempt] = asked = Question()
            self._open.put((run, asked))
        while self._askers < min(ASKERS, len(self._questions)):
            self._askers += 1
            threading.Thread(target=self._work, name="endings", daemon=True).start()
        deadline = time.monotonic() + WAIT_SECONDS
        for run in new:
            self.of(run).over.wait(max(0.0, deadline - time.monotonic()))

    def of(self, run: Run) -> Question:
        """Return the question about the end of the run's newest attempt, with its answer once known.

        `ask` must have been called for the run.
        """
        return self._questions[run.id, run.attempt]

    def kept(self, run: Run) -> Row | None:
        """Return the newest epoch that the run has kept, as far as that was asked for and is known."""
        asked = self._questions.get((run.id, run.attempt))
        return asked.kept if asked is not None and asked.answered else None

    def forget(self, run: Run) -> None:
        self._questions.pop((run.id, run.attempt), None)

    def _work(self) -> None:
        while True:
            run, asked = self._open.get()
            if self._questions.get((run.id, run.attempt)) is not asked:
                continue  # it was forgotten meanwhile
            try:
                asked.answer = self._storage.ending(run)
                asked.kept = self._newest_epoch(run)
            except Exception as error:  # a library's own too: it would be reported nowhere else
                if asked.trouble is None:
                    log.warning("run %d: how attempt %d ended is not known: %s", run.id, run.attempt, error)
                asked.trouble = f"how run {run.id} ended is not known: {error}"
                time.sleep(RETRY_SECONDS)
                self._open.put((run, asked))
            else:
                asked.trouble = None
                asked.over.set()

    def _newest_epoch(self, run: Run) -> Row | None:
        """Return the newest epoch that the run has kept; None, with a warning, if a file cannot be parsed."""
        try:
            return self._storage.newest_epoch(run)
        except (KeyError, ValueError) as error:  # asked again, it would say the same
            log.warning("run %d: its metric history cannot be read: %s", run.id, error)
            return None
