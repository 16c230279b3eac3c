"""Which digits are overlaid."""

from typing import Any

import numpy as np
import pytest
import torch

from capsnet.images import DataError
from capsnet.pairing import partners
from capsnet.randomness import generator

LABELS = torch.tensor([3, 0, 3, 9, 0, 3, 3, 9, 3, 0])  # of unequal number, and with classes that are absent


class Always:
    """A generator that draws the same place for every image."""

    def __init__(self, place):
        self.place = place

    def integers(self, low, high):
        assert low == 0
        assert (self.place < high).all()
        return np.full(len(high), self.place)


def always(place) -> Any:
    return Always(place)


@pytest.mark.parametrize("image", range(len(LABELS)))
def test_each_image_of_another_class_can_be_drawn_and_by_one_place_only(image):
    others = (LABELS[image] != LABELS).nonzero().flatten().tolist()
    order = torch.tensor([image])
    drawn = [int(partners(LABELS, order, always(place))) for place in range(len(others))]
    assert sorted(drawn) == others


def test_no_image_is_overlaid_with_one_of_its_class():
    labels = torch.from_numpy(generator(0, "labels").integers(0, 10, 5000))
    order = torch.from_numpy(generator(0, "order").permutation(5000))
    assert (labels[partners(labels, order, generator(0, "partners"))] != labels[order]).all()


def test_all_images_of_other_classes_are_drawn_alike():
    draws = 20_000
    found = partners(LABELS, torch.zeros(draws, dtype=torch.int64), generator(0, "partners"))
    counts = found.bincount(minlength=len(LABELS)).double()
    others = LABELS[0] != LABELS
    expected = draws / int(others.sum())
    assert (counts[~others] == 0).all()
    assert ((counts[others] - expected).abs() < 5 * expected**0.5).all()


def test_the_partners_of_two_images_are_independent():
    labels = torch.arange(10)
    order = torch.tensor([0, 1]).repeat(5000)
    first, second = partners(labels, order, generator(0, "partners")).view(-1, 2).unbind(1)
    together = torch.bincount(first * 10 + second, minlength=100).view(10, 10)
    assert (together[1:, 0] > 0).all()
    assert (together[2:, 2:] > 0).all()


def test_the_generator_decides():
    order = torch.arange(10)
    drawn = [partners(LABELS, order, generator(seed, "partners")) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_two_classes_are_enough_and_one_is_an_error():
    labels = torch.tensor([4, 4, 7])
    assert partners(labels, torch.tensor([0, 1]), generator(0, "partners")).tolist() == [2, 2]
    with pytest.raises(DataError, match="all 2 images show a 4") as caught:
        partners(labels[:2], torch.tensor([0]), generator(0, "partners"))
    assert "\n" not in str(caught.value)
