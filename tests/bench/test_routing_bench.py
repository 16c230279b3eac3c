"""bench/routing.py run as a program, on sizes too small for meaningful figures."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import routing

SMALL = ["threads=1", "use_cuda=false", "batch_size=2", "model.conv_channels=4", "model.primary_types=2"]


@pytest.mark.slow
def test_both_ways_are_measured_and_give_the_same(bench: Callable[..., str]) -> None:
    words = ["--rounds", "2", *(f"--set={size}" for size in SMALL)]
    found = json.loads(bench("routing", *words, "--json"))
    ordinary, kernel = found["ways"].values()
    assert list(found["ways"]) == ["PyTorch's operations", "kernel in C"]
    assert found["times_as_fast"] == pytest.approx(ordinary["median_seconds"] / kernel["median_seconds"])
    assert 0 < found["apart"] < 1e-4
    product = 2 * 2 * (6 * 6 * 2 * 8) * (10 * 16)  # batch 2, 2 types of 8 numbers, 10 classes of 16
    assert ordinary["flop"] - kernel["flop"] == 2 * (7 - 4) * product
    said = bench("routing", *words)
    assert "times as fast" in said and said.count(" – ") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "route_iters=1"], "at least 2 iterations"),
        (["--set", "model.routing.name=attention"], "at least 2 iterations"),
        (["--precision", "bfloat16"], "invalid choice: 'bfloat16'"),
        (["--set", "use_cuda=false", "--precision", "tf32"], "not to be had here"),
    ],
)
@pytest.mark.filterwarnings("ignore:precision. this CPU has no tf32")
def test_a_mistake_is_one_line(words: list[str], said: str, mistake: Callable[..., str]) -> None:
    assert said in mistake(routing, *words)
