"""Models, decoders and data sets together: each pair of them trains, and resumes bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from generated import splits_of

from capsnet.config import Config
from capsnet.training import train

MODELS: dict[str, dict[str, Any]] = {
    "capsnet": {"conv_channels": 8, "kernel_size": 5, "primary_types": 4, "primary_dim": 4, "class_dim": 6},
    "leaky": {
        "conv_channels": 8,
        "kernel_size": 5,
        "padding": "same",
        "primary_padding": "same",
        "primary_routing": "leaky",
        "primary_types": 2,
        "primary_dim": 4,
        "class_dim": 6,
        "none_of_the_above": True,
    },
    "attention": {
        "conv_channels": 8,
        "kernel_size": 5,
        "primary_types": 4,
        "primary_dim": 4,
        "class_dim": 6,
        "routing": {"name": "attention"},
    },
    "self": {
        "conv_channels": 8,
        "kernel_size": 5,
        "primary_types": 4,
        "primary_dim": 4,
        "class_dim": 6,
        "routing": {"name": "self"},
    },
    "matrix_capsnet": {
        "name": "matrix_capsnet",
        "conv_channels": 8,
        "primary_types": 3,
        "capsule_types": [3, 3],
    },
    "efficient_capsnet": {"name": "efficient_capsnet", "conv_channels": [8, 8, 16], "class_dim": 6},
    "cnn": {
        "name": "cnn",
        "conv_channels": [8, 8],
        "kernel_sizes": [3, 3],
        "pool": 2,
        "hidden": [32],
        "dropout": 0.1,
    },
}
DECODERS: dict[str, dict[str, Any]] = {
    "fc": {"name": "fc", "hidden": [16]},
    "fc+bn": {"name": "fc", "hidden": [16], "batch_norm": True},
    "deconv": {"name": "deconv"},
    "deconv+bn": {"name": "deconv", "batch_norm": True},
    "none": {"name": "none"},
}
DATASETS: dict[str, dict[str, Any]] = {
    "digits": {"name": "digits", "size": 20},
    "affine_mnist": {"name": "affine_mnist", "pad": 0, "shift": 1},
    "multi_mnist": {"name": "multi_mnist", "pad": 0, "shift": 1},
    "cifar10": {"name": "cifar10"},
    "svhn": {"name": "svhn"},
    "smallnorb": {"name": "smallnorb", "size": 28, "crop": 24},
    "folder": {"name": "folder", "root": "unread", "size": 21, "classes": 3, "flip": True, "shift": 1},
}
# Every model with every data set that it can have, and every decoder with every data set and model.
PAIRS = [
    ("capsnet", "fc", "digits"),
    ("capsnet", "deconv+bn", "multi_mnist"),
    ("capsnet", "none", "affine_mnist"),
    ("capsnet", "fc+bn", "cifar10"),
    ("capsnet", "deconv", "svhn"),
    ("capsnet", "deconv", "smallnorb"),
    ("capsnet", "fc+bn", "folder"),
    ("leaky", "none", "cifar10"),
    ("leaky", "fc", "multi_mnist"),
    ("leaky", "deconv+bn", "folder"),
    ("leaky", "deconv", "digits"),
    ("leaky", "fc+bn", "affine_mnist"),
    ("leaky", "fc", "smallnorb"),
    ("leaky", "fc", "svhn"),
    ("attention", "deconv", "affine_mnist"),
    ("attention", "fc+bn", "multi_mnist"),
    ("attention", "none", "digits"),
    ("attention", "fc", "folder"),
    ("attention", "deconv+bn", "smallnorb"),
    ("attention", "fc+bn", "svhn"),
    ("attention", "deconv", "cifar10"),
    ("self", "fc", "digits"),
    ("self", "deconv", "affine_mnist"),
    ("self", "fc+bn", "multi_mnist"),
    ("self", "none", "cifar10"),
    ("self", "deconv+bn", "svhn"),
    ("self", "fc", "smallnorb"),
    ("self", "deconv", "folder"),
    ("efficient_capsnet", "fc+bn", "digits"),
    ("efficient_capsnet", "none", "multi_mnist"),
    ("efficient_capsnet", "deconv+bn", "affine_mnist"),
    ("efficient_capsnet", "fc", "cifar10"),
    ("efficient_capsnet", "none", "svhn"),
    ("efficient_capsnet", "fc", "smallnorb"),
    ("efficient_capsnet", "deconv", "folder"),
    ("capsnet", "fc", "affine_mnist"),
    ("capsnet", "deconv+bn", "cifar10"),
    ("leaky", "fc+bn", "smallnorb"),
    ("leaky", "deconv+bn", "svhn"),
    ("attention", "deconv", "multi_mnist"),
    ("attention", "none", "smallnorb"),
    ("efficient_capsnet", "deconv+bn", "digits"),
    ("efficient_capsnet", "none", "folder"),
    *[("matrix_capsnet", None, name) for name in DATASETS if name != "multi_mnist"],
    *[("cnn", None, name) for name in DATASETS],
]


def configured(model: str, decoder: str | None, dataset: str) -> Config:
    settings = dict(MODELS[model])
    if decoder is not None:
        settings["decoder"] = DECODERS[decoder]
    return Config.model_validate(
        {
            "dataset": DATASETS[dataset],
            "model": settings,
            "route_iters": 2,
            "batch_size": 16,
            "num_epochs": 8 if model == "matrix_capsnet" else 4,
            "threads": 1,
            "optim": {"lr": 0.005},
            "loss": loss_of(model, dataset),
        }
    )


def loss_of(model: str, dataset: str) -> dict[str, Any]:
    if model == "matrix_capsnet":
        return {"first_margin": 0.9}
    # The default of self-routing has one right class.
    return {"name": "margin"} if (model, dataset) == ("self", "multi_mnist") else {}


@pytest.mark.parametrize(("model", "decoder", "dataset"), PAIRS)
def test_it_trains_and_resumes_bit_for_bit(model, decoder, dataset, one_thread):
    config = configured(model, decoder, dataset)
    splits = splits_of(config.dataset, train=33, test=8)  # the last batch has one image
    whole_run = list(train(config, splits=splits, interval_seconds=0))
    losses = [progress.metrics["train/loss"] for progress in whole_run if progress.metrics is not None]
    assert min(losses[1:]) < losses[0]  # not the last: of three steps on images lit at random, some go back
    final = whole_run[-1].snapshot()

    half = next(p for p in train(config, splits=splits, interval_seconds=0) if (p.epoch, p.step) == (2, 2))
    *_, last = train(config, half.snapshot(), splits, interval_seconds=0)
    resumed = last.snapshot()
    assert resumed["model"].keys() == final["model"].keys()
    for name, weights in final["model"].items():
        assert torch.equal(resumed["model"][name], weights), name
    assert [row["test/loss"] for row in resumed["history"]] == [row["test/loss"] for row in final["history"]]


def test_every_pair_is_there():
    pairs = {frozenset(pair) for case in PAIRS for pair in ((case[0], case[1]), (case[0], case[2]), case[1:])}
    for model in MODELS:
        for dataset in DATASETS:
            if (model, dataset) != ("matrix_capsnet", "multi_mnist"):  # its spread loss has one right class
                assert frozenset((model, dataset)) in pairs
    for decoder in DECODERS:
        for other in ("capsnet", "attention", "self", "leaky", "efficient_capsnet", *DATASETS):
            assert frozenset((decoder, other)) in pairs, (decoder, other)
