"""MNIST in a frame, and under affine maps."""

import os
from pathlib import Path

import numpy as np
import pytest
import small_mnist
import torch
import torch.nn.functional as F

from capsnet import augmentation, datasets, framed_mnist, mnist
from capsnet.affine import warp
from capsnet.config import AffineMNIST, ShiftedMNIST
from capsnet.framed_mnist import draw_maps, framed
from capsnet.images import ImageShape

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def written(tmp_path):
    return small_mnist.write(tmp_path)


def load(root, kind: type[ShiftedMNIST] | type[AffineMNIST] = ShiftedMNIST, seed=0, **keys):
    return datasets.load(kind(root=str(root), **keys), seed)


def test_digits_lie_in_the_middle_of_40_pixels(written, tmp_path):
    splits = load(tmp_path)
    for images, part in ((splits.train, "train"), (splits.test, "t10k")):
        pixels, labels = written[part]
        expected = np.pad(pixels, ((0, 0), (6, 6), (6, 6)))
        assert (images.images[:, 0].numpy() == expected).all()
        assert images.images.dtype == torch.uint8
        assert images.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("kind", [ShiftedMNIST, AffineMNIST])
def test_the_shape_is_known_without_loading_and_is_that_of_the_images(written, tmp_path, kind):
    assert datasets.shape(kind()) == ImageShape(1, 40, 40, classes=10)
    assert load(tmp_path, kind, pad=2).test.images.shape[1:] == (1, 32, 32)
    assert datasets.shape(kind(pad=2)) == ImageShape(1, 32, 32, classes=10)


@pytest.mark.parametrize("kind", [ShiftedMNIST, AffineMNIST])
def test_training_moves_digits_to_the_frames_edges_and_loses_no_pixel(tmp_path, kind):
    white = torch.full((600, 1, 28, 28), 255, dtype=torch.uint8)
    dataset = kind()
    images = framed(datasets.Images(white, torch.zeros(600, dtype=torch.int64)), dataset.pad)
    draws = augmentation.draw(dataset, seed=0, epoch=1, count=600)
    moved = augmentation.augment(images, draws, dataset).inputs
    assert (moved.flatten(1).sum(1) == 28 * 28).all()
    corners = {tuple(map(int, image[0].nonzero().amin(0))) for image in moved}
    assert {down for down, _ in corners} == {right for _, right in corners} == set(range(13))


def test_affine_mnist_is_trained_as_shifted_mnist(written, tmp_path):
    shifted, affine = load(tmp_path, validation=10), load(tmp_path, AffineMNIST, validation=10)
    assert torch.equal(shifted.train.images, affine.train.images)
    assert shifted.validation is not None
    assert affine.validation is not None
    assert torch.equal(shifted.validation.images, affine.validation.images)
    assert torch.equal(shifted.test.labels, affine.test.labels)
    assert not torch.equal(shifted.test.images, affine.test.images)


def test_the_maps_follow_the_test_seed_and_not_the_runs(written, tmp_path):
    first = load(tmp_path, AffineMNIST).test.images
    assert torch.equal(load(tmp_path, AffineMNIST, seed=5).test.images, first)
    assert not torch.equal(load(tmp_path, AffineMNIST, test_seed=1).test.images, first)


def test_the_global_generators_are_left_alone(written, tmp_path):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    load(tmp_path, AffineMNIST)
    assert torch.equal(torch.random.get_rng_state(), before)


def parts_of(maps):
    """Decompose affine maps [N, 2, 3] into rotation in degrees [N], shear [N] and scales [N, 2]."""
    linear = maps[:, :, :2]
    across = linear[:, :, 1]  # neither scaling nor shearing turns what lies to the right
    turn = torch.atan2(-across[:, 0], across[:, 1])
    back = torch.stack([turn.cos(), turn.sin(), -turn.sin(), turn.cos()], dim=1).view(-1, 2, 2)
    down = (back @ linear)[:, :, 0]
    return turn.rad2deg(), down[:, 1] / down[:, 0], torch.stack([down[:, 0], across.norm(dim=1)], dim=1)


def test_every_kind_of_map_is_drawn_from_its_whole_range():
    images = torch.from_numpy(small_mnist.signs(np.arange(3000) % 10, 0))[:, None]
    degrees, shear, scales = parts_of(draw_maps(F.pad(images, (6, 6, 6, 6)), seed=0))
    for numbers, low, high in ((degrees, -20, 20), (shear, -0.2, 0.2), (scales, 0.8, 1.2)):
        assert low <= numbers.amin() < low + 0.01 * (high - low)
        assert high >= numbers.amax() > high - 0.01 * (high - low)
        assert numbers.mean().item() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
    drawn = torch.stack([degrees, shear, scales[:, 0], scales[:, 1]])
    assert (drawn.corrcoef() - torch.eye(4)).abs().amax() < 0.1


def assert_whole(images, maps):
    """Nothing of images [N, 1, H, W] is left outside when they are mapped in a frame that is larger."""
    wide = warp(F.pad(images, (8, 8, 8, 8)), maps)
    inside = F.pad(warp(images, maps), (8, 8, 8, 8))
    assert torch.equal(wide, inside)


def test_digits_stay_in_the_frame_and_come_near_all_its_edges():
    images = F.pad(torch.from_numpy(small_mnist.signs(np.arange(2000) % 10, 0))[:, None], (6, 6, 6, 6))
    maps = draw_maps(images, seed=0)
    assert_whole(images, maps)
    touched = warp(images, maps).amax((0, 1)) > 0
    assert touched[0].any()
    assert touched[-1].any()
    assert touched[:, 0].any()
    assert touched[:, -1].any()


def test_a_digit_that_is_too_large_for_the_frame_is_in_the_middle():
    images = torch.full((200, 1, 28, 28), 255, dtype=torch.uint8)
    maps = draw_maps(images, seed=0)
    _, _, scales = parts_of(maps)
    too_large = scales.amin(1) > 1
    assert too_large.any()
    assert maps[too_large, :, 2].abs().amax() < 1e-9


def test_an_image_without_a_digit_stays_black():
    images = torch.zeros(3, 1, 40, 40, dtype=torch.uint8)
    assert warp(images, draw_maps(images, seed=0)).amax() == 0


@pytest.mark.skipif(not os.environ.get("CAPSNET_DATA"), reason="CAPSNET_DATA names no folder with MNIST")
def test_none_of_mnists_test_digits_is_cut_off():
    _, test = mnist.load(Path(os.environ["CAPSNET_DATA"]))
    images = framed(test, 6).images
    maps = draw_maps(images, seed=0)
    assert_whole(images, maps)
    low, high = framed_mnist._extent(images, maps[:, :, :2])
    assert (high - low < 41).all()  # none is too large, so that each place is drawn
