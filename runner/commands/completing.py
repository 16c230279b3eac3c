"""Candidates for the word that a shell asks to complete: runs, kinds of pictures, keys and values of a YAML.

Each function is called when a shell asks, and imports then what it needs. A candidate is a pair: its text and
a few words on it. Text that ends in `=` or `.` is the beginning of a word: no space is put behind it.
"""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import typer

from runner.states import ENDED, UNFINISHED, State

if TYPE_CHECKING:
    from capsnet.schema import Schema
    from runner.rows import Title

Candidates = list[tuple[str, str]]

BARE = "_RUNNER_COMPLETE_BARE"  # set by a shell that shows no words on candidates, which take Typer a moment
AT_MOST = 200  # runs, the newest ones
LATEST_SECONDS = 1.0  # after which a database server that does not answer is given up
PLAIN_NAME = re.compile(r"[\w.+-]+")  # which no shell takes for anything else
APPLIES_TO = {  # states of the runs that a command can do something to; any without an entry
    "interrupt": UNFINISHED,
    "cancel": UNFINISHED,
    "resume": ENDED,
    "rm": ENDED,
    "priority": (State.QUEUED,),
}


def runs(ctx: typer.Context, incomplete: str) -> Candidates:
    """Return the numbers of runs and, once a letter is typed, names."""
    states = APPLIES_TO.get(ctx.command.name or "", tuple(State))
    titles = [title for title in _titles() if title.state in states]
    numbers = [(str(title.id), f"{title.name} {title.state}") for title in titles]
    named = Counter(title.name for title in titles if PLAIN_NAME.fullmatch(title.name))
    names = [(name, "") for name, count in named.items() if count == 1]
    patterns = [(f"name:{name}", str(count)) for name, count in named.items()]
    return _matching(numbers if not incomplete else numbers + names + patterns, incomplete)[:AT_MOST]


def names(incomplete: str) -> Candidates:
    """Return the names of runs."""
    named = Counter(title.name for title in _titles() if PLAIN_NAME.fullmatch(title.name))
    return _matching([(name, str(count)) for name, count in named.items()], incomplete)[:AT_MOST]


def runs_and_pictures(ctx: typer.Context, incomplete: str) -> Candidates:
    """Return runs and, after the first of them, kinds of pictures."""
    from capsnet.figures.kinds import KINDS

    kinds = _matching(KINDS.items(), incomplete) if ctx.params.get("words") else []
    return kinds + runs(ctx, incomplete)


def data_sets(incomplete: str) -> Candidates:
    """Return the names of data sets."""
    return _matching([(value, "") for value in _values("dataset.name")], incomplete)


def settings(ctx: typer.Context, incomplete: str) -> Candidates:
    """Return the next part of a key for `--set`; of a whole key the values, where there is a list of them."""
    from runner.editing import is_changeable

    key, equals, _ = incomplete.partition("=")
    if equals:
        return _matching([(f"{key}={value}", "") for value in _values(key)], incomplete)
    keys = [key for key in _keys() if ctx.command.name != "resume" or is_changeable(key)]
    return _matching(_next_parts(keys, incomplete), incomplete)


def _next_parts(keys: list[str], incomplete: str) -> Candidates:
    """Return the parts that may follow the typed sections: `optim.` for `op`, `optim.lr=` for `optim.l`."""
    section = incomplete[: incomplete.rfind(".") + 1]
    below = [key.removeprefix(section) for key in keys if key.startswith(section)]
    inside = {part for part, dot, _ in (key.partition(".") for key in below) if dot}
    parts = dict.fromkeys(key.partition(".")[0] for key in below)
    return [
        (f"{section}{part}.", "a section") if part in inside else (f"{section}{part}=", "") for part in parts
    ]


def _keys() -> list[str]:
    from capsnet.schema import dotted_keys

    return [f"{prefix}{key}" for prefix, schema in _schemas() for key in dotted_keys(schema)]


def _values(key: str) -> list[str]:
    """The words that a key takes, of all kinds of its section; none where it takes any number or text."""
    from capsnet.schema import fields_at

    fields = [
        field
        for prefix, schema in _schemas()
        if key.startswith(prefix)
        for field in fields_at(schema, key.removeprefix(prefix))
    ]
    return list(dict.fromkeys(word for field in fields for word in _words(field.annotation)))


def _words(annotation: Any) -> list[str]:
    if annotation is bool:
        return ["true", "false"]
    if annotation is type(None):
        return ["null"]
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [word for part in get_args(annotation) for word in _words(part)]


def _schemas() -> list[tuple[str, Schema]]:
    """Return the two owners of a YAML's keys, each with what its keys begin with."""
    from capsnet.config import Config
    from runner.loading import BLOCK
    from runner.spec import Spec

    return [("", Config), (f"{BLOCK}.", Spec)]


def _titles() -> list[Title]:
    """Return the runs of this home, the newest first; none where there is no queue or it cannot be read now.

    Neither makes a queue nor brings one up to date.
    """
    from runner.paths import home
    from runner.store import StoreError, open_store

    give_up = threading.Timer(LATEST_SECONDS, os._exit, (0,))  # a look-up of a host has no limit of its own
    give_up.daemon = True
    give_up.start()
    try:
        with open_store(home(), create=False, upgrade=False) as store:
            return store.titles()
    except StoreError:
        return []
    finally:
        give_up.cancel()


def _matching(candidates: Iterable[tuple[str, str]], incomplete: str) -> Candidates:
    """Return the candidates that begin with what is typed."""
    return [(text, _plain(what)) for text, what in candidates if text.startswith(incomplete)]


def _plain(text: str) -> str:
    """Text without signs that Typer would read as markup, or a terminal obey; empty where none is shown."""
    if BARE in os.environ:
        return ""
    from capsnet.printable import printable

    return printable(text).replace("[", "(").replace("]", ")")
