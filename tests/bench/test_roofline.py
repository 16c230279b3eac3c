"""bench/roofline.py run as a program, on sizes too small for meaningful figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import roofline
from roofline import Point, Roof, parts
from variants import Variant, applied

SMALL = ["threads=1", "use_cuda=false", "batch_size=2", "model.conv_channels=4", "model.primary_types=2"]


def test_a_roof_is_that_of_memory_before_its_ridge_and_of_arithmetic_beyond() -> None:
    roof = Roof(flop_per_second=100.0, bytes_per_second=10.0)
    assert [roof.above(intensity) for intensity in (1, 10, 1000)] == [10, 100, 100]
    point = Point("part", flop=60, bytes=20, seconds=2.0)
    assert (point.intensity, point.flop_per_second) == (3, 30)


def test_the_bytes_of_a_part_are_those_of_its_tensors() -> None:
    settings = Variant("capsnet", "float32", overrides=("batch_size=2", "use_cuda=false")).config()
    found = {part.name: part for part in parts(settings, applied(settings))}
    weights, features, capsules = 256 * 256 * 81 + 256, 2 * 256 * 20 * 20, 2 * 1152 * 8
    assert found["primary capsules"].bytes == 4 * (3 * weights + 3 * features + 2 * capsules)
    assert found["Adam"].bytes == 4 * 7 * 8_215_568
    assert found["Adam"].flop == 12 * 8_215_568


@pytest.mark.slow
def test_a_table_and_a_picture_are_made(bench: Callable[..., str], tmp_path: Path) -> None:
    words = ["--rounds", "2", "--side", "64", *(f"--set={size}" for size in SMALL)]
    said = bench("roofline", *words, "--output", "roof.png")
    assert (tmp_path / "roof.png").read_bytes().startswith(b"\x89PNG")
    assert said.count("primary capsules") == 2
    found: dict[str, Any] = json.loads(bench("roofline", *words, "--json", "--precision", "float32"))
    *those, whole = found["parts"]["float32"]
    assert whole["name"] == "all of these"
    assert whole["flop"] == sum(part["flop"] for part in those)
    assert found["roofs"]["float32"]["bytes_per_second"] > 0


def test_a_mistake_is_one_line(mistake: Callable[..., str]) -> None:
    assert "unknown key" in mistake(roofline, "--set", "nonsense=1")


@pytest.mark.filterwarnings("ignore:precision. this CPU has no tf32")
def test_a_precision_that_is_not_to_be_had_is_not_measured_under_its_name(
    mistake: Callable[..., str],
) -> None:
    words = ["--precision", "tf32", "--set", "use_cuda=false"]
    assert "--precision tf32: not to be had here" in mistake(roofline, *words)
