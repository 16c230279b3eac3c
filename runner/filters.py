"""Choosing runs by state, name, tag, age and number: a database narrows it down, `Filter.admits` decides."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from runner.states import State

if TYPE_CHECKING:
    from runner.rows import Run


@dataclass(frozen=True)
class Tag:
    """A tag that a run must have; with any value where `value` is None."""

    key: str
    value: str | None


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A run must meet all of these; what is empty or None asks nothing."""

    states: frozenset[State] = frozenset()  # one of them
    names: tuple[str, ...] = ()  # one of these patterns, of *, ? and [abc]
    tags: tuple[Tag, ...] = ()  # all of them
    submitted_since: float | None = None  # unix seconds
    numbers: tuple[int, int] | None = None  # the first and the last

    def admits(self, run: Run) -> bool:
        """Return whether a run is one of those that are asked for."""
        first, last = self.numbers or (run.id, run.id)
        return (
            (not self.states or run.state in self.states)
            and (not self.names or any(fnmatchcase(run.name, pattern) for pattern in self.names))
            and all(_has(run, tag) for tag in self.tags)
            and (self.submitted_since is None or run.submitted_at >= self.submitted_since)
            and first <= run.id <= last
        )


def _has(run: Run, tag: Tag) -> bool:
    return tag.key in run.tags and tag.value in (None, run.tags[tag.key])


def like(pattern: str, escape: str = "\\") -> str:
    """A pattern of *, ? and [abc] as one of SQL's LIKE, which admits all that it does, and perhaps more."""
    found, position = "", 0
    while position < len(pattern):
        sign = pattern[position]
        end = _end_of_class(pattern, position) if sign == "[" else None
        if end is not None:
            found, position = found + "_", end
        else:
            found += {"*": "%", "?": "_"}.get(sign, f"{escape}{sign}" if sign in f"%_{escape}" else sign)
        position += 1
    return found


def _end_of_class(pattern: str, start: int) -> int | None:
    """The place of the bracket that closes the one at `start`; None where it is a sign like any other."""
    # A bracket directly after the first one, or after the ! that negates the class, belongs to the class.
    first = start + 2 if pattern[start + 1 : start + 2] == "!" else start + 1
    end = pattern.find("]", first + 1)
    return end if end > 0 else None
