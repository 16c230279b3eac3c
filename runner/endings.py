"""Asks a storage how attempts ended, in threads, so that the scheduler never waits for one that is slow."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from runner.rows import Run
from runner.storage import Ending, Storage

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.1  # for which the first question is waited for: most are answered by then
RETRY_SECONDS = 2.0


@dataclass
class Question:
    """How one attempt ended."""

    answer: Ending | None = None
    answered: bool = False
    trouble: str | None = None  # why it could not be asked


class Endings:
    """What is known of the ends of attempts; in one thread."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._questions: dict[tuple[int, int], Question] = {}  # by run and attempt

    @property
    def trouble(self) -> str | None:
        """Why some end is not known, in one line."""
        return next((asked.trouble for asked in list(self._questions.values()) if asked.trouble), None)

    def of(self, run: Run) -> Question:
        """What is known of how the run's newest attempt, which is gone, ended; it is asked on until it is."""
        key = run.id, run.attempt
        if key not in self._questions:
            self._questions[key] = asked = Question()
            thread = threading.Thread(target=self._ask, args=(run, asked), name="endings", daemon=True)
            thread.start()
            thread.join(WAIT_SECONDS)
        return self._questions[key]

    def forget(self, run: Run) -> None:
        self._questions.pop((run.id, run.attempt), None)

    def _ask(self, run: Run, asked: Question) -> None:
        while self._questions.get((run.id, run.attempt)) is asked:
            try:
                asked.answer = self._storage.ending(run)
            except Exception as error:  # a library's own too: nobody else would ever hear of it
                if asked.trouble is None:
                    log.warning("run %d: how attempt %d ended is not known: %s", run.id, run.attempt, error)
                asked.trouble = f"how run {run.id} ended is not known: {error}"
                time.sleep(RETRY_SECONDS)
            else:
                asked.trouble, asked.answered = None, True
                return
