"""Optimizers against their formulas, and interrupted runs with them."""

from __future__ import annotations

from io import BytesIO
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from capsnet import optimizers
from capsnet.config import Optim
from capsnet.optimizers import clip, optimizer
from capsnet.snapshot import tensors
from capsnet.training import train

WEIGHTS = [[0.5, -2.0], [1.5]]  # of two tensors
GRADIENTS = [[[0.3, -0.1], [2.0]], [[-0.2, 0.4], [1.0]], [[1e-4, 0.1], [-3.0]]]  # of three steps
RATE, DECAY = 0.1, 0.2


def stepped(keys: dict[str, Any], clip_norm: float | None = None) -> list[float]:
    """The weights after the three steps, as one list."""
    settings = TypeAdapter(Optim).validate_python({"lr": RATE, **keys})
    parameters = [torch.nn.Parameter(torch.tensor(values)) for values in WEIGHTS]
    made = optimizer(settings, parameters, "cpu")
    for step in GRADIENTS:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = torch.tensor(gradient)
        clip(parameters, clip_norm)
        made.step()
    return torch.cat([parameter.detach() for parameter in parameters]).tolist()


def flat(values: list[list[float]]) -> np.ndarray:
    return np.array([number for part in values for number in part])


def adam(epsilon: float = 1e-8, added: float = 0.0, shrunk: float = 0.0) -> list[float]:
    """Compute Adam's steps by its formulas; `added`: an L2 penalty; `shrunk`: decoupled weight decay."""
    weights, mean, square = flat(WEIGHTS), np.zeros(3), np.zeros(3)
    for number, step in enumerate(GRADIENTS, 1):
        gradient = flat(step) + added * weights
        weights = weights * (1 - RATE * shrunk)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        moment, root = mean / (1 - 0.9**number), (square / (1 - 0.999**number)) ** 0.5
        weights = weights - RATE * moment / (root + epsilon)
    return weights.tolist()


def sgd(momentum: float = 0.9, added: float = 0.0, longest: float = np.inf) -> list[float]:
    weights, velocity = flat(WEIGHTS), np.zeros(3)
    for step in GRADIENTS:
        gradient = flat(step)
        gradient = gradient * min(1.0, longest / np.linalg.norm(gradient)) + added * weights
        velocity = momentum * velocity + gradient
        weights = weights - RATE * velocity
    return weights.tolist()


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, adam()),
        ({"epsilon": 0.5}, adam(epsilon=0.5)),
        ({"weight_decay": DECAY}, adam(added=DECAY)),
        ({"name": "adamw", "weight_decay": DECAY}, adam(shrunk=DECAY)),
        ({"name": "adamw"}, adam(shrunk=0.01)),
        ({"name": "adamw", "epsilon": 0.5, "weight_decay": 0.0}, adam(epsilon=0.5)),
        ({"name": "sgd"}, sgd()),
        ({"name": "sgd", "momentum": 0.0, "weight_decay": DECAY}, sgd(momentum=0.0, added=DECAY)),
    ],
)
def test_an_optimizer_steps_by_its_formula(keys, expected):
    assert stepped(keys) == pytest.approx(expected, rel=1e-5)
    assert stepped(keys) != pytest.approx(flat(WEIGHTS), rel=1e-2)


def test_the_gradient_of_all_weights_together_is_shortened_and_keeps_its_direction():
    assert stepped({"name": "sgd"}, clip_norm=0.5) == pytest.approx(sgd(longest=0.5), rel=1e-5)
    lengths = [np.linalg.norm(flat(step)) for step in GRADIENTS]
    assert min(lengths) > 0.5  # each was shortened
    assert stepped({"name": "sgd"}, clip_norm=100.0) == stepped({"name": "sgd"})


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_settings_are_those_of_now_and_moments_those_of_before(name):
    def made(**keys: Any) -> torch.optim.Optimizer:
        return optimizer(TypeAdapter(Optim).validate_python({"name": name, **keys}), [weight], "cpu")

    weight = torch.nn.Parameter(torch.ones(2))
    before, now = made(lr=0.1, weight_decay=0.5), made(lr=0.01, weight_decay=0.25)
    weight.grad = torch.tensor([1.0, 2.0])
    before.step()
    optimizers.restore(now, before.state_dict())
    assert (now.param_groups[0]["lr"], now.param_groups[0]["weight_decay"]) == (0.01, 0.25)
    for one, other in zip(tensors(before.state_dict()), tensors(now.state_dict()), strict=True):
        assert torch.equal(one, other)
    assert tensors(now.state_dict())


# ---- runs

SETTINGS = {
    "adamw": {"name": "adamw", "weight_decay": 0.1, "warmup_epochs": 1.5, "clip_norm": 0.05},
    "adam": {"epsilon": 1e-3, "weight_decay": 0.01, "schedule": "cosine", "clip_norm": 0.1},
    "sgd": {"name": "sgd", "lr": 0.1, "warmup_epochs": 0.6, "schedule": "exponential", "clip_norm": 0.2},
}


def end(config, splits, state=None):
    *_, progress = train(config, state, splits, interval_seconds=0)
    return progress.snapshot()


def broken_off(config, splits, place):
    """Interrupt a run at `place`, resume it from its saved state, and return its end."""
    *_, progress = islice(train(config, splits=splits, interval_seconds=0), place)
    file = BytesIO()
    torch.save(progress.snapshot(), file)
    file.seek(0)
    return end(config, splits, torch.load(file, weights_only=True))


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_run_broken_off_at_any_step_ends_with_the_same_bits(kind, tiny_config, tiny_splits):
    config = tiny_config(num_epochs=2, optim=SETTINGS[kind])
    undisturbed = end(config, tiny_splits)
    for place in (1, 2, 3, 4, 6, 10, 11, 12):  # 9 yields an epoch: 4 steps, 4 of evaluation, its end
        resumed = broken_off(config, tiny_splits, place)
        for part in ("model", "optimizer"):
            first, second = tensors(undisturbed[part]), tensors(resumed[part])
            assert len(first) == len(second) > 0
            assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), (part, place)
        rates = [[row["learning_rate"] for row in each["history"]] for each in (undisturbed, resumed)]
        assert rates[0] == rates[1]


@pytest.mark.parametrize(
    "key",
    [
        {"name": "adamw"},
        {"name": "sgd"},
        {"epsilon": 1e-2},
        {"weight_decay": 0.1},
        {"clip_norm": 0.01},
        {"warmup_epochs": 1.0},
        {"name": "sgd", "momentum": 0.5},
    ],
    ids=str,
)
def test_each_key_changes_what_is_learnt(key, tiny_config, tiny_splits):
    base = {"name": "sgd"} if "momentum" in key else {}
    with_it, without = (
        end(tiny_config(num_epochs=1, optim=keys), tiny_splits)["model"] for keys in (key, base)
    )
    assert not all(torch.equal(with_it[name], without[name]) for name in without)


def test_a_weight_decay_that_a_resume_sets_counts(tiny_config, tiny_splits):
    config, other = (tiny_config(num_epochs=2, optim={"weight_decay": decay}) for decay in (0.0, 0.5))
    state = next(train(config, splits=tiny_splits)).snapshot()
    kept, changed = (end(each, tiny_splits, state)["model"]["classes.weight"] for each in (config, other))
    assert changed.norm() < 0.99 * kept.norm()
