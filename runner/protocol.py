"""Messages between scheduler and worker: plain values, for the two may be of different versions of the code.

A run keeps the code of its submission, so its worker may be older than the scheduler, or newer. Neither
unpickles the other's classes: an assignment goes in as a dictionary, an answer comes out as one, and each
side reads the keys that it knows. Hence what to do on a change:

- A new key: give its field a default that means what its absence meant. Nothing else is needed.
- A key that means something else, one that must be understood, or another kind of ending: a new PROTOCOL,
  and SPOKEN keeps the old one for as long as the scheduler can still deal with it.

The scheduler makes `runner.worker.Worker` with one argument, the assignment, and calls `status` and `stop`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

PROTOCOL = 1  # which the workers of this code speak; it has `rank`, `workers` and `meets_at` from the first
SPOKEN = frozenset({1})  # which the scheduler of this code speaks


def known(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the values for which the dataclass has a field."""
    names = {field.name for field in fields(cls)}
    return {name: value for name, value in values.items() if name in names}


def cannot_speak(protocol: int) -> str | None:
    """Return why the scheduler cannot run code that speaks this protocol, and what to do, in one line."""
    if protocol in SPOKEN:
        return None
    which = f"its code speaks protocol {protocol}, the scheduler {', '.join(map(str, sorted(SPOKEN)))}"
    if protocol > max(SPOKEN):
        return f"{which}: `down` and `up` with a version as new as that code, then `resume`"
    return f"{which}: `resume --new-code` goes on with the code of today"
