"""bench/step.py run as a program, on sizes too small for meaningful figures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import step
from variants import PAPER

SMALL = ["threads=1", "use_cuda=false", "batch_size=2"]
PAPER_SMALL = ["model.conv_channels=4", "model.primary_types=2", "model.decoder.hidden=[8]"]
CNN_SMALL = ["model.conv_channels=[4,4,4]", "model.hidden=[8]"]


def small(*sizes: str) -> list[str]:
    return ["--rounds", "2", "--side", "64", *(f"--set={size}" for size in (*SMALL, *sizes))]


@pytest.mark.slow
def test_every_precision_is_measured_beside_its_bounds_and_the_ordinary_one_in_float32(
    bench: Callable[..., str],
) -> None:
    said = bench("step", *PAPER, *small(*PAPER_SMALL), "--json", "--precision", "float32", "bfloat16")
    found: dict[str, Any] = json.loads(said)
    rows = {row["name"]: row for row in found["rows"]}
    models = ("capsnet", "ordinary")
    assert list(rows) == [
        f"{model} {precision} eager" for model in models for precision in ("float32", "bfloat16")
    ]
    assert found["machine"]["threads"] == 1
    for row in rows.values():
        precision = row["name"].split()[1]
        product, bare = (found["bounds"][f"{kind} {precision}"] for kind in ("product", "convolutions"))
        assert row["images_per_second"] == pytest.approx(2 / row["median_seconds"])
        assert row["flop_per_second"] == pytest.approx(row["flop"] / row["median_seconds"])
        assert row["share_of_product"] == pytest.approx(row["flop_per_second"] / product["flop_per_second"])
        assert row["times_convolutions"] == pytest.approx(row["median_seconds"] / bare["median_seconds"])
        assert len(row["seconds"]) == 2
        assert 2**27 < row["peak_bytes"] < 2**33  # PyTorch alone takes more than the first
    ordinary, other = rows["ordinary float32 eager"], rows["ordinary bfloat16 eager"]
    assert ordinary["times_as_fast_as_ordinary"] == 1
    factor = ordinary["median_seconds"] / other["median_seconds"]
    assert other["times_as_fast_as_ordinary"] == pytest.approx(factor)


@pytest.mark.slow
def test_a_compiled_step_is_measured_beside_the_eager_one_and_its_compilation_apart(
    bench: Callable[..., str],
) -> None:
    words = ["capsnet", *small(*PAPER_SMALL), "--mode", "eager", "compiled", "--json"]
    eager, compiled = json.loads(bench("step", *words))["rows"]
    assert [eager["name"], compiled["name"]] == ["capsnet float32 eager", "capsnet float32 compiled"]
    product = 2 * 2 * (6 * 6 * 2 * 8) * (10 * 16)  # batch 2, 2 types of 8 numbers, 10 classes of 16
    # In C an iteration makes the predictions once forward and once backward, from which two products follow.
    assert eager["flop"] - compiled["flop"] == 2 * (7 - 4) * product
    assert compiled["first_seconds"] > 10 * max(compiled["seconds"])


@pytest.mark.slow
def test_a_table_is_for_people_to_read(bench: Callable[..., str]) -> None:
    said = bench("step", "cnn", *small(*CNN_SMALL))
    assert re.search(r"^device .*, torch \d.*, rounds 2, steps 1$", said, re.MULTILINE)
    assert re.search(
        r"^cnn float32 eager( +[\d.,]+)+ – [\d.,]+( +[\d.,]+){2}( +\d+%){2} +– +– +\d+ +[\d.]+$", said, re.M
    )
    assert re.search(r"^convolutions float32 +[\d.,]+", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["frog"], "must be one of capsnet, ordinary,"),
        (["--rounds", "1"], "must be a whole number from 2 (got '1')"),
        (["--precision", "float16"], "invalid choice: 'float16'"),
        (["--set", "model.nonsense=3"], "--set model.nonsense=3: unknown key"),
        (["--set", "precision=bfloat16"], "name it by --precision"),
        (["--set", "compile=true"], "name them by --mode"),
        (["--mode", "graph", "--set", "use_cuda=false"], "--mode graph: needs a GPU"),
        (["--precision", "tf32", "float32"], "measure it by itself"),
        (["--set", "num_epochs=2"], "steps are measured as long as --rounds and --steps say"),
        (["--set", "model.name=cnn"], "name models as arguments"),
        (
            ["ordinary", "--set", "model.class_bias=true"],
            "of `model` the ordinary implementation knows the sizes",
        ),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str, mistake: Callable[..., str]) -> None:
    assert said in mistake(step, *words)
