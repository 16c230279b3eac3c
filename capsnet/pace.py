"""Timing of a run: when to yield, the speed of training, the time left."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """A stopwatch for one process's part of a run; `clock` returns seconds.

    Without `first_counts` the first step, which is compiled, is left out of the speed.
    """

    def __init__(
        self,
        interval_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        first_counts: bool = True,
    ) -> None:
        self._counts = first_counts
        self._interval = interval_seconds
        self._clock = clock
        self._yielded_at: float | None = None
        self._epoch_began = clock()
        self._earlier_seconds = 0.0
        self._epoch_images = self._images = 0
        self._epoch_training = 0.0  # seconds, of all steps
        self._epoch_counted = self._counted = 0.0  # seconds, of those whose images are counted
        self._evaluation = 0.0  # seconds it took last time

    def begin_epoch(self, earlier_seconds: float) -> None:
        """Begin an epoch, or go on with one on which an earlier process has spent `earlier_seconds`."""
        self._epoch_began = self._clock()
        self._earlier_seconds = earlier_seconds
        self._epoch_images = 0
        self._epoch_training = self._epoch_counted = 0.0

    def trained(self, images: int) -> None:
        """Note that a step of `images` images is done."""
        seconds = self._clock() - self._epoch_began
        if self._counts:
            self._images += images
            self._epoch_images += images
            self._counted += seconds - self._epoch_training
            self._epoch_counted += seconds - self._epoch_training
        self._counts = True
        self._epoch_training = seconds

    def evaluated(self) -> None:
        """Note that the epoch's evaluations are done."""
        self._evaluation = self._clock() - self._epoch_began - self._epoch_training

    def is_due(self) -> bool:
        """Return whether to yield: the first time, then `interval_seconds` after the last one."""
        return self._yielded_at is None or self._clock() - self._yielded_at >= self._interval

    def yielded(self) -> None:
        """Note that the caller has asked for the next progress."""
        self._yielded_at = self._clock()

    @property
    def epoch_seconds(self) -> float:
        return self._earlier_seconds + self._clock() - self._epoch_began

    @property
    def images_per_second(self) -> float:
        """Speed of training in this epoch and process; 0 before its first step that counts."""
        return self._epoch_images / self._epoch_counted if self._epoch_counted else 0.0

    def seconds_left(self, images: int, evaluations: int) -> float:
        """Return the seconds to train on `images` more and to evaluate so many times; infinite at first."""
        if not self._images:
            return float("inf") if images else evaluations * self._evaluation
        return images * self._counted / self._images + evaluations * self._evaluation
