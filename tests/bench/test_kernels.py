"""bench/kernels.py run as a program, on sizes too small for meaningful figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kernels
import pytest
import torch
from kernels import Kernel, shortened

SMALL = ["threads=1", "use_cuda=false", "batch_size=2", "model.conv_channels=4", "model.primary_types=2"]


class Products:
    """A step of two products, which PyTorch computes by one operator."""

    device = "cpu"

    def __init__(self) -> None:
        self.factor = torch.ones(64, 64)

    def step(self) -> None:
        torch.mm(torch.mm(self.factor, self.factor), self.factor)


def test_the_calls_and_the_time_of_an_operator_are_those_of_one_step() -> None:
    found = {kernel.name: kernel for kernel in kernels.kernels(Products(), steps=3)}
    assert found["aten::mm"].calls == 2
    assert found["aten::mm"].seconds == max(kernel.seconds for kernel in found.values())


def test_what_is_not_shown_is_one_line_with_all_its_time() -> None:
    found = [Kernel("a", 1.0, 0.4), Kernel("b", 2.0, 0.3), Kernel("c", 3.0, 0.2)]
    assert shortened(found, 3) == found
    first, others = shortened(found, 1)
    assert first == found[0]
    assert (others.name, others.calls, others.seconds) == ("2 others", 5.0, pytest.approx(0.5))


@pytest.mark.slow
def test_a_table_and_a_picture_are_made(bench: Callable[..., str], tmp_path: Path) -> None:
    words = ["--rounds", "2", *(f"--set={size}" for size in SMALL)]
    said = bench("kernels", *words, "--output", "kernels.png")
    assert (tmp_path / "kernels.png").read_bytes().startswith(b"\x89PNG")
    assert "aten::convolution_backward" in said
    found: dict[str, Any] = json.loads(bench("kernels", *words, "--json"))
    assert found["median_seconds"] > 0
    summed = sum(kernel["seconds"] for kernel in found["kernels"])
    assert found["busy"] == pytest.approx(summed / found["median_seconds"])


def test_a_mistake_is_one_line(mistake: Callable[..., str]) -> None:
    assert "unknown key" in mistake(kernels, "--set", "nonsense=1")
