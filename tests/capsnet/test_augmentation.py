"""Letters of shapes: B batch, C channels, H height, W width."""

import pytest
import torch

from capsnet import augmentation


def shifted_slowly(image, down, right):
    """One image [C, H, W], pixel by pixel."""
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
