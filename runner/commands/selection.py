"""Selection of runs by the words of a command line: `3`, `5-9`, `baseline`, `name:mnist_*`, and `--all`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from runner.filters import Filter
from runner.output import PROGRAM, CommandError, confirm
from runner.states import State
from runner.wording import listed, plural

if TYPE_CHECKING:
    from runner.rows import Run
    from runner.store import Store

LARGEST = 2**31 - 1  # number of a run that every database takes
PATTERN = "name:"

_RANGE = re.compile(r"([0-9]+)-([0-9]+)")
_LIST = f"`{PROGRAM} queue --all` lists the runs"


def chosen(store: Store, words: Iterable[str]) -> list[Run]:
    """Return the runs that these words name, in their order, none twice.

    Raises CommandError with a line for each word that names none.
    """
    runs: dict[int, Run] = {}
    unknown: list[str] = []
    for word in words:
        try:
            runs |= {run.id: run for run in named(store, word)}
        except CommandError as error:
            unknown.append(str(error))
    if unknown:
        raise CommandError("\n".join(unknown))
    return list(runs.values())


def named(store: Store, word: str) -> list[Run]:
    """Return the runs that one word names, at least one."""
    # Bytes that are no text come as surrogates, of which no name has any and which no database takes.
    if any("\ud800" <= sign <= "\udfff" for sign in word):
        raise CommandError(f"there is no run {word!r}: {_LIST}")
    if word.isdecimal():
        return _numbered(store, word)
    if (ends := _RANGE.fullmatch(word)) is not None:
        return _between(store, word, _number(ends[1]), _number(ends[2]))
    if word.startswith(PATTERN):
        return _like(store, word.removeprefix(PATTERN))
    return _of_name(store, word)


def may_be_several(words: Sequence[str]) -> bool:
    """Return whether these words ask for a list of runs, however many they name, and not for one run."""
    return len(words) != 1 or words[0].startswith(PATTERN) or _RANGE.fullmatch(words[0]) is not None


def looks_like_runs(word: str) -> bool:
    """Return whether a word can only be meant for runs."""
    return word.isdecimal() or word.startswith(PATTERN) or _RANGE.fullmatch(word) is not None


def _numbered(store: Store, word: str) -> list[Run]:
    run = store.run(_number(word))
    if run is None:
        raise CommandError(f"there is no run {word}: {_LIST}")
    return [run]


def _between(store: Store, word: str, first: int, last: int) -> list[Run]:
    if first > last:
        raise CommandError(f"{word}: the lower number comes first, as in {last}-{first}")
    runs = store.matching(Filter(numbers=(first, last)))
    if not runs:
        raise CommandError(f"there is no run from {first} to {last}: {_LIST}")
    return runs


def _number(digits: str) -> int:
    """Return the number that digits stand for, or the largest that a run can have."""
    return min(int(digits), LARGEST) if len(digits.lstrip("0")) <= len(str(LARGEST)) else LARGEST


def _like(store: Store, pattern: str) -> list[Run]:
    runs = store.matching(Filter(names=(pattern,)))
    if not runs:
        raise CommandError(f"there is no run whose name is like {pattern!r}: {_LIST}")
    return runs


def _of_name(store: Store, name: str) -> list[Run]:
    runs = store.named(name)
    if not runs:
        raise CommandError(f"there is no run {name!r}: {_LIST}")
    if len(runs) > 1:
        numbers = listed([run.id for run in runs])
        which = f"say which by its number, or {PATTERN}{name} for all"
        raise CommandError(f"{len(runs)} runs are named {name!r}: {numbers}; {which}")
    return runs


def chosen_or_all(
    store: Store, words: Sequence[str] | None, everything: bool, states: Iterable[State], verb: str, yes: bool
) -> list[Run]:
    """Return the runs that are named or, with --all and after a question, all in these states.

    `verb`: what is to be done to them. Raises CommandError where none is named, and where the answer is no.
    """
    if everything:
        if words:
            raise CommandError("--all is of all runs: leave it out, or the RUN")
        return confirmed(store.matching(Filter(states=frozenset(states))), verb, yes)
    if not words:
        raise CommandError(f"say which run to {verb}, by its number, or --all: {_LIST}")
    return chosen(store, words)


def confirmed(runs: list[Run], verb: str, yes: bool) -> list[Run]:
    """Return the same runs, after a question. Raises CommandError where there are none."""
    if not runs:
        raise CommandError(f"there is nothing to {verb}: {_LIST}")
    counts = Counter(run.state for run in runs)
    of_them = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    confirm(f"{verb} {plural(len(runs), 'run')} ({of_them})?", yes, f"no run to {verb}, then")
    return runs
