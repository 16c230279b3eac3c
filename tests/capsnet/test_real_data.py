"""On the published files themselves; they are looked for in CAPSNET_DATA."""

from __future__ import annotations

import os
from itertools import islice

import pytest
import torch
from hardware import PRECISIONS

from capsnet import datasets, training
from capsnet.config import Config
from capsnet.images import Images, Splits

pytestmark = pytest.mark.skipif(
    not os.environ.get("CAPSNET_DATA"), reason="CAPSNET_DATA names no folder with the published files"
)


def load(name: str, **keys: int) -> Splits:
    return datasets.load(Config.model_validate({"dataset": {"name": name, **keys}}).dataset, seed=0)


def moments(images: torch.Tensor) -> tuple[float, float]:
    pixels = images.double() / 255
    return round(pixels.mean().item(), 4), round(pixels.std().item(), 4)


def test_mnist_is_read_as_it_was_published() -> None:
    splits = load("mnist")
    assert splits.train.images.shape == (60000, 1, 28, 28)
    assert splits.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert splits.train.labels.bincount().tolist() == counts
    assert splits.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert moments(splits.train.images) == (0.1307, 0.3081)  # the figures that everybody normalises with


def test_fashion_mnist_is_read_as_it_was_published() -> None:
    splits = load("fashion_mnist")
    assert splits.train.labels.bincount().tolist() == [6000] * 10
    assert splits.test.labels.bincount().tolist() == [1000] * 10
    assert moments(splits.train.images) == (0.2860, 0.3530)


def test_a_validation_split_of_mnist_takes_no_test_image() -> None:
    whole, split = load("mnist"), load("mnist", validation=5000)
    assert split.validation is not None
    assert (len(split.train), len(split.validation)) == (55000, 5000)
    assert torch.equal(split.test.images, whole.test.images)


def beginning(images: Images, count: int) -> Images:
    return images[torch.arange(count)]


def test_a_small_network_learns_mnist() -> None:
    whole = load("mnist")
    splits = Splits(beginning(whole.train, 8000), None, beginning(whole.test, 2000))
    model = {"conv_channels": 16, "primary_types": 4, "decoder": {"hidden": [32]}}
    keys = {"num_epochs": 1, "batch_size": 32, "threads": 1, "use_cuda": False, "model": model}
    *_, last = training.train(Config.model_validate(keys), splits=splits)
    assert last.metrics is not None
    assert last.metrics["test/accuracy"] > 0.85


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_paper_network_goes_on_in_mid_epoch_bit_for_bit(precision: str) -> None:
    splits = load("mnist")
    keys = {"batch_size": 32, "threads": 1, "use_cuda": False, "precision": precision}
    config = Config.model_validate(keys)
    undisturbed = list(islice(training.train(config, splits=splits, interval_seconds=0), 3))
    state = next(training.train(config, splits=splits, interval_seconds=0)).snapshot()
    assert (state["epoch"], state["step"]) == (0, 1)
    resumed = training.train(config, state, splits, interval_seconds=0)
    for expected in undisturbed[1:]:
        progress = next(resumed)
        assert (progress.step, progress.loss) == (expected.step, expected.loss)
