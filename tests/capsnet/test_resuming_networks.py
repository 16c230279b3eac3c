"""Runs of the other networks, broken off in mid-epoch, end with the bits of runs that were not.

What they have beyond the default network: dropout that must draw as it would have, and running statistics.
"""

from __future__ import annotations

from io import BytesIO
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hardware import PRECISIONS

from capsnet.config import Config
from capsnet.images import Images, Splits
from capsnet.snapshot import tensors
from capsnet.state import State
from capsnet.training import train

EFFICIENT: dict[str, Any] = {"name": "efficient_capsnet", "conv_channels": [6, 8], "primary_dim": 4}
NETWORKS: dict[str, dict[str, Any]] = {
    "cnn": {"name": "cnn", "conv_channels": [4, 5], "kernel_sizes": [3, 3], "pool": 2, "hidden": [12]},
    "efficient_capsnet": EFFICIENT | {"decoder": {"hidden": [8], "batch_norm": True}},
    "efficient_capsnet_deconv": EFFICIENT | {"decoder": {"name": "deconv", "batch_norm": True}},
    "attention": {
        "conv_channels": 4,
        "kernel_size": 5,
        "primary_types": 2,
        "routing": {"name": "attention"},
        "decoder": {"hidden": [8]},
    },
    "self": {
        "conv_channels": 4,
        "kernel_size": 5,
        "primary_types": 2,
        "routing": {"name": "self"},
        "decoder": {"hidden": [8]},
    },
}


@pytest.fixture
def splits() -> Splits:
    """49 images to train on, the last of them a batch of one, and 20 to test."""
    random = np.random.default_rng(3)

    def images(count: int) -> Images:
        pixels = random.integers(0, 256, (count, 1, 12, 12)).astype(np.uint8)
        return Images(torch.from_numpy(pixels), torch.arange(count) % 10)

    return Splits(images(49), None, images(20))


def config(kind: str, **keys: Any) -> Config:
    defaults = {"num_epochs": 2, "batch_size": 16, "threads": 1, "dataset": {"name": "digits", "size": 12}}
    return Config.model_validate(defaults | {"model": NETWORKS[kind]} | keys)


def end(config: Config, splits: Splits, state: State | None = None) -> State:
    *_, progress = train(config, state, splits, interval_seconds=0)
    return progress.snapshot()


def broken_off(config: Config, splits: Splits, place: int) -> tuple[State, str, int, int]:
    """Interrupt a run at `place` and resume it; return its end, and the interruption's phase, epoch, step."""
    *_, progress = islice(train(config, splits=splits, interval_seconds=0), place)
    file = BytesIO()
    torch.save(progress.snapshot(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    return end(config, splits, state), progress.phase, progress.epoch, progress.step


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_run_broken_off_in_mid_epoch_ends_with_the_same_bits(kind, precision, splits):
    wanted = config(kind, precision=precision)
    undisturbed = end(wanted, splits)
    # 4 steps, 2 batches of test, an epoch's end: 7 yields an epoch.
    for place, reached in ((2, ("train", 1, 2)), (5, ("test", 1, 4)), (10, ("train", 2, 3))):
        resumed, *where = broken_off(wanted, splits, place)
        assert tuple(where) == reached
        for part in ("model", "optimizer"):
            first, second = tensors(undisturbed[part]), tensors(resumed[part])
            assert len(first) == len(second) > 0
            assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), (part, reached)
        for one, other in zip(undisturbed["history"], resumed["history"], strict=True):
            measured = [name for name in one if name.startswith(("train/", "test/"))]
            assert [one[name] for name in measured] == [other[name] for name in measured]


def test_dropout_draws_anew_in_every_step_and_alike_in_every_run(splits):
    """Each step drops other inputs of the last layer; a second run drops the same ones as the first."""

    def drawn() -> list[torch.Tensor]:
        seen = []

        def note(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
            if type(module).__name__ == "Dropout" and module.training:
                seen.append((output == 0) & (inputs[0] != 0))

        hook = torch.nn.modules.module.register_module_forward_hook(note)
        try:
            end(config("cnn", num_epochs=2), splits)
        finally:
            hook.remove()
        return seen

    first, second = drawn(), drawn()
    assert len(first) == 8
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    patterns = [step.int().sum(0).tolist() for step in first if len(step) == 16]
    assert len({str(pattern) for pattern in patterns}) == len(patterns) == 6
