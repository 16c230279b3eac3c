"""bench/scale.py, on sizes too small for meaningful figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest
import scale
from scale import AXES, around, at
from variants import PAPER, variants

from capsnet import datasets

SMALL = ["batch_size=2", "threads=1", "use_cuda=false", "model.conv_channels=4", "model.decoder.hidden=[8]"]


@pytest.mark.parametrize("name", AXES)
def test_along_an_axis_one_key_changes_and_all_else_is_the_papers_network_on_28_by_28_pixels(
    name: str,
) -> None:
    axis = AXES[name]
    for variant in variants(PAPER, ["float32"], ["eager"], around(axis, [])):
        for value in axis.values:
            settings = at(variant, axis, value).config()
            assert reduce(getattr, axis.key.split("."), settings) == value
            shape = datasets.shape(settings.dataset)
            assert shape.height == (value if name == "size" else 28)
            assert shape.classes == (value if name == "classes" else 10)
            assert settings.dataset.shift == 2
            assert settings.batch_size == (value if name == "batch" else 128)


def test_what_the_user_sets_holds_along_the_axis() -> None:
    axis = AXES["size"]
    (variant,) = variants(
        ["capsnet"], ["float32"], ["eager"], around(axis, ["dataset.classes=3", "batch_size=7"])
    )
    settings = at(variant, axis, 40).config()
    assert datasets.shape(settings.dataset).classes == 3
    assert settings.batch_size == 7


@pytest.mark.slow
def test_time_and_memory_are_measured_at_each_value(bench: Callable[..., str]) -> None:
    sizes = [f"--set={size}" for size in SMALL]
    few = ["--values", "1", "10", "--rounds", "2", "--models", "capsnet"]
    said = bench("scale", "iterations", *few, *sizes, "--json")
    rows: list[dict[str, Any]] = json.loads(said)["iterations"]
    assert [row["value"] for row in rows] == [1, 10]
    first, last = rows
    assert first["times_first"] == 1
    assert last["times_first"] == pytest.approx(last["median_seconds"] / first["median_seconds"])
    assert last["flop"] > first["flop"]
    assert min(first["peak_bytes"], last["peak_bytes"]) > 2**27  # PyTorch alone takes more


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["size", "batch", "--values", "1"], "--values are those of one thing"),
        (["batch", "--set", "batch_size=4"], "batch_size is what is varied: leave it out of --set"),
        (["size", "--values", "4"], "model.kernel_size: 9 leaves no capsules of images of 4×4 pixels"),
        (["frogs"], "invalid choice: 'frogs'"),
        (["batch", "--models", "cnn"], "invalid choice: 'cnn'"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str, mistake: Callable[..., str]) -> None:
    assert said in mistake(scale, *words)
