"""Random changes to training images against slow versions of them, image by image.

Letters of shapes: N images, B batch, C channels, H height, W width.
"""

from itertools import islice

import numpy as np
import pytest
import torch

from capsnet import augmentation
from capsnet.batches import batches
from capsnet.config import CIFAR10, SVHN, Config, Folder, SmallNORB
from capsnet.images import Images, shape, whole


def plain(**keys):
    """Return CIFAR-10's section without any augmentation except that set by `keys`."""
    nothing = {"crop": None, "flip": False, "brightness": 0, "contrast": (1, 1), "standardise": False}
    return CIFAR10.model_validate(nothing | keys)


def shifted_slowly(image, down, right):
    """Shift one image [C, H, W], pixel by pixel."""
    moved = torch.zeros_like(image)
    _, height, width = image.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                moved[:, row, column] = image[:, row - down, column - right]
    return moved


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_moves_by_its_own_shift_and_zeros_come_in(channels):
    images = torch.randint(1, 256, (25, channels, 7, 9), dtype=torch.uint8)
    shifts = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3))
    expected = torch.stack(
        [shifted_slowly(image, *shift.tolist()) for image, shift in zip(images, shifts, strict=True)]
    )
    assert torch.equal(augmentation.shift(images, shifts, 2), expected)


def test_a_shift_larger_than_the_image_leaves_nothing():
    images = torch.full((1, 1, 3, 3), 255, dtype=torch.uint8)
    assert augmentation.shift(images, torch.tensor([[4, 0]]), 4).sum() == 0


def test_a_shift_of_at_most_zero_pixels_changes_nothing():
    images = torch.randint(0, 256, (3, 1, 5, 5), dtype=torch.uint8)
    assert torch.equal(augmentation.shift(images, augmentation.draw_shifts(0, 1, 3, 0), 0), images)


def test_the_shifts_of_an_epoch_differ_between_images_and_between_epochs():
    first, second = (augmentation.draw_shifts(0, epoch, 1000, 2) for epoch in (1, 2))
    assert len(first.unique(dim=0)) == 25
    assert not torch.equal(first, second)
    assert torch.equal(first, augmentation.draw_shifts(0, 1, 1000, 2))


