"""The spread loss by hand, its rising margin, and that training and evaluation each use the right one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnet import datasets, evaluation, execution, objective
from capsnet.augmentation import augment, for_test
from capsnet.config import Config, SpreadLoss
from capsnet.images import Images
from capsnet.learner import Learner
from capsnet.losses import spread_loss

pytestmark = pytest.mark.usefixtures("one_thread")

SPREAD = {"name": "spread", "first_margin": 0.2, "last_margin": 0.9, "rising_epochs": 4}


def test_spread_loss_of_a_batch_by_hand():
    activations = torch.tensor([[0.9, 0.1, 0.5], [0.3, 0.3, 0.9]])
    losses = spread_loss(activations, torch.tensor([0, 1]), margin=0.5)
    assert losses.tolist() == pytest.approx([0.1**2, 0.5**2 + 1.1**2])


def test_the_right_class_adds_nothing_to_its_own_loss():
    assert spread_loss(torch.tensor([[0.5]]), torch.tensor([0]), margin=0.9).tolist() == [0.0]


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), classes=st.integers(1, 12), margin=st.floats(0, 1))
def test_spread_loss_is_the_sum_of_equation_3(seed, classes, margin):
    rng = np.random.default_rng(seed)
    activations, labels = rng.random((3, classes)), rng.integers(0, classes, 3)
    expected = [
        sum(max(0.0, margin - (row[label] - row[other])) ** 2 for other in range(classes) if other != label)
        for row, label in zip(activations, labels, strict=True)
    ]
    losses = spread_loss(torch.from_numpy(activations), torch.from_numpy(labels), margin)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-12)


def test_its_gradient_pulls_the_classes_apart():
    activations = torch.tensor([[0.4, 0.5, 0.3]], requires_grad=True)
    spread_loss(activations, torch.tensor([1]), margin=0.5).sum().backward()
    assert activations.grad is not None
    assert activations.grad.sign().tolist() == [[1.0, -1.0, 1.0]]


@pytest.mark.parametrize(("epochs", "margin"), [(0, 0.2), (1, 0.375), (2.5, 0.6375), (4, 0.9), (40, 0.9)])
def test_the_margin_rises_with_the_epochs_and_stays(epochs, margin):
    assert objective.rising_margin(SpreadLoss.model_validate(SPREAD), epochs) == pytest.approx(margin)


@pytest.fixture
def spread_config(tiny_config):
    """Return a small network's configuration with spread loss, which depends on lengths alone."""
    return tiny_config(loss=SPREAD, model={"decoder": {"hidden": [512, 1024]}})  # the default: there is none


def learner(config: Config, images: Images) -> Learner:
    how = execution.resolve(config)
    execution.apply(how)
    return Learner(config, how, datasets.shape(config.dataset), len(images), None)


@pytest.mark.parametrize(
    ("epoch", "step", "margin"), [(0, 0, 0.2), (0, 2, 0.2875), (1, 0, 0.375), (9, 0, 0.9)]
)
def test_the_learner_trains_with_the_margin_of_its_step(spread_config, tiny_splits, epoch, step, margin):
    trained = learner(spread_config, tiny_splits.train)
    trained.epoch, trained.steps = epoch, step
    batch = augment(tiny_splits.train[:16], {}, spread_config.dataset)
    with torch.no_grad():
        lengths = trained.network(batch.inputs).lengths
    trained.step(batch)
    expected = spread_loss(lengths, batch.labels, margin).double().sum()
    torch.testing.assert_close(trained.sums[step, 0], expected, rtol=1e-6, atol=0)


def test_evaluation_judges_by_the_last_margin_at_any_epoch(spread_config, tiny_splits):
    trained = learner(spread_config, tiny_splits.train)
    batch = for_test(tiny_splits.test, spread_config.dataset)
    measured = evaluation.measure(trained.network, tiny_splits.test, spread_config, trained.execution)
    with torch.no_grad():
        lengths = trained.network(batch.inputs).lengths
    torch.testing.assert_close(measured.loss, spread_loss(lengths, batch.labels, 0.9))
    assert (spread_loss(lengths, batch.labels, 0.2) < measured.loss).all()
