"""The networks against the reference, their sizes, and what their weights depend on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from capsnet import geometry, models, objective, reference
from capsnet.augmentation import Batch
from capsnet.config import Config
from capsnet.images import ImageShape
from capsnet.losses import margin_loss, reconstruction_loss

pytestmark = pytest.mark.usefixtures("one_thread")

MNIST = ImageShape(channels=1, height=28, width=28, classes=10)
AUTHORS = {"primary_routing": "softmax", "class_bias": True, "init": "authors"}

VARIANTS = [
    {},
    {"route_iters": 1},
    {"route_iters": 2, "preset": "authors"},
    {"route_iters": 5},
    {"model": {"routing": {"gradient": "detached"}}},
    {"model": {"class_bias": True, "routing": {"gradient": "detached"}}, "route_iters": 2},
    {"model": AUTHORS, "loss": {"margin": "authors", "rc_loss_weight": 0.3}},
    {"loss": {"rc_loss_weight": 0.02}},
    {"loss": {"with_reconstruction": False}},
    {"model": {"none_of_the_above": True}},
    {"model": {"none_of_the_above": True, "class_bias": True, "routing": {"gradient": "detached"}}},
    {"model": {"routing": {"name": "attention"}}},
    {"model": {"routing": {"name": "attention"}, "class_bias": True, "primary_routing": "softmax"}},
    {"model": {"padding": "same"}},
    {"model": {"padding": "same", "kernel_size": 4}},
    {"model": {"primary_padding": "same"}},
    {"model": {"padding": "same", "primary_padding": "same", "kernel_size": 4}},
    {"model": {"none_of_the_above": True}, "preset": "authors"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str)
def test_loss_and_gradients_are_those_of_the_reference(
    variant, dtype, tolerance, small_config, small_network, small_batch, arrays, settings, relative_error
):
    config, network = small_config(**variant), small_network(**variant).to(dtype)
    images, labels = small_batch[0].to(dtype), small_batch[1]
    expected = reference.losses(arrays(network), images.double().numpy(), labels.numpy(), settings(config))
    measured = objective.measure(network, Batch(images, images, labels), config, training=True)
    measured.loss.mean().backward()
    assert relative_error(measured.loss.mean(), expected.loss) < tolerance
    assert relative_error(measured.class_loss, expected.margin) < tolerance
    if expected.reconstruction is None:
        assert not measured.reconstruction_loss.any()
    else:
        assert relative_error(measured.reconstruction_loss, expected.reconstruction) < tolerance
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert gradients.keys() == expected.gradients.keys()
    errors = {
        name: relative_error(gradient, expected.gradients[name]) for name, gradient in gradients.items()
    }
    assert max(errors.values()) < tolerance, errors


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_capsules_and_lengths_are_those_of_the_reference(
    variant, small_config, small_network, small_batch, arrays, settings, relative_error
):
    network = small_network(**variant)
    output = network(small_batch[0])
    expected = reference.forward(arrays(network), small_batch[0].numpy(), settings(small_config(**variant)))
    assert relative_error(output.capsules, expected.capsules) < 1e-10
    assert relative_error(output.lengths, expected.lengths) < 1e-10


@pytest.mark.parametrize("preset", ["paper", "authors"])
def test_the_full_mnist_network_is_that_of_the_reference(preset, arrays, settings, relative_error):
    config = Config(preset=preset)
    network = models.build(config, MNIST)
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        single = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(images)
        double = network.double()(images.double())
    expected = reference.forward(arrays(network), images.double().numpy(), settings(config))
    assert relative_error(double.capsules, expected.capsules) < 1e-10
    assert relative_error(single.capsules, expected.capsules) < 1e-4
    assert relative_error(half.capsules, expected.capsules) < 0.02


MULTI_MNIST = ImageShape(channels=1, height=36, width=36, classes=10, labels=2)
WITHOUT = {"loss": {"with_reconstruction": False}}


@pytest.mark.parametrize(
    ("keys", "shape", "count"),
    [
        ({}, MNIST, 8_215_568),
        (WITHOUT, MNIST, 6_804_224),
        ({"model": {"decoder": {"name": "none"}}}, MNIST, 6_804_224),
        ({"model": {"class_bias": True}}, MNIST, 8_215_728),
        ({"preset": "authors"}, MNIST, 8_215_728),
        ({"model": {"none_of_the_above": True}}, MNIST, 8_215_568),
        ({"model": {"primary_padding": "same"}}, MNIST, 8_215_568 + (10**2 - 6**2) * 32 * 1280),
        ({"model": {"routing": {"name": "attention"}}}, MNIST, 8_215_568),
        ({"model": {"routing": {"name": "self"}}}, MNIST, 8_215_568 + 1152 * 10 * (8 + 1)),
        ({"model": {"routing": {"name": "self"}}, **WITHOUT}, MNIST, 6_804_224 - 1_474_560 + 103_680),
        ({"model": {"decoder": {"name": "deconv"}}}, MNIST, 6_804_224 + 250_121),
        ({"model": {"decoder": {"name": "deconv", "batch_norm": True}}}, MNIST, 6_804_224 + 251_033),
        ({"model": {"name": "efficient_capsnet"}, **WITHOUT}, MNIST, 161_824),
        ({"model": {"name": "efficient_capsnet"}}, MNIST, 161_824 + 1_411_344),
        ({"model": {"name": "cnn"}}, MNIST, 35_445_522),
        (
            {
                "dataset": {"name": "multi_mnist"},
                "model": {
                    "name": "cnn",
                    "conv_channels": [512, 256],
                    "kernel_sizes": [9, 5],
                    "pool": 2,
                    "hidden": [1024],
                },
            },
            MULTI_MNIST,
            24_563_978,
        ),
    ],
)
def test_networks_have_exactly_as_many_parameters_as_published(keys, shape, count):
    network = models.build(Config.model_validate(keys), shape)
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert sum(layer.parameters for layer in models.layers(network, shape)) == count


def test_layers_lists_what_an_image_passes():
    rows = models.layers(models.build(Config(), MNIST), MNIST)
    assert [(row.name, row.output, row.parameters) for row in rows] == [
        ("conv", (256, 20, 20), 20_992),
        ("primary", (1152, 8), 5_308_672),
        ("classes", (10, 16), 1_474_560),
        ("decoder.layers.0", (512,), 82_432),
        ("decoder.layers.1", (1024,), 525_312),
        ("decoder.layers.2", (784,), 803_600),
    ]
    assert [row.kind for row in rows[:4]] == ["Conv2d", "PrimaryCapsules", "ClassCapsules", "Linear"]


def test_layers_leaves_no_hook_behind(small_network, small_shape):
    network = small_network().float()
    assert len(models.layers(network, small_shape)) == len(models.layers(network, small_shape))
    assert not any(module._forward_hooks for module in network.modules())


@hypothesis_settings(deadline=None, max_examples=40)
@given(
    height=st.integers(5, 12),
    width=st.integers(5, 12),
    channels=st.integers(1, 4),
    classes=st.integers(1, 5),
    batch=st.integers(1, 3),
    iterations=st.integers(1, 10),
    half=st.booleans(),
    model=st.sampled_from(
        [
            {},
            {"none_of_the_above": True},
            {"routing": {"name": "attention"}},
            {"routing": {"name": "self"}},
            {"padding": "same", "decoder": {"name": "deconv"}},
            {"decoder": {"hidden": [4], "batch_norm": True}},
        ]
    ),
)
def test_any_size_of_image_and_batch_and_any_routing_count(
    height, width, channels, classes, batch, iterations, half, model, small_config
):
    shape = ImageShape(channels, height, width, classes)
    network = models.build(small_config(model, route_iters=iterations), shape)
    images = torch.rand(batch, channels, height, width)
    labels = torch.arange(batch) % classes
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        output = network(images)
        reconstructions = network.reconstruct(output.capsules, labels)
    assert output.capsules.shape == (batch, classes, 6)
    assert output.lengths.shape == (batch, classes)
    assert reconstructions.shape == images.shape
    assert (output.lengths >= 0).all()
    if output.logits is None:
        assert (output.lengths < 1).all()
    else:  # shares, of a single class all there is
        torch.testing.assert_close(output.lengths.sum(1), torch.ones(batch))
    loss = margin_loss(output.lengths, labels).sum() + reconstruction_loss(reconstructions, images).sum()
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    ("kernel_size", "height", "width", "arithmetic"),
    [
        (
            9,
            16,
            28,
            r"16×28 pixels: 16 - 9 \+ 1 = 8 after the first .*, \(8 - 9\) // 2 \+ 1 = 0 .* least 17 ",
        ),
        (9, 28, 8, r"28×8 pixels: 8 - 9 \+ 1 = 0 after the first .*, \(0 - 9\) // 2 \+ 1 = -4 .* least 17 "),
    ],
)
def test_images_that_are_too_small_are_refused_with_the_arithmetic(kernel_size, height, width, arithmetic):
    config = Config.model_validate({"model": {"kernel_size": kernel_size}})
    with pytest.raises(ValueError, match=arithmetic):
        models.build(config, ImageShape(1, height, width, 10))


@hypothesis_settings(deadline=None, max_examples=15)
@given(
    down=st.integers(0, 3),
    right=st.integers(0, 3),
    kernel=st.integers(1, 4),
    height=st.integers(13, 16),
    width=st.integers(13, 16),
    half=st.booleans(),
)
def test_an_image_shifted_by_the_stride_has_its_primary_capsules_shifted_by_one(
    down, right, kernel, height, width, half, small_config
):
    shape = ImageShape(1, height, width, 3)
    network = models.build(small_config({"kernel_size": kernel}), shape)
    assert isinstance(network, models.CapsNet)
    image = torch.rand(1, 1, height + 2 * down, width + 2 * right, generator=torch.Generator().manual_seed(0))
    upper_left, lower_right = image[..., :height, :width], image[..., 2 * down :, 2 * right :]
    grid = geometry.chain(small_config({"kernel_size": kernel}).model).grids(height, width)[-1]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        first, second = (
            network.primary_capsules(cut).unflatten(1, (*grid, 4)) for cut in (upper_left, lower_right)
        )
    rows, columns = grid[0] - down, grid[1] - right
    torch.testing.assert_close(
        first[:, down:, right:], second[:, :rows, :columns], atol=1e-2 if half else 1e-6, rtol=1e-4
    )


def test_weights_are_a_function_of_the_seed_alone(small_config, small_shape):
    def weights(seed: int, **keys) -> dict[str, torch.Tensor]:
        return models.build(small_config(seed=seed, **keys), small_shape).state_dict()

    torch.manual_seed(1)
    first = weights(7)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = weights(7)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], value) for name, value in weights(7 + 2**32).items())
    without_decoder = weights(7, loss={"with_reconstruction": False})
    assert all(torch.equal(first[name], value) for name, value in without_decoder.items())


def test_the_papers_weights_are_normal_in_w_and_uniform_elsewhere():
    network = models.build(Config(), MNIST)
    for name, parameter in network.named_parameters():
        if name == "classes.weight":  # W ~ N(0, 0.1²)
            assert parameter.std().item() == pytest.approx(0.1, rel=0.01)
            assert parameter.mean().item() == pytest.approx(0, abs=0.001)
            assert parameter.abs().max() > 0.4  # not cut off
        elif name.endswith("weight"):  # U(±1/√fan_in)
            bound = parameter[0].numel() ** -0.5
            assert 0.99 * bound < parameter.abs().max() <= bound, name
            assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.02), name


def test_the_authors_weights_are_cut_off_at_two_standard_deviations():
    network = models.build(Config(preset="authors"), MNIST)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert (parameter == torch.tensor(0.1)).all(), name
        else:
            std = 0.05 if name == "conv.weight" else 0.1
            assert 1.9 * std < parameter.abs().max() <= 2 * std + 1e-6, name
            # 0.8796 is the standard deviation of a standard normal cut off at ±2.
            assert parameter.std().item() == pytest.approx(0.8796 * std, rel=0.02), name


def test_the_first_convolution_gives_channels_last(small_config, small_shape):
    network = models.build(small_config(), small_shape)
    assert isinstance(network, models.CapsNet)
    images = torch.rand(2, small_shape.channels, small_shape.height, small_shape.width)
    assert network.conv(images).is_contiguous(memory_format=torch.channels_last)


def test_a_network_without_decoder_says_so(small_network, small_batch):
    network = small_network(loss={"with_reconstruction": False})
    assert network.decoder is None
    with pytest.raises(ValueError, match="built without a decoder"):
        network.reconstruct(network(small_batch[0]).capsules, small_batch[1])


def test_a_saved_network_loads_into_a_fresh_one(small_config, small_shape, tmp_path):
    saved = models.build(small_config(seed=1), small_shape)
    torch.save(saved.state_dict(), tmp_path / "weights.pt")
    loaded = models.build(small_config(seed=2), small_shape)
    loaded.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    images = torch.rand(3, small_shape.channels, small_shape.height, small_shape.width)
    assert torch.equal(saved(images).capsules, loaded(images).capsules)
