"""The column CHANGES of `queue` and `watch`: what is special about each of the runs that are listed together.

It names the keys that `--set` has set, and those in which runs of one name differ, so that two runs of a file
that was edited between their submissions are told apart too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runner import configuration, overrides
from runner.redaction import Redactor

if TYPE_CHECKING:
    from runner.rows import Run

LONGEST = 60  # characters for a run; `show` and `--json` have all of it
LONGEST_VALUE = 32

Settings = Mapping[str, Any]


def changes(runs: Sequence[Run]) -> dict[int, str]:
    """Return, by run number, the keys in which a run differs, as "seed=2 optim.lr=0.002"; "" for none.

    Nothing is parsed of runs that were submitted without `--set` and are alike.
    """
    by_name: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_name[run.name].append(run)
    return {number: text for group in by_name.values() for number, text in _of_one_name(group)}


def _of_one_name(runs: Sequence[Run]) -> Iterator[tuple[int, str]]:
    if len({run.config for run in runs}) == 1 and not any(run.overrides for run in runs):
        yield from ((run.id, "") for run in runs)
        return
    known = {run.id: configuration.settings(run) for run in runs}
    apart, redact = differing(known.values()), Redactor()
    for run in runs:
        keys = [key for key in changed(run, known[run.id], apart) if key != "name"]
        yield run.id, in_few_words([item(key, known[run.id][key], redact) for key in keys])


def differing(known: Iterable[Settings]) -> set[str]:
    """Return the keys of training whose values are not all alike.

    A key that only some have, all with one value, is left out: it belongs to another kind of network, say,
    whose name is among the keys.
    """
    first: dict[str, Any] = {}
    apart: set[str] = set()
    for settings in known:
        for key, value in settings.items():
            if first.setdefault(key, value) != value:
                apart.add(key)
    return {key for key in apart if configuration.is_of_training(key)}


def changed(run: Run, settings: Settings, apart: Collection[str]) -> list[str]:
    """Return the keys of a run that were set, then those in which runs differ, in the order of the file."""
    named = {key for override in run.overrides for key in overrides.keys_of(override)}
    return [key for key in settings if key in named] + [
        key for key in settings if key in apart and key not in named
    ]


def item(key: str, value: Any, redact: Redactor) -> str:
    """Return a key with its value, shortened so that it is not mistaken for another one.

    Secrets are hidden first, for a part of one is not recognised.
    """
    from capsnet.yamlwords import inline

    return f"{key}={shortened(redact(inline(value)))}"


def shortened(text: str) -> str:
    """Return a long value without its end or, where that tells more, as of a path, without its beginning."""
    if len(text) <= LONGEST_VALUE:
        return text
    kept = LONGEST_VALUE - 3
    return f"...{text[-kept:]}" if "/" in text else f"{text[:kept]}..."


def in_few_words(items: Sequence[str]) -> str:
    """Join as many whole items as fit, at least one, and say how many more there are."""
    for count in range(len(items), 1, -1):
        text = " ".join(items[:count]) + _more(len(items) - count)
        if len(text) <= LONGEST:
            return text
    return "".join(items[:1]) + _more(len(items) - 1)


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""
