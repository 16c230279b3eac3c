"""Affine maps of images, against a slow and obvious reference."""

import numpy as np
import pytest
import torch

from capsnet import affine
from capsnet.affine import affine_maps, warp
from capsnet.augmentation import shift

pytestmark = pytest.mark.usefixtures("one_thread")


def looked_up(image, row, column):
    """Interpolate [H, W] bilinearly between its four nearest pixels; pixels outside are 0."""
    top, left = int(np.floor(row)), int(np.floor(column))
    value = 0.0
    for r, c in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= r < image.shape[0] and 0 <= c < image.shape[1]:
            value += image[r, c] * (1 - abs(row - r)) * (1 - abs(column - c))
    return value


def reference(images, maps):
    """Warp images, float64 [B, C, H, W], by maps [B, 2, 3], pixel by pixel."""
    warped = np.zeros(images.shape)
    middle = (np.array(images.shape[2:]) - 1) / 2
    for number, matrix in enumerate(maps):
        for row, column in np.ndindex(*images.shape[2:]):
            point = np.array([row, column]) - middle
            source = np.linalg.solve(matrix[:, :2], point - matrix[:, 2]) + middle
            for channel in range(images.shape[1]):
                warped[number, channel, row, column] = looked_up(images[number, channel], *source)
    return warped


@pytest.fixture
def drawn():
    """Six images of 2×9×12, as float64 numbers from 0 to 255, and a map of every kind for each."""
    random = np.random.default_rng(0)
    maps = affine_maps(
        torch.from_numpy(random.uniform(-180, 180, 6)),
        torch.from_numpy(random.uniform(-1, 1, 6)),
        torch.from_numpy(random.uniform(0.5, 2, (6, 2))),
        torch.from_numpy(random.uniform(-3, 3, (6, 2))),
    )
    return torch.from_numpy(random.uniform(0, 255, (6, 2, 9, 12))), maps


def test_images_are_mapped_as_by_the_reference(drawn):
    images, maps = drawn
    expected = reference(images.numpy(), maps.numpy())
    assert np.abs(warp(images, maps).numpy() - expected).max() < 1e-9
    assert np.abs(warp(images.float(), maps).numpy() - expected).max() < 1e-3


def test_bytes_are_rounded_and_not_cut_off(drawn):
    images, maps = drawn[0].to(torch.uint8), drawn[1]
    expected = reference(images.double().numpy(), maps.numpy())
    found = warp(images, maps)
    assert found.dtype == torch.uint8
    assert np.abs(found.numpy() - expected).max() <= 0.5 + 1e-9


def test_white_stays_white_within_the_image():
    images = torch.full((1, 1, 21, 21), 255, dtype=torch.uint8)
    assert (warp(images, affine_maps(degrees=33))[..., 6:15, 6:15] == 255).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
def test_the_map_that_moves_nothing_leaves_images_as_they_are(dtype):
    images = torch.randint(0, 256, (3, 2, 9, 12), generator=torch.Generator().manual_seed(0)).to(dtype)
    found = warp(images, affine_maps())
    assert found.dtype == dtype
    assert torch.allclose(found.double(), images.double(), rtol=1e-5, atol=1e-4)


def test_whole_pixels_are_shifted_as_augmentation_shifts_them():
    images = torch.randint(0, 256, (5, 1, 9, 12), dtype=torch.uint8)
    shifts = torch.tensor([[0, 0], [2, 0], [0, -2], [-1, 2], [1, 1]])
    assert torch.equal(warp(images, affine_maps(shift=shifts)), shift(images, shifts, 2))


def test_degrees_go_counterclockwise_as_one_sees_it():
    images = torch.randint(0, 256, (2, 1, 9, 9), dtype=torch.uint8)
    assert torch.equal(warp(images, affine_maps(degrees=90)), torch.rot90(images, 1, (2, 3)))


def test_shear_takes_what_lies_below_the_middle_to_the_right():
    image = torch.zeros(1, 1, 9, 9)
    image[..., 2:7, 4] = 1
    leaning = warp(image, affine_maps(shear=1.0))[0, 0]
    assert leaning.nonzero().tolist() == [[2, 2], [3, 3], [4, 4], [5, 5], [6, 6]]


def test_the_first_scale_is_the_vertical_one():
    image = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    image[..., 2:7, 3:6] = 255
    mapped = warp(image, affine_maps(scale=(2.0, 1.0)))[0, 0]
    assert mapped[:, 3:6].amin() == 255
    assert mapped[:, :3].amax() == mapped[:, 6:].amax() == 0


def test_points_are_scaled_then_sheared_then_rotated_then_shifted():
    (found,) = affine_maps(degrees=90, shear=0.5, scale=(2.0, 3.0), shift=(10.0, 20.0))
    down, right = 1.0, 1.0
    down, right = 2 * down, 3 * right
    right += 0.5 * down
    down, right = -right, down  # a quarter turn: what was on the right is above
    point = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)
    assert (found @ point).tolist() == pytest.approx([down + 10, right + 20])


def test_numbers_stand_for_as_many_maps_as_there_are_others():
    degrees = torch.tensor([0.0, 45.0, 90.0])
    expected = [affine_maps(float(turn), 0.1, (1.0, 2.0), (3.0, 4.0))[0] for turn in degrees]
    assert torch.allclose(affine_maps(degrees, 0.1, (1.0, 2.0), (3.0, 4.0)), torch.stack(expected))
    assert affine_maps(shift=torch.zeros(4, 2)).shape == (4, 2, 3)
    assert affine_maps(scale=torch.ones(4, 2)).shape == (4, 2, 3)


def test_one_map_serves_all_images(drawn):
    images, maps = drawn
    assert torch.equal(warp(images, maps[:1]), warp(images, maps[:1].expand(6, 2, 3)))


def test_many_images_are_mapped_as_one_by_one(drawn, monkeypatch):
    images, maps = drawn
    monkeypatch.setattr(affine, "IMAGES_AT_ONCE", 4)
    one_by_one = [warp(images[i : i + 1], maps[i : i + 1]) for i in range(len(images))]
    assert torch.equal(warp(images, maps), torch.cat(one_by_one))
