"""How the benches of training measure."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from measure import Measured, Times, costs
from ordinary import Training
from variants import MODELS, PRECISIONS, Convolutions, Product, Steps, Variant, applied, noise, training

from capsnet import datasets, models

# Operations for one image of the paper's network, forward and backward, counted by hand.
FIRST = 2 * 20 * 20 * 256 * 81 * 2  # no gradient of the image
SECOND = 2 * 6 * 6 * 256 * 256 * 81 * 3
ALL = 1201.5e6
SMALL = {
    "capsnet": ("model.conv_channels=4", "model.primary_types=2", "model.decoder.hidden=[8]"),
    "ordinary": ("model.conv_channels=4", "model.primary_types=2", "model.decoder.hidden=[8]"),
    "efficient_capsnet": ("model.conv_channels=[4,4,4,16]", "model.decoder.hidden=[8]"),
    "matrix_capsnet": ("model.conv_channels=4", "model.primary_types=2", "model.capsule_types=[2,2]"),
    "cnn": ("model.conv_channels=[4,4,4]", "model.hidden=[8]"),
}


def small(model: str, precision: str = "float32", *overrides: str) -> Variant:
    sizes = ("threads=1", "use_cuda=false", "batch_size=2", *SMALL[model], *overrides)
    return Variant(model, precision, overrides=sizes)


class Recorder:
    device = "cpu"

    def __init__(self, note: Callable[[], None]) -> None:
        self.step = note


def test_all_are_measured_in_turn_round_by_round() -> None:
    done: list[str] = []
    recorders: dict[str, Measured] = {name: Recorder(lambda name=name: done.append(name)) for name in "ab"}
    found = costs(recorders, rounds=3, steps=2)
    assert "".join(done) == "aabb" + "aabb" * 3  # to warm up, then as it counts
    assert [len(cost.times.seconds) for cost in found.values()] == [3, 3]


def test_median_and_quartiles_are_those_of_the_seconds() -> None:
    times = Times((5.0, 1.0, 4.0, 2.0, 3.0))
    assert (times.median, times.quartiles) == (3.0, (2.0, 4.0))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_product_counts_two_operations_for_each_pair_of_numbers(precision: str) -> None:
    found = costs({"product": Product(16, "cpu", precision)}, rounds=2, steps=1)
    assert found["product"].flop == 2 * 16**3


def test_the_papers_network_has_the_operations_that_a_count_by_hand_has() -> None:
    overrides = ("threads=1", "use_cuda=false", "batch_size=2")
    settings = Variant("capsnet", "float32", overrides=overrides).config()
    found = costs(
        {
            "capsnet": training(Variant("capsnet", "float32", overrides=overrides)),
            "ordinary": training(Variant("ordinary", "float32", overrides=overrides)),
            "convolutions": Convolutions(settings, "float32"),
        },
        rounds=2,
        steps=1,
    )
    assert found["convolutions"].flop == 2 * (FIRST + SECOND)
    assert found["ordinary"].flop / 2 == pytest.approx(ALL, rel=0.01)
    again = found["capsnet"].flop / 2 / ALL  # products with W that are made again, where û is never formed
    assert 1 < again < 1.05


@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains_on_beyond_the_end_of_an_epoch(model: str) -> None:
    measured = training(small(model))
    assert isinstance(measured, Steps | Training)
    network = measured.learner.network if isinstance(measured, Steps) else measured.network
    before = [parameter.detach().clone() for parameter in network.parameters()]
    for _ in range(18):  # an epoch has 16
        measured.step()
    after = list(network.parameters())
    assert any((new != old).any() for new, old in zip(after, before, strict=True))
    if isinstance(measured, Steps):
        assert (measured.learner.epoch, measured.learner.steps) == (1, 2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_bare_convolutions_are_those_of_the_network_in_the_precision_of_its_steps(precision: str) -> None:
    settings = small("capsnet", precision).config()
    bare = Convolutions(settings, precision)
    bare.step()
    applied(settings)
    network = models.build(settings, datasets.shape(settings.dataset))
    assert isinstance(network, models.CapsNet)
    assert bare.second.shape == network.primary.weight.shape
    assert bare.first.weight.shape == network.conv.weight.shape
    assert bare.second.grad is not None and bare.second.grad.dtype == PRECISIONS[precision]
    assert bare.first.weight.grad is not None and bare.first.weight.grad.abs().sum() > 0


def test_noise_has_the_size_that_augmentation_takes_before_it_crops() -> None:
    images = noise(Variant("cnn", "float32", overrides=("dataset.name=cifar10", "batch_size=2")).config())
    assert images.images.shape == (32, 3, 32, 32)
    assert images.labels.max() == 9
