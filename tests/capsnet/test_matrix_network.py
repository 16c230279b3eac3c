"""The network of matrix capsules: against the plain loops, its size, its properties, and that it learns."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hardware import PRECISIONS
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnet import em, matrix_network, models, reference_em, training
from capsnet.config import Config, MatrixCapsNetModel, load
from capsnet.geometry import chain
from capsnet.images import Images, ImageShape, Splits
from capsnet.losses import spread_loss
from capsnet.matrix_network import MatrixCapsNet

pytestmark = pytest.mark.usefixtures("one_thread")

SMALLNORB = ImageShape(channels=2, height=32, width=32, classes=5)
SMALL = ImageShape(channels=2, height=21, width=17, classes=3)
SIZES = {"conv_channels": 5, "primary_types": 3, "capsule_types": [2, 3]}


def config_of(**keys) -> Config:
    model = {"name": "matrix_capsnet", **SIZES, **keys.pop("model", {})}
    return Config.model_validate({"model": model, **keys})


def build(shape: ImageShape = SMALL, **keys) -> MatrixCapsNet:
    network = models.build(config_of(**keys), shape)
    assert isinstance(network, MatrixCapsNet)
    return network


def images_of(shape: ImageShape, count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.rand(count, shape.channels, shape.height, shape.width, generator=generator, dtype=dtype)


def gradients_of(network: MatrixCapsNet) -> list[torch.Tensor]:
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None for gradient in gradients)
    return [gradient for gradient in gradients if gradient is not None]


@pytest.fixture
def uneven():
    """Function that sets the β of a network to different numbers, as training would."""

    def change(network: MatrixCapsNet) -> MatrixCapsNet:
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if "beta" in name:
                    parameter.add_(torch.linspace(-0.5, 0.7, parameter.numel()))
        return network

    return change


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"route_iters": 1},
        {"route_iters": 5},
        {"model": {"coordinates": False}},
        {"model": {"capsule_types": [4]}},
    ],
    ids=str,
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str)
def test_class_capsules_are_those_of_the_plain_loops(variant, dtype, tolerance, uneven, relative_error):
    network = uneven(build(**variant)).to(dtype)
    images = images_of(SMALL, 2, dtype)
    output = network(images)
    config = config_of(**variant)
    assert isinstance(config.model, MatrixCapsNetModel)
    parameters = {name: value.detach().double().numpy() for name, value in network.named_parameters()}
    *_, (rows, columns) = chain(config.model).grids(SMALL.height, SMALL.width)
    centres = np.zeros((rows, columns, 2), np.float32)  # as the network keeps them
    if config.model.coordinates:
        jump, first = 4, 4.5 if len(config.model.capsule_types) == 1 else 8.5  # in pixels
        centres[..., 0] = (first + jump * np.arange(rows)[:, None]) / SMALL.height
        centres[..., 1] = (first + jump * np.arange(columns)) / SMALL.width
    for image, poses, active in zip(images, output.capsules, output.lengths, strict=True):
        expected = reference_em.forward(parameters, image.double().numpy(), centres, config.route_iters)
        assert relative_error(poses, expected.poses.reshape(3, 16)) < tolerance
        assert relative_error(active, expected.activations.reshape(3)) < tolerance


def test_parameters_are_those_counted_from_the_text():
    network = models.build(
        config_of(model={"conv_channels": 32, "primary_types": 32, "capsule_types": [32, 32]}), SMALLNORB
    )
    rows = models.layers(network, SMALLNORB)
    assert [(row.name, row.output, row.parameters) for row in rows] == [
        ("conv", (32, 14, 14), 1_632),
        ("primary", (14, 14, 32, 17), 17_952),
        ("layers.0", (6, 6, 32, 17), 147_520),
        ("layers.1", (4, 4, 32, 17), 147_520),
        ("classes", (1, 1, 5, 17), 2_570),
    ]
    assert sum(parameter.numel() for parameter in network.parameters()) == 317_194
    matrices = [parameter for name, parameter in network.named_parameters() if name.endswith("weight")]
    assert sum(parameter.numel() for parameter in matrices) == 316_480


def test_coordinates_are_the_centres_of_what_the_last_capsules_see():
    """32 pixels: 5 with stride 2, 3 with stride 2, 3: the first capsule sees pixels 0 to 16."""
    offsets = matrix_network.coordinates(MatrixCapsNetModel(), SMALLNORB).view(4, 4, 4, 4)
    steps = torch.tensor([8.5, 12.5, 16.5, 20.5]) / 32
    torch.testing.assert_close(offsets[:, 1, 0, 3], steps)
    torch.testing.assert_close(offsets[2, :, 1, 3], steps)
    offsets[:, :, :2, 3] = 0
    assert not offsets.any()


def test_an_image_changes_only_the_capsules_that_see_the_place():
    network = build(SMALLNORB)
    images = images_of(SMALLNORB, 1)
    corner = images.clone()
    corner[:, :, 0, 0] += 1
    primary = [network.primary(network.conv(pixels).relu()) for pixels in (images, corner)]
    changed = (primary[0] != primary[1]).flatten(3).any(3)[0]
    assert changed.nonzero().tolist() == [[0, 0]]


@settings(deadline=None, max_examples=15)
@given(
    height=st.integers(17, 24),
    width=st.integers(17, 24),
    channels=st.integers(1, 3),
    classes=st.integers(1, 4),
    batch=st.integers(1, 3),
    iterations=st.integers(1, 5),
    half=st.booleans(),
)
def test_any_size_of_image_and_batch_and_any_routing_count(
    height, width, channels, classes, batch, iterations, half
):
    shape = ImageShape(channels, height, width, classes)
    network = build(shape, route_iters=iterations)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        output = network(images_of(shape, batch))
    assert output.capsules.shape == (batch, classes, 16) and output.capsules.dtype == torch.float32
    assert output.lengths.shape == (batch, classes) and output.lengths.dtype == torch.float32
    assert ((output.lengths >= 0) & (output.lengths < 1)).all()
    loss = spread_loss(output.lengths, torch.arange(batch) % classes, 0.9).sum()
    gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


def test_activations_stay_below_1_where_rounding_would_reach_it():
    network = build()
    with torch.no_grad():
        network.classes.beta_a.fill_(1e4)
        lengths = network(images_of(SMALL, 1)).lengths
    assert (lengths < 1).all() and (lengths > 0.999).all()


@pytest.mark.parametrize("level", [0.0, -1e4, 1e4])
def test_primary_capsules_may_all_be_off_or_on(level):
    network = build()
    with torch.no_grad():
        network.primary.bias.view(3, 17)[:, 16] = level
    output = network(images_of(SMALL, 2))
    (output.lengths.sum() + output.capsules.sum()).backward()
    assert output.capsules.isfinite().all() and output.lengths.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients_of(network))


def test_every_parameter_has_a_gradient_that_is_not_zero():
    network = build()
    spread_loss(network(images_of(SMALL, 3)).lengths, torch.arange(3), 0.9).sum().backward()
    assert all(gradient.any() for gradient in gradients_of(network))


def test_an_image_does_not_depend_on_its_batch_mates():
    network = build().double()
    images = images_of(SMALL, 4, torch.float64)
    together = network(images)
    for number, image in enumerate(images):
        alone = network(image[None])
        torch.testing.assert_close(alone.capsules[0], together.capsules[number], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(alone.lengths[0], together.lengths[number], rtol=1e-12, atol=1e-12)


def test_routing_in_parts_gives_the_same_outputs_and_gradients():
    network = build().double()
    images, labels = images_of(SMALL, 5, torch.float64), torch.arange(5) % 3

    def results() -> list[torch.Tensor]:
        lengths = network(images).lengths
        return [
            lengths,
            *torch.autograd.grad(spread_loss(lengths, labels, 0.9).sum(), list(network.parameters())),
        ]

    whole = results()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(em.VOTE_BYTES, "cpu", 1)
        parts = results()
        with torch.no_grad():
            torch.testing.assert_close(network(images).lengths, whole[0])
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    shape = ImageShape(channels=1, height=9, width=9, classes=2)
    network = build(shape, model={"conv_channels": 2, "primary_types": 2, "capsule_types": [2]}).double()
    images = images_of(shape, 1, torch.float64)
    names, values = zip(*network.named_parameters(), strict=True)
    chosen = [
        name for name in names if name.startswith("classes") or "beta" in name or name == "primary.bias"
    ]

    def outputs(*parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = torch.func.functional_call(network, dict(zip(chosen, parameters, strict=True)), (images,))
        return output.capsules, output.lengths

    leaves = [value for name, value in zip(names, values, strict=True) if name in chosen]
    assert torch.autograd.gradcheck(outputs, leaves)


def test_routing_is_in_float32_under_autocast():
    network = build()
    capsules = network.primary(network.conv(images_of(SMALL, 2)).relu())
    with torch.autocast("cpu", torch.bfloat16):
        half = network.layers[0](capsules)
    assert torch.equal(half, network.layers[0](capsules))


def test_weights_survive_channels_last_and_depend_on_the_seed_alone():
    first, second, other = build(seed=1), build(seed=1), build(seed=2)
    assert all(weight.is_contiguous() for name, weight in first.named_parameters() if "layers" in name)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.classes.weight, other.classes.weight)


def test_images_that_are_too_small_are_refused_with_the_arithmetic():
    with pytest.raises(ValueError, match=r"16×12 pixels: .* least 17 pixels a side"):
        build(ImageShape(1, 16, 12, 3))


def patterns(count: int, seed: int) -> Images:
    """Two cameras that see noise around one of five patterns, as in SmallNORB's shape."""
    templates = np.random.default_rng(7).integers(0, 200, (5, 2, 20, 20))
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 5
    pixels = templates[labels] + random.integers(0, 56, (count, 2, 20, 20))
    return Images(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels))


