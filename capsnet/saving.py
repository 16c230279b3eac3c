"""Saving beside training: when it is due, and a thread that saves and retries."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from capsnet import checkpoint
from capsnet.config import Checkpoint
from capsnet.patience import Moment, SavingError, Trouble, described, given_up, retry_seconds
from capsnet.snapshot import Snapshot
from capsnet.state import State

Save = Callable[[State, Path], object]

HUNG_SECONDS = 60.0  # after which a storage that does not answer counts as one that fails
HURRY_SECONDS = 30.0  # that an impatient `close` waits for a storage that does not answer
LOOK_SECONDS = 0.2  # between two checks for trouble to report, while a call waits
NICENESS = 15  # of the thread that saves
NO_ANSWER = "the storage does not answer"


def due(settings: Checkpoint, ended: int | None, is_over: bool, seconds: float) -> bool:
    """Return whether to save, `seconds` after the last save, at the end of epoch `ended` (None: within one).

    `is_over`: no epoch follows.
    """
    kept = ended is not None and settings.keep_every is not None and ended % settings.keep_every == 0
    return is_over or kept or seconds >= settings.interval_seconds


class Writer:
    """A thread that saves states, so that training waits neither for their copy to the CPU nor for the disk.

    A state that still waits when a newer one comes is not written, except where `checkpoint.keep_every`
    asks for it. One that cannot be written because of the storage (OSError) is tried again, or the newer
    one in its place, for `patience_seconds`; then, and at once after any other error, every call raises.
    """

    def __init__(
        self,
        path: Path,
        patience_seconds: float = 0.0,
        tell: Callable[[Trouble | None], None] = lambda trouble: None,
        save: Save | None = None,
    ) -> None:
        """`tell` is called with a trouble that is new, or None when over, within a call and in its thread.

        `save`: saves a state, if not capsnet.checkpoint.save.
        """
        self.path = path
        self.durable: tuple[int, int] | None = None  # (epoch, step) of the state last written
        self._patience = patience_seconds
        self._tell = tell
        self._save = save
        self._waiting: list[Snapshot] = []  # the state being written stays in it until it is on disk
        self._closed = False
        self._patient = True
        self._unsaved_since: Moment | None = None  # since when the state being written has been tried
        self._trouble: Trouble | None = None
        self._told: Trouble | None = None
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="checkpoint writer", daemon=True)
        self._thread.start()

    def submit(self, snapshot: Snapshot) -> None:
        """Queue a snapshot's state for writing."""
        with self._changed:
            self.look()
            in_work, later = self._waiting[:1], self._waiting[1:]
            self._waiting = [*in_work, *_kept(later), snapshot]
            self._changed.notify_all()

    def look(self) -> None:
        """Report a trouble that is new, or over; raise the error that ended all saving."""
        with self._changed:
            if self._error is None and (waited := self._hung()) > max(self._patience, HUNG_SECONDS):
                self._error = SavingError(given_up(waited, NO_ANSWER))
            if self._error is not None:
                raise self._error
            trouble = self._trouble
            if trouble is None and self._unsaved_since and self._hung() > HUNG_SECONDS:
                trouble = Trouble(self._unsaved_since.at, NO_ANSWER)
            if trouble != self._told:
                self._told = trouble
                self._tell(trouble)

    def wait(self) -> None:
        """Wait until everything submitted is on disk."""
        with self._changed:
            while self._waiting:
                self.look()
                self._changed.wait(LOOK_SECONDS)
            self.look()

    def close(self, patient: bool = True) -> None:
        """Write the pending states, then end the thread.

        Unless `patient`, a failed write is not tried again, and one that has not ended within HURRY_SECONDS
        is given up: the thread may still end that write, which leaves a whole file or none, and begins no
        other.
        """
        begun = time.monotonic()
        with self._changed:
            self._closed, self._patient = True, patient
            self._changed.notify_all()
        while self._thread.is_alive():
            self.look()
            self._thread.join(LOOK_SECONDS)
            if not patient and time.monotonic() - begun > HURRY_SECONDS:
                self._abandon()
        self.look()

    def _abandon(self) -> None:
        """Give up the state that is being written, unless that has just ended."""
        with self._changed:
            if self._waiting and self._error is None:
                self._error = SavingError(given_up(self._hung(), NO_ANSWER))

    def _hung(self) -> float:
        """Return for how many seconds the state that is being written has been tried."""
        since = self._unsaved_since
        return 0.0 if since is None else time.monotonic() - since.monotonic

    def _work(self) -> None:
        _give_way()
        while (snapshot := self._next()) is not None:
            try:
                (self._save or checkpoint.save)(snapshot.state(), self.path)
            except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
                self._give_up(
                    error
                )  # for the user to mend: a file is in the way, which waiting does not change
                return
            except OSError as error:
                if not self._goes_on(error):
                    return
            except BaseException as error:  # raised again in the thread that trains
                self._give_up(error)
                return
            else:
                with self._changed:
                    self.durable = snapshot.epoch, snapshot.step
                    del self._waiting[0]
                    self._unsaved_since = self._trouble = None
                    self._changed.notify_all()

    def _next(self) -> Snapshot | None:
        """Wait for the next state to write, and return it; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting or self._error is not None:
                return None
            self._unsaved_since = self._unsaved_since or Moment(time.monotonic(), time.time())
            return self._waiting[0]

    def _goes_on(self, error: OSError) -> bool:
        """Note why a state cannot be saved, and wait; return whether to try again."""
        reason = described(error)
        with self._changed:
            assert self._unsaved_since is not None, "something is in work"
            self._trouble = Trouble(self._unsaved_since.at, reason)
            if (waited := self._hung()) >= self._patience or not self._patient:
                self._give_up(SavingError(given_up(waited, reason)))
                return False
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._patient, retry_seconds(self._patience))
            *older, newest = self._waiting
            self._waiting = [*_kept(older), newest]
            return True

    def _give_up(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()


def _give_way() -> None:
    """Lower this thread's priority: training waits for the slowest of its own threads."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _kept(snapshots: Iterable[Snapshot]) -> Iterator[Snapshot]:
    return (snapshot for snapshot in snapshots if snapshot.is_kept)
