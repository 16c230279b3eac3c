"""bench/epoch.py, on a run too short for meaningful figures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import epoch
import pytest

from capsnet import checkpoint
from capsnet.config import Config

SMALL = """
dataset: {name: digits, size: 16}
model: {conv_channels: 8, kernel_size: 5, primary_types: 2, class_dim: 4, decoder: {hidden: [16]}}
threads: 1
use_cuda: false
"""


def test_the_parts_add_up_to_the_time_that_passed_and_a_checkpoint_is_left(tmp_path: Path) -> None:
    settings = Config.model_validate(
        {
            "dataset": {"name": "digits", "size": 12},
            "model": {"conv_channels": 4, "kernel_size": 5, "primary_types": 2, "decoder": {"hidden": [8]}},
            "num_epochs": 2,
            "threads": 1,
            "use_cuda": False,
        }
    )
    began = time.monotonic()
    epochs, once = epoch.measured(settings, tmp_path)
    passed = time.monotonic() - began
    assert len(epochs) == 2
    assert all(min(each.training, each.evaluation, each.keeping) > 0 for each in epochs)
    assert min(once.data, once.around, once.saving, once.batches) >= 0
    of_all = sum(each.seconds for each in epochs) + once.data + once.around + once.saving + once.batches
    assert 0.5 * passed < of_all <= passed
    assert checkpoint.load(tmp_path / "checkpoint.pt")["epoch"] == 2
    assert list((tmp_path / "tensorboard").glob("events.*"))


@pytest.mark.slow
def test_a_table_for_people_and_json_for_programs(tmp_path: Path, bench: Callable[..., str]) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    table = bench("epoch", str(file), "--epochs", "3")
    for part in ("training", "evaluation", "keeping", "all", "batches by themselves", "once: data"):
        assert f"\n{part}  " in table
    found: dict[str, Any] = json.loads(bench("epoch", str(file), "--epochs", "3", "--json"))
    assert len(found["epochs"]) == 3
    assert found["median_seconds"]["seconds"] > found["median_seconds"]["training"] > 0
    assert list(tmp_path.iterdir()) == [file]  # nothing is left


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.yaml"], "nowhere.yaml: no such file"),
        (["small.yaml", "--epochs", "1"], "must be a whole number from 2 (got '1')"),
        (["small.yaml", "--set", "optim.lr=0"], "--set optim.lr=0: must be above 0 (got 0)"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], said: str, mistake: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    assert said in mistake(epoch, *words)