@pytest.fixture
def pattern_config():
    """SmallNORB's keys on small images, an epoch in five steps."""
    keys = {
        "num_epochs": 20,
        "batch_size": 20,
        "threads": 1,
        "use_cuda": False,
        "dataset": {"name": "smallnorb", "size": 24, "crop": 20},
        "route_iters": 2,
        "model": {"conv_channels": 8, "primary_types": 4, "capsule_types": [6]},
        "optim": {"lr": 0.01},
        "loss": {"name": "spread", "rising_epochs": 3},
    }
    return lambda **other: config_of(**(keys | other))


@pytest.fixture
def pattern_splits() -> Splits:
    train = patterns(100, seed=0)
    pad = (2, 2, 2, 2)  # training images are cropped at random
    return Splits(
        Images(torch.nn.functional.pad(train.images, pad), train.labels), None, patterns(50, seed=1)
    )


def test_training_lowers_the_test_loss(pattern_config, pattern_splits):
    rows = [
        progress.metrics
        for progress in training.train(pattern_config(), splits=pattern_splits, interval_seconds=60)
        if progress.metrics is not None
    ]
    assert rows[-1]["test/loss"] < 0.5 * rows[0]["test/loss"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_goes_on_in_mid_epoch_bit_for_bit(pattern_config, pattern_splits, precision):
    config = pattern_config(num_epochs=2, precision=precision)
    undisturbed = list(islice(training.train(config, splits=pattern_splits, interval_seconds=0), 8))
    started = training.train(config, splits=pattern_splits, interval_seconds=0)
    state = next(islice(started, 2, None)).snapshot()
    assert (state["epoch"], state["step"]) == (0, 3)
    resumed = training.train(config, state, pattern_splits, interval_seconds=0)
    assert [progress.loss for progress in islice(resumed, 5)] == [p.loss for p in undisturbed[3:]]


@pytest.mark.slow
def test_the_experiment_on_digits_learns():
    """Only 8 of its 40 epochs are trained; digits_em.yaml names the accuracy after all of them."""
    file = Path(__file__).parents[2] / "experiments" / "digits_em.yaml"
    config = load(file, ["num_epochs=8", "threads=1", "use_cuda=false"])
    *_, last = training.train(config)
    assert last.metrics is not None
    assert last.metrics["test/accuracy"] > 0.9
