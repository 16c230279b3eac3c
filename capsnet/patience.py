"""Retries with a storage that fails: how often, their messages, when to give up. Imports no PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

Value = TypeVar("Value")

TRIES = 20  # intervals between two savings in which none may succeed before training gives up
RETRY_SECONDS = 5.0  # at most, until what could not be saved is tried again


class SavingError(OSError):
    """Error where nothing could be saved for so long that training on would be in vain; one line."""


class Moment(NamedTuple):
    """One instant by two clocks."""

    monotonic: float
    at: float  # unix seconds


@dataclass(frozen=True)
class Trouble:
    """Reason why nothing can be saved at the moment, and since when."""

    since: float  # unix seconds
    reason: str

    def __str__(self) -> str:
        return f"cannot save since {time.strftime('%H:%M', time.localtime(self.since))}: {self.reason}"


def described(error: OSError) -> str:
    """Return an error of a file in words: "No space left on device: out/checkpoint.pt"."""
    if error.strerror is None:
        return " ".join(str(error).split()) or type(error).__name__
    return error.strerror + (f": {error.filename}" if error.filename else "")


def given_up(seconds: float, reason: str) -> str:
    kept = "what was saved before is kept"
    return (
        f"could not be saved for {seconds:.0f} s: {reason}; {kept}" if seconds >= 1 else f"{reason}; {kept}"
    )


def persist(
    action: Callable[[], Value], patience_seconds: float, tell: Callable[[Trouble | None], object]
) -> Value:
    """Return the result of `action`, which is tried again after each OSError.

    `tell` is called with each new trouble, and with None when it is over. Raises SavingError when errors
    have gone on for `patience_seconds`.
    """
    begun, told = Moment(time.monotonic(), time.time()), None
    while True:
        try:
            value = action()
        except OSError as error:
            reason, waited = described(error), time.monotonic() - begun.monotonic
            if waited >= patience_seconds:
                raise SavingError(given_up(waited, reason)) from error
            if (trouble := Trouble(begun.at, reason)) != told:
                told = trouble
                tell(trouble)
        else:
            if told is not None:
                tell(None)
            return value
        time.sleep(retry_seconds(patience_seconds))


def retry_seconds(patience_seconds: float) -> float:
    """Return the seconds until the next try, of a caller that gives up after `patience_seconds`."""
    return min(RETRY_SECONDS, patience_seconds / TRIES)
