"""Filters of runs: SQL preselects at least all runs that the filter admits, in either database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runner.filters import Filter, Tag, like
from runner.rows import NewRun
from runner.states import State
from runner.store import Store, open_store

SIGNS = "ab*?[]!%_\\-"


@given(st.text(SIGNS, max_size=8), st.text("abAB%_\\[]!-", max_size=8))
@example("[!]a]b", "bb")
@example("[]a]", "]")
@example("a[b", "a[b")
@example("\\%_", "\\%_")
def test_like_admits_whatever_the_pattern_does(pattern: str, name: str) -> None:
    with sqlite3.connect(":memory:") as database:
        [(liked,)] = database.execute("SELECT ? LIKE ? ESCAPE '\\'", (name, like(pattern)))
    database.close()
    assert liked or not fnmatchcase(name, pattern)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    sqlite = request.param == "sqlite"
    with open_store(tmp_path / "queue.db" if sqlite else request.getfixturevalue("postgres_url")) as opened:
        yield opened


def new(name: str, **tags: str) -> NewRun:
    return NewRun(name=name, config="num_epochs: 1\n", num_epochs=1, tags=tags)


@pytest.fixture
def runs(store: Store) -> Store:
    """Seven runs, of which the second is cancelled."""
    store.add([new("mnist_1"), new("mnist_2", paper="a"), new("MNIST_3", paper="a", seen="yes")], now=100.0)
    odd = {"a": '"paper": "a"', "quote": 'say "yes"', "percent": "50%_\\"}
    store.add(
        [new("mnist%4"), new("digits", **odd), new("digits", paper="A"), new("x", paper="ab")], now=200.0
    )
    store.ask(2, "cancel", 1.0, now=300.0)
    return store


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (Filter(), [1, 2, 3, 4, 5, 6, 7]),
        (Filter(states=frozenset({State.CANCELLED})), [2]),
        (Filter(names=("mnist_*",)), [1, 2]),
        (Filter(names=("mnist_*", "digits")), [1, 2, 5, 6]),
        (Filter(names=("mnist%*",)), [4]),
        (Filter(names=("[mM]*_[!12]",)), [3]),
        (Filter(names=("mnist",)), []),
        (Filter(tags=(Tag("paper", "a"),)), [2, 3]),
        (Filter(tags=(Tag("paper", None),)), [2, 3, 6, 7]),
        (Filter(tags=(Tag("paper", "a"), Tag("seen", "yes"))), [3]),
        (Filter(tags=(Tag("quote", 'say "yes"'),)), [5]),
        (Filter(tags=(Tag("percent", "50%_\\"),)), [5]),
        (Filter(tags=(Tag("paper", ""),)), []),
        (Filter(submitted_since=150.0), [4, 5, 6, 7]),
        (Filter(numbers=(2, 4)), [2, 3, 4]),
        (Filter(numbers=(2, 4), names=("mnist*",), states=frozenset({State.QUEUED})), [4]),
    ],
)
def test_a_filter_finds_exactly_what_it_asks_for(runs: Store, wanted: Filter, numbers: list[int]) -> None:
    assert [run.id for run in runs.matching(wanted)] == numbers
