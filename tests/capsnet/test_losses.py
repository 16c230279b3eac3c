"""The losses, by hand and against the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnet import reference
from capsnet.losses import margin_loss, reconstruction_loss

pytestmark = pytest.mark.usefixtures("one_thread")


def test_margin_loss_of_a_batch_by_hand():
    lengths = torch.tensor([[0.95, 0.05, 0.1], [0.4, 0.8, 0.6]])
    losses = margin_loss(lengths, torch.tensor([0, 1]))
    assert losses.tolist() == pytest.approx([0.0, 0.5 * 0.3**2 + 0.1**2 + 0.5 * 0.5**2])


def test_the_authors_margin_loss_is_a_twentieth_with_ten_classes():
    lengths, labels = torch.rand(4, 10, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    torch.testing.assert_close(margin_loss(lengths, labels, "authors"), margin_loss(lengths, labels) / 20)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), form=st.sampled_from(["paper", "authors"]), classes=st.integers(1, 12))
def test_margin_loss_is_that_of_the_reference(seed, form, classes):
    rng = np.random.default_rng(seed)
    lengths, labels = rng.random((3, classes)), rng.integers(0, classes, 3)
    expected = reference.margin_loss(lengths, np.eye(classes)[labels], form)
    losses = margin_loss(torch.from_numpy(lengths), torch.from_numpy(labels), form)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-12)


def test_reconstruction_loss_sums_over_the_pixels_of_each_image():
    images = torch.zeros(2, 3, 4, 5)
    shown = torch.stack([torch.full((3, 4, 5), 0.5), torch.zeros(3, 4, 5)])
    assert reconstruction_loss(shown, images).tolist() == [pytest.approx(0.25 * 60), 0.0]
