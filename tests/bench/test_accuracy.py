"""bench/accuracy.py run as a program, on runs too short for meaningful figures."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import accuracy
import pytest
from accuracy import Result, Results

QUICK = str(Path(__file__).parents[2] / "experiments/quickstart.yaml")
SMALL = ["num_epochs=2", "threads=1", "use_cuda=false", "model.conv_channels=4", "model.primary_types=2"]


def test_the_spread_is_that_of_a_sample() -> None:
    found = Results("as it is", tuple(Result(seed, error, 1.0) for seed, error in enumerate((0.01, 0.03))))
    assert found.mean == pytest.approx(0.02)
    assert found.deviation == pytest.approx(0.02 / 2**0.5)
    assert "2.000% ± 1.414%" in str(found)


def test_of_one_run_there_is_no_spread() -> None:
    [line] = [str(Results("as it is", (Result(0, 0.01, 1.0),)))]
    assert "1.000% ± –" in line


def test_no_run_is_begun_that_there_is_no_time_for(capsys: pytest.CaptureFixture[str]) -> None:
    variants = ["route_iters=1", "route_iters=2"]
    [only] = accuracy.measured(QUICK, variants, SMALL, 2, None, seconds=0.1)  # less than a run takes
    assert only.variant == "route_iters=1" and [run.seed for run in only.runs] == [0]
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("route_iters=1, seed 0: ")
    assert second == "no time for route_iters=2, seed 0, nor for what follows"


@pytest.mark.slow
def test_each_variant_is_trained_with_each_seed(bench: Callable[..., str], tmp_path: Path) -> None:
    words = [QUICK, "--seeds", "2", *(f"--set={size}" for size in SMALL), "--output", "histories", "--json"]
    found = json.loads(bench("accuracy", *words, "--vary", "route_iters=1", "--vary", "route_iters=2"))
    assert [each["variant"] for each in found["results"]] == ["route_iters=1", "route_iters=2"]
    for each in found["results"]:
        errors = [result["test_error"] for result in each["runs"]]
        assert [result["seed"] for result in each["runs"]] == [0, 1]
        assert each["mean"] == pytest.approx(statistics.mean(errors))
        for seed, error in enumerate(errors):
            name = f"{each['variant'].replace('=', '-')}-seed{seed}.csv"
            header, *_, last = (tmp_path / "histories" / name).read_text().splitlines()
            assert float(dict(zip(header.split(","), last.split(","), strict=True))["test/error"]) == error


def test_a_mistake_in_a_variant_is_one_line_before_anything_is_trained(mistake: Callable[..., str]) -> None:
    assert "precision" in mistake(accuracy, QUICK, "--vary", "precision=float32", "--vary", "precision=half")