def photographs(count, channels=3, height=32, width=32, seed=0):
    """Draw noise, uint8 [N, C, H, W]; the labels are the images' numbers modulo 10."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (count, channels, height, width), dtype=np.uint8)
    return Images(torch.from_numpy(pixels), torch.arange(count) % 10)


def numbered(count, height, width):
    """Images in which each pixel holds its own position: row * 16 + column."""
    places = torch.arange(height)[:, None] * 16 + torch.arange(width)
    return places.to(torch.uint8).expand(count, 1, height, width).contiguous()


def test_crops_are_whole_windows_at_all_positions_about_equally_often():
    draws = augmentation.draw(plain(crop=7), seed=0, epoch=1, count=6000)
    windows = augmentation.crop(numbered(6000, 10, 9), draws["crops"], 7)
    corners = windows[:, 0, 0, 0]
    window = torch.arange(7)[:, None] * 16 + torch.arange(7)
    assert torch.equal(windows[:, 0], corners[:, None, None] + window)
    found, counts = corners.unique(return_counts=True)
    assert found.tolist() == [row * 16 + column for row in range(4) for column in range(3)]
    assert (counts - 500).abs().max() < 5 * 500**0.5  # five standard deviations


def test_the_last_position_is_reached_and_none_beyond_it():
    places = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1 - 2**-24, 1 - 2**-24], [0.0, 1.0]])
    corners = augmentation.crop(numbered(4, 10, 9), places, 7)[:, 0, 0, 0]
    assert corners.tolist() == [0, 3 * 16 + 2, 3 * 16 + 2, 2]


def test_a_crop_as_large_as_the_image_is_the_image():
    images = photographs(3).images
    assert torch.equal(augmentation.crop(images, torch.rand(3, 2), 32), images)


@pytest.mark.parametrize("size", [(33, 32), (32, 33)])
def test_the_middle_of_an_image_is_no_larger_than_it(size):
    with pytest.raises(AssertionError, match=r"no 3[23]×3[23] pixels in images of \(1, 3, 32, 32\)"):
        augmentation.centre(photographs(1).images, *size)


def test_about_half_of_the_images_are_flipped_and_only_left_and_right():
    dataset = plain(flip=True)
    images = photographs(2000, 1, 4, 5)
    draws = augmentation.draw(dataset, seed=3, epoch=1, count=2000)
    assert abs(int(draws["flips"].sum()) - 1000) < 5 * 500**0.5
    targets = augmentation.augment(images, draws, dataset).targets
    for flipped, before, after in zip(draws["flips"], images.images, targets, strict=True):
        assert torch.equal(after, (before.flip(2) if flipped else before).float() / 255)


def scale(values):
    """Return mean and standard deviation as tf.image.per_image_standardization computes them."""
    return values.mean(), max(values.std(), 1 / values.size**0.5)


def changed_slowly(image, dataset, draws, row):
    """Augment one image uint8 [C, H, W] in float64; return the network's input and the decoder's target.

    Step by step in the order of `standardise`; the target is what is shown, as pixels.
    """
    values = image.numpy().astype(np.float64)
    mean, deviation = scale(values) if dataset.standardise == "first" else (0.0, 1.0)
    values = (values - mean) / deviation
    if dataset.crop:
        room = values.shape[1] - dataset.crop, values.shape[2] - dataset.crop
        places = draws["crops"][row].tolist()
        top, left = (min(int(place * (most + 1)), most) for place, most in zip(places, room, strict=True))
        values = values[:, top : top + dataset.crop, left : left + dataset.crop]
    if dataset.flip and draws["flips"][row]:
        values = values[:, :, ::-1]
    if dataset.brightness:
        values = values + float(draws["brightness"][row]) * (1 if dataset.standardise == "first" else 255)
    if dataset.contrast != (1.0, 1.0):
        for channel, middle in zip(values, values.mean((1, 2)), strict=True):
            channel[:] = (channel - middle) * float(draws["contrast"][row]) + middle
    target = np.clip(values * deviation + mean, 0, 255) / 255
    if dataset.clip:
        values = (target * 255 - mean) / deviation
    if dataset.standardise == "first":
        return values, target
    mean, deviation = scale(values) if dataset.standardise == "last" else (0.0, 255.0)
    return (values - mean) / deviation, target


SETTINGS = [
    CIFAR10(),
    CIFAR10(standardise=False),
    CIFAR10(contrast=(1.0, 1.0)),
    CIFAR10(brightness=0),
    CIFAR10(crop=None, flip=False),
    plain(),
    plain(standardise="last"),
    SVHN(),
    SmallNORB(),
    Folder(root=".", size=32, classes=10, crop=20, brightness=255, contrast=(0.0, 3.0), standardise="last"),
    CIFAR10(clip=False),
    CIFAR10(clip=False, standardise=False),
    CIFAR10(standardise="first", brightness=1.5),
    plain(standardise="first"),
    SmallNORB(standardise="first", brightness=2.0, contrast=(0.5, 1.5), clip=False),
]


@pytest.mark.parametrize("dataset", SETTINGS, ids=lambda dataset: dataset.name)
def test_each_image_is_changed_by_its_own_draws_as_the_formulas_say(dataset):
    images = photographs(40, 2, 48, 48) if isinstance(dataset, SmallNORB) else photographs(40)
    draws = augmentation.draw(dataset, seed=1, epoch=2, count=40)
    batch = augmentation.augment(images, draws, dataset)
    assert batch.inputs.dtype == batch.targets.dtype == torch.float32
    assert torch.equal(batch.labels, images.labels)
    for row in range(40):
        inputs, target = changed_slowly(images.images[row], dataset, draws, row)
        assert np.abs(batch.targets[row].numpy() - target).max() < 1e-6
        assert np.abs(batch.inputs[row].numpy() - inputs).max() < 1e-4


NEUTRAL = {"shift": 0, "crop": None, "flip": False, "brightness": 0.0, "contrast": (1.0, 1.0)}
SOME = {"shift": 3, "crop": 24, "flip": True, "brightness": 40.0, "contrast": (0.5, 1.5)}
OWN = {"root": ".", "size": 32, "classes": 10}
SECTIONS = [CIFAR10(), SVHN(), SVHN(standardise="last"), SmallNORB()]
SECTIONS += [
    Folder.model_validate(OWN | {"channels": channels, "standardise": standardise})
    for channels in (1, 3)
    for standardise in (False, True)
]


@pytest.mark.parametrize("key", NEUTRAL)
@pytest.mark.parametrize("dataset", SECTIONS, ids=lambda dataset: dataset.name)
def test_each_key_of_each_section_changes_what_the_network_sees(dataset, key):
    channels = shape(dataset).channels
    images = photographs(30, channels, *whole(dataset))
    own = getattr(dataset, key)
    with_it = dataset.model_copy(update={key: SOME[key] if own == NEUTRAL[key] else own})
    without = dataset.model_copy(update={key: NEUTRAL[key]})
    one, other = (
        augmentation.augment(images, augmentation.draw(each, 0, 1, 30), each).inputs
        for each in (with_it, without)
    )
    if one.shape == other.shape:
        assert (one - other).abs().mean() > 0.01
    else:
        assert key == "crop"
        assert one.shape[2] == with_it.crop


def test_the_draws_keep_to_their_bounds_and_fill_them():
    draws = augmentation.draw(CIFAR10(), seed=0, epoch=1, count=5000)
    brightness, contrast = draws["brightness"] * 255, draws["contrast"]
    assert -63 <= brightness.min() < -62.5
    assert 62.5 < brightness.max() <= 63
    assert 0.2 <= contrast.min() < 0.21
    assert 1.79 < contrast.max() <= 1.8
    assert abs(brightness.mean()) < 5 * 63 / 3**0.5 / 5000**0.5
    table = np.corrcoef(np.stack([*draws["crops"].T, draws["flips"], brightness, contrast]))
    assert np.abs(table - np.eye(5)).max() < 5 / 5000**0.5  # one says nothing of another


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7, 7, 7, 7], [0, 0, 0, 0]),
        ([0, 0, 255, 255], [-1, -1, 1, 1]),
        ([100, 100, 100, 101], [-0.25 / 0.5, -0.25 / 0.5, -0.25 / 0.5, 0.75 / 0.5]),
    ],
)
def test_an_image_of_almost_one_value_is_not_blown_up(values, expected):
    """4 values: the deviation counts as 1/2 at least; that of the last row is 0.43."""
    images = torch.tensor(values, dtype=torch.float32).view(1, 1, 2, 2) / 255
    assert augmentation.standardised(images).flatten().tolist() == pytest.approx(expected, abs=1e-4)


def test_targets_are_what_is_shown_before_it_is_standardised():
    images = photographs(20)
    draws = augmentation.draw(CIFAR10(), seed=0, epoch=1, count=20)
    shown = augmentation.augment(images, draws, CIFAR10())
    before = augmentation.augment(images, draws, CIFAR10(standardise=False))
    assert torch.equal(shown.targets, before.targets)
    assert torch.equal(before.inputs, before.targets)
    assert before.targets.shape == (20, 3, 24, 24)
    assert (before.targets.min(), before.targets.max()) == (0, 1)  # cut off: noise made brighter goes beyond
    assert shown.inputs.mean((1, 2, 3)).abs().max() < 1e-5
    assert (shown.inputs.std((1, 2, 3), correction=0) - 1).abs().max() < 1e-4


def test_light_that_is_not_cut_off_reaches_the_network_and_the_target_stays_an_image():
    images, dataset = photographs(20), CIFAR10(clip=False, standardise=False)
    draws = augmentation.draw(dataset, seed=0, epoch=1, count=20)
    batch = augmentation.augment(images, draws, dataset)
    beyond = (batch.inputs < 0) | (batch.inputs > 1)
    assert 0.05 < beyond.float().mean() < 0.95
    assert torch.equal(batch.targets, batch.inputs.clamp(0, 1))
    clipped = augmentation.augment(images, draws, CIFAR10(standardise=False))
    assert torch.equal(clipped.inputs, batch.targets)


def test_what_is_cropped_keeps_the_scale_of_its_whole_image():
    images, dataset = photographs(7, 2, 48, 48), SmallNORB(standardise="first")
    tested = augmentation.cropped(images, dataset)
    assert torch.equal(tested.images, images.images[:, :, 8:40, 8:40])
    whole = augmentation.standardised(images.images / 255)
    shown = augmentation.for_test(tested, dataset).inputs
    torch.testing.assert_close(shown, whole[:, :, 8:40, 8:40])
    torch.testing.assert_close(augmentation.for_test(tested[2:5], dataset).inputs, shown[2:5])
    assert not torch.allclose(shown, augmentation.standardised(tested.images / 255))


def test_at_test_nothing_is_random_and_only_standardising_applies():
    images = photographs(5, height=24, width=24)
    batch = augmentation.for_test(images, CIFAR10())
    assert torch.equal(batch.targets, images.images.float() / 255)
    assert torch.equal(batch.inputs, augmentation.standardised(batch.targets))
    assert torch.equal(augmentation.for_test(images, SVHN()).inputs, batch.targets)


def test_the_same_seed_and_epoch_draw_the_same_and_others_do_not():
    first = augmentation.draw(CIFAR10(shift=2), seed=4, epoch=3, count=100)
    again = augmentation.draw(CIFAR10(shift=2), seed=4, epoch=3, count=100)
    assert first.keys() == {"shifts", "crops", "flips", "brightness", "contrast"}
    assert all(torch.equal(first[name], again[name]) for name in first)
    for seed, epoch in ((4, 4), (5, 3)):
        other = augmentation.draw(CIFAR10(shift=2), seed=seed, epoch=epoch, count=100)
        assert not any(torch.equal(first[name], other[name]) for name in first)


def test_what_is_switched_off_draws_nothing_and_changes_no_other_draw():
    whole = augmentation.draw(CIFAR10(), seed=0, epoch=1, count=10)
    assert augmentation.draw(plain(), seed=0, epoch=1, count=10) == {}
    part = augmentation.draw(CIFAR10(flip=False, brightness=0), seed=0, epoch=1, count=10)
    assert part.keys() == {"crops", "contrast"}
    assert all(torch.equal(part[name], whole[name]) for name in part)


def config(**keys):
    return Config.model_validate({"batch_size": 16, "num_epochs": 2, "dataset": {"name": "cifar10"}, **keys})


def same(batch, other):
    names = ("inputs", "targets", "labels")
    return all(torch.equal(getattr(batch, name), getattr(other, name)) for name in names)


def test_the_last_batch_of_an_epoch_is_smaller_and_each_image_comes_once():
    images = Images(photographs(50).images, torch.arange(50))
    found = list(batches(config(), images, "cpu", (1, 0)))
    assert [len(batch) for batch in found] == [16, 16, 16, 2] * 2
    for epoch in (found[:4], found[4:]):
        assert torch.cat([batch.labels for batch in epoch]).sort().values.tolist() == list(range(50))
    assert all(batch.inputs.shape[1:] == (3, 24, 24) for batch in found)


def test_an_image_is_changed_by_the_draw_of_its_place_in_the_epoch():
    images = Images(photographs(50).images, torch.arange(50))
    epoch = list(islice(batches(config(), images, "cpu", (1, 0)), 4))
    order = torch.cat([batch.labels for batch in epoch])
    expected = augmentation.augment(images[order], augmentation.draw(CIFAR10(), 0, 1, 50), CIFAR10())
    assert torch.equal(torch.cat([batch.inputs for batch in epoch]), expected.inputs)


@pytest.mark.parametrize("start", [(1, 1), (1, 3), (1, 4), (2, 0), (2, 2)])
def test_from_any_step_on_the_batches_are_those_of_an_undisturbed_run(start):
    images = photographs(50)
    undisturbed = list(batches(config(), images, "cpu", (1, 0)))
    rest = list(batches(config(), images, "cpu", start))
    skipped = (start[0] - 1) * 4 + start[1]
    assert len(rest) == 8 - skipped
    assert all(map(same, rest, undisturbed[skipped:]))


def test_worker_processes_give_the_same_batches():
    images = photographs(50)
    expected = list(batches(config(), images, "cpu", (1, 1)))
    loaded = list(batches(config(dataloader={"num_workers": 2}), images, "cpu", (1, 1)))
    assert len(loaded) == len(expected)
    assert all(map(same, loaded, expected))
