"""Configurations as rows hold them, read line by line: as a YAML parser reads them, or left to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsnet.yamltext import values
from capsnet.yamlwords import dump
from runner import loading
from runner.configuration import line_by_line
from runner.rows import NewRun
from runner.store import Store, open_store

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "experiments").glob("*.yaml"), ROOT / "cfg_sample.yaml"])

TEXTS = st.text(max_size=20) | st.sampled_from(["yes", "1e5", "a: b", "# c", "é", "|", "&a", "- x", "\u2028"])
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(
    LEAVES | st.lists(LEAVES, max_size=3),
    lambda inner: st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_submit_writes_is_read_line_by_line(file: Path) -> None:
    text = loading.load(file).resolved(Path("/"))
    assert line_by_line(text) == values(text, "row")[0]


@given(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=5))
def test_whatever_can_be_written_is_read_as_it_was_or_left_to_the_parser(data: dict[str, object]) -> None:
    assert line_by_line(dump(data)) in (None, data)


@pytest.mark.parametrize(
    "text",
    [
        "a:\n",  # null, and not an empty section
        "a:\n- 1\n",
        "a: |\n  b: 1\n",
        "a: &x 1\nb: *x\n",
        "a: [1,\n  2]\n",
        "a: 1\na: 2\n",
        "a:\n   b: 1\n",
        "# a: 1\n",
        "'a': 1\n",
        "a:1\n",
        "a: one\n  two: three\n",
        "{a: 1}\n",
        "",
    ],
)
def test_other_yaml_is_left_to_the_parser(text: str) -> None:
    assert line_by_line(text) is None


def test_a_configuration_that_was_written_by_hand_is_read_all_the_same(tmp_path: Path) -> None:
    from runner.configuration import settings

    with open_store(tmp_path / "queue.db") as store:
        run = added(store, "# by hand\noptim: {lr: 0.5, milestone: [1,\n  2]}\nrunner:\n  priority: 1\n")
    assert settings(run) == {
        "optim.lr": 0.5,
        "optim.milestone": [1, 2],
        "runner.priority": 7,
        "runner.tags.a": "b",
    }


def added(store: Store, config: str):
    [number] = store.add(
        [NewRun(name="n", config=config, num_epochs=1, priority=7, tags={"a": "b"})], now=1.0
    )
    run = store.run(number)
    assert run is not None
    return run
