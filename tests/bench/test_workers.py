"""bench/workers.py, on sizes too small for meaningful figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import workers
from workers import Crew

SMALL = ["batch_size=4", "use_cuda=false", "model.conv_channels=4", "model.decoder.hidden=[8]"]


@pytest.mark.slow
def test_one_and_two_workers_are_measured_in_turn(bench: Callable[..., str]) -> None:
    sizes = [f"--set={size}" for size in SMALL]
    said = json.loads(bench("workers", "1", "2", "1x2", "--rounds", "2", "--steps", "2", *sizes, "--json"))
    rows: list[dict[str, Any]] = said["rows"]
    assert [(row["workers"], row["threads"]) for row in rows] == [(1, 1), (2, 1), (1, 2)]
    alone, two, _ = rows
    assert (alone["times_first"], alone["efficiency"]) == (1, 1)
    assert two["efficiency"] == pytest.approx(two["times_first"] / 2)
    assert two["images_per_second"] == pytest.approx(4 / two["median_seconds"])
    assert 0 <= alone["talking_share"] < two["talking_share"] < 1
    assert two["sum_seconds"] > alone["sum_seconds"]


def test_workers_are_said_with_their_threads() -> None:
    assert [Crew.of(text) for text in ("2", "2x4")] == [Crew(2, 1), Crew(2, 4)]
    assert [str(Crew(2, 1)), str(Crew(2, 4))] == ["2", "2x4"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["0"], "must be a number of workers, as in 2, or 2x4 (got '0')"),
        (["2", "--set", "batch_size=1"], "a batch of 1 images cannot be shared by 2 workers"),
        (["2", "--set", "threads=2"], "threads: say them with the workers, as in 2x4"),
        (["2", "--model", "frogs"], "invalid choice: 'frogs'"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str, mistake: Callable[..., str]) -> None:
    assert said in mistake(workers, *words)
