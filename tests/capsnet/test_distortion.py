"""Distortions of training images of digits against slow versions of them, image by image."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from generated import splits_of

from capsnet import augmentation, distortion
from capsnet.affine import affine_maps, warp
from capsnet.batches import batches
from capsnet.config import MNIST, Config
from capsnet.images import Images
from capsnet.training import train

ALL = {"shift": 0, "rotate": 30, "roam": True, "squeeze": 7, "erase": 4}
KEYS = {"rotate": "turns", "roam": "roams", "squeeze": "squeezes", "erase": "erasures"}


def dataset(**keys):
    return MNIST.model_validate({"shift": 0} | keys)


def digits(count, side=28, seed=0):
    """Blocks of noise in black frames of 3 to 9 pixels, uint8 [N, 1, side, side]."""
    random = np.random.default_rng(seed)
    pixels = np.zeros((count, 1, side, side), np.uint8)
    for image in pixels[:, 0]:
        top, left, bottom, right = random.integers(3, 10, 4)
        image[top : side - bottom, left : side - right] = random.integers(
            1, 256, (side - top - bottom, side - left - right)
        )
    return Images(torch.from_numpy(pixels), torch.arange(count) % 10)


def test_every_other_image_is_turned_by_whole_degrees_up_to_the_most():
    back = distortion.draw_turns(0, 1, 4000, degrees=30)
    degrees = torch.rad2deg(torch.atan2(back[:, 0, 1], back[:, 0, 0]))
    torch.testing.assert_close(degrees, degrees.round(), atol=1e-9, rtol=0)
    degrees = degrees.round()
    assert (degrees.min(), degrees.max()) == (-29, 29)
    share = ((degrees == 0).float().mean()).item()
    assert 0.5 < share < 0.59  # half of them, and what is less than a degree: 8% of the others
    assert abs(degrees.mean()) < 5 * 10 / 4000**0.5


def test_an_image_is_turned_as_a_warp_turns_it_and_not_at_all_by_nothing():
    images = digits(6).images
    draws = {"turns": distortion.inverse(affine_maps(degrees=torch.tensor([0.0, 7, -29, 29, 0, 1])))}
    turned = augmentation.augment(Images(images, torch.arange(6)), draws, dataset(rotate=30)).inputs
    maps = affine_maps(degrees=torch.tensor([0.0, 7, -29, 29, 0, 1]))
    assert torch.equal(turned, warp(images, maps).float() / 255)
    assert torch.equal(turned[0], images[0].float() / 255)


def roamed_slowly(image, down, right):
    """Return by how many pixels one image [C, H, W] moves, by the formulas of their code."""
    filled = image.sum(0).numpy()
    steps = []
    for share, axis in ((down, 1), (right, 0)):
        lines = np.flatnonzero(filled.sum(axis))
        before, after = lines[0], filled.shape[1 - axis] - 1 - lines[-1]
        steps.append(math.floor(share * (1 + after)) if share > 0 else math.floor(share * before))
    return steps


def test_an_image_moves_by_its_share_of_its_own_margin():
    images = digits(60).images
    shares = distortion.draw_roams(0, 1, 60)
    steps = distortion.roaming(images, shares)
    expected = [roamed_slowly(image, *share.tolist()) for image, share in zip(images, shares, strict=True)]
    assert steps.tolist() == expected
    assert len(steps.unique(dim=0)) > 20


@pytest.mark.parametrize("share", [0.9999, -0.9999])
def test_the_largest_move_brings_a_digit_to_the_edge_and_loses_nothing(share):
    images = digits(20)
    draws = {"roams": torch.full((20, 2), share)}
    moved = augmentation.augment(images, draws, dataset(roam=True)).inputs * 255
    assert torch.equal(moved.sum((1, 2, 3)).round(), images.images.sum((1, 2, 3)).float())
    edge = -1 if share > 0 else 0
    assert (moved[:, 0, edge] > 0).any(1).all()
    assert (moved[:, 0, :, edge] > 0).any(1).all()


def test_an_empty_image_and_one_without_margins_stay_where_they_are():
    images = torch.stack([torch.zeros(1, 8, 8), torch.full((1, 8, 8), 9)]).to(torch.uint8)
    for share in (0.9999, -0.9999):
        steps = distortion.roaming(images, torch.full((2, 2), share))
        assert augmentation.shift(images, steps, 8).equal(images)
    assert distortion.roaming(images[1:], torch.full((1, 2), 0.5)).tolist() == [[0, 0]]


def squeezed_slowly(image, narrower, more):
    """Squeeze one image [1, H, W], column by column, in float64."""
    _, height, width = image.shape
    kept = width - narrower
    scale = width / kept
    out = np.zeros((1, height, width))
    for column in range(kept):
        middle = (column + 0.5) * scale - 0.5
        weights = []
        for source in range(width):
            x = (source - middle) / scale
            inside = (
                1.0 if x == 0 else 3 * math.sin(math.pi * x) * math.sin(math.pi * x / 3) / (math.pi * x) ** 2
            )
            weights.append(inside if abs(x) < 3 else 0.0)
        values = image[0].numpy().astype(np.float64) @ np.array(weights) / sum(weights)
        out[0, :, narrower // 2 + more + column] = values
    return np.clip(out, 0, 255)


def test_an_image_is_squeezed_by_a_lanczos_window():
    images = digits(14).images
    squeezes = torch.tensor([[narrower, more] for narrower in range(1, 8) for more in (0, 1)])
    found = distortion.squeeze(images, squeezes)
    for image, (narrower, more), squeezed in zip(images, squeezes.tolist(), found, strict=True):
        slowly = squeezed_slowly(image, narrower, more)
        assert np.abs(squeezed.numpy() - slowly).max() <= 0.5 + 1e-6


def test_an_even_image_stays_even_where_it_is_squeezed():
    images = torch.full((1, 1, 28, 28), 100, dtype=torch.uint8)
    squeezed = distortion.squeeze(images, torch.tensor([[6, 1]]))[0, 0]
    assert (squeezed[:, 4:26] == 100).all()
    assert not squeezed[:, :4].any() and not squeezed[:, 26:].any()


def test_squeezes_are_from_1_to_the_most_and_mostly_small():
    narrower, more = distortion.draw_squeezes(0, 1, 4000, pixels=7).unbind(1)
    assert narrower.unique().tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert more.unique().tolist() == [0, 1]
    assert torch.bincount(narrower).argmax() == 1
    assert 0.08 < more.float().mean() < 0.18  # beyond half of the most: 1.5 standard deviations, 13%


def test_a_square_is_erased_and_nothing_else():
    images = torch.full((3, 2, 28, 20), 7, dtype=torch.uint8)
    erased = distortion.erase(images, torch.tensor([[4, 4], [22, 14], [9, 5]]), 4)
    for image, (top, left) in zip(erased, ((4, 4), (22, 14), (9, 5)), strict=True):
        assert not image[:, top : top + 4, left : left + 4].any()
        assert (image == 0).sum() == 2 * 16


def test_squares_lie_where_theirs_do():
    corners = distortion.draw_erasures(0, 1, 4000, 4, 28, 28)
    assert corners.amin(0).tolist() == [4, 4] and corners.amax(0).tolist() == [22, 22]
    assert np.abs(np.corrcoef(corners.T.numpy())[0, 1]) < 5 / 4000**0.5


STEPS: dict[str, Callable[[torch.Tensor, dict], torch.Tensor]] = {
    "rotate": lambda images, draws: augmentation.looked_up(images, draws["turns"]),
    "roam": lambda images, draws: augmentation.shift(
        images, distortion.roaming(images, draws["roams"]), max(images.shape[2:])
    ),
    "squeeze": lambda images, draws: distortion.squeeze(images, draws["squeezes"]),
    "erase": lambda images, draws: distortion.erase(images, draws["erasures"], 4),
}


def test_all_of_them_come_one_after_the_other_and_leave_pixels_from_0_to_1():
    images, whole = digits(40), dataset(**ALL)
    draws = augmentation.draw(whole, 0, 1, 40)
    pixels = images.images
    for step in STEPS.values():
        pixels = step(pixels, draws)
    batch = augmentation.augment(images, draws, whole)
    assert torch.equal(batch.inputs, pixels.float() / 255)
    assert batch.targets is batch.inputs
    assert (batch.inputs.amin(), batch.inputs.amax()) == (0, 1)


@pytest.mark.parametrize("key", KEYS)
def test_each_key_draws_its_own_and_changes_no_other_draw(key):
    whole = augmentation.draw(dataset(**ALL), 5, 2, 30)
    assert whole.keys() == set(KEYS.values())
    alone = augmentation.draw(dataset(**{key: ALL[key]}), 5, 2, 30)
    assert alone.keys() == {KEYS[key]}
    assert torch.equal(alone[KEYS[key]], whole[KEYS[key]])
    for seed, epoch in ((5, 3), (6, 2)):
        assert not torch.equal(
            augmentation.draw(dataset(**ALL), seed, epoch, 30)[KEYS[key]], whole[KEYS[key]]
        )
    images = digits(30)
    changed = augmentation.augment(images, alone, dataset(**{key: ALL[key]})).inputs
    assert (changed != images.images.float() / 255).flatten(1).any(1).sum() >= 5


def config(**keys):
    section = {"name": "mnist"} | ALL
    return Config.model_validate({"batch_size": 16, "num_epochs": 2, "dataset": section, **keys})


def same(batch, other):
    return all(torch.equal(getattr(batch, name), getattr(other, name)) for name in ("inputs", "targets"))


@pytest.mark.parametrize("start", [(1, 1), (1, 3), (1, 4), (2, 2)])
def test_from_any_step_on_the_batches_are_those_of_an_undisturbed_run(start):
    images = digits(50)
    undisturbed = list(batches(config(), images, "cpu", (1, 0)))
    skipped = (start[0] - 1) * 4 + start[1]
    rest = list(batches(config(), images, "cpu", start))
    assert len(rest) == 8 - skipped
    assert all(map(same, rest, undisturbed[skipped:]))


def test_worker_processes_give_the_same_batches():
    images = digits(50)
    expected = list(batches(config(), images, "cpu", (1, 1)))
    loaded = list(batches(config(dataloader={"num_workers": 2}), images, "cpu", (1, 1)))
    assert len(loaded) == len(expected)
    assert all(map(same, loaded, expected))


def test_a_run_on_distorted_digits_broken_off_ends_with_the_same_bits(one_thread):
    wanted = Config.model_validate(
        {
            "num_epochs": 2,
            "batch_size": 16,
            "threads": 1,
            "dataset": {"name": "digits", "size": 16} | ALL,
            "model": {"name": "efficient_capsnet", "conv_channels": [4, 8], "primary_dim": 4},
        }
    )
    splits = splits_of(wanted.dataset, train=33, test=8)
    whole_run = list(train(wanted, splits=splits, interval_seconds=0))
    half = next(p for p in train(wanted, splits=splits, interval_seconds=0) if (p.epoch, p.step) == (2, 1))
    *_, last = train(wanted, half.snapshot(), splits, interval_seconds=0)
    final, resumed = whole_run[-1].snapshot()["model"], last.snapshot()["model"]
    assert all(torch.equal(resumed[name], weights) for name, weights in final.items())


def test_at_test_nothing_is_distorted():
    images = digits(5)
    assert torch.equal(augmentation.for_test(images, dataset(**ALL)).inputs, images.images.float() / 255)
