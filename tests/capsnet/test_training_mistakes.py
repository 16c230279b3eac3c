"""Mistakes that other implementations make in their training loop, each held off by a test.

Their numbers count fifteen such mistakes; the others concern the network itself.
"""

import pytest
import torch

from capsnet.augmentation import shift
from capsnet.batches import Course
from capsnet.config import MNIST
from capsnet.datasets import shape
from capsnet.history import results
from capsnet.images import Images, Splits
from capsnet.models import CapsNet, build
from capsnet.training import train


@pytest.fixture
def seen():
    """List each forward pass's input, in order: (in training mode?, pixels [B, C, H, W])."""
    batches = []

    def note(module, inputs):
        if isinstance(module, CapsNet):
            batches.append((module.training, inputs[0].clone()))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    yield batches
    hook.remove()


def end_of(config, splits):
    """Train to the end and return the last progress."""
    *_, progress = train(config, splits=splits)
    return progress


def uint8(pixels):
    return (pixels * 255).round().to(torch.uint8)


def test_9_test_and_validation_images_are_never_shifted(tiny_config, tiny_splits, seen):
    end_of(tiny_config(num_epochs=2), tiny_splits)
    shown = torch.cat([pixels for training, pixels in seen if not training])
    assert tiny_splits.validation is not None
    expected = torch.cat([tiny_splits.validation.images, tiny_splits.test.images])
    assert torch.equal(uint8(shown), expected.repeat(2, 1, 1, 1))


def test_9_each_training_image_of_a_batch_is_shifted_by_itself(tiny_config, tiny_splits, seen):
    end_of(tiny_config(num_epochs=1), tiny_splits)
    _, batch = seen[0]
    ways = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3))
    found = set()
    for image in uint8(batch):
        shifted = [shift(tiny_splits.train.images, way.expand(50, 2), 2) for way in ways]
        matches = [i for i, images in enumerate(shifted) if (images == image).flatten(1).all(1).any()]
        assert len(matches) == 1
        found.update(matches)
    assert len(found) > 5


def test_10_every_parameter_moves(tiny_config, tiny_splits):
    config = tiny_config(num_epochs=1)
    before = build(config, shape(config.dataset)).state_dict()
    after = end_of(config, tiny_splits).snapshot()["model"]
    assert before.keys() == after.keys()
    for name, weights in before.items():
        assert not torch.equal(weights, after[name]), name


def test_11_the_last_batch_is_trained_on_and_weighs_by_its_images(tiny_config, tiny_splits, seen):
    config = tiny_config(
        num_epochs=1,
        dataset={"shift": 0, "validation": 0},
        loss={"with_reconstruction": False},
        model={"decoder": {"hidden": [512, 1024]}},
        optim={"lr": 1e-12},  # the network stays what it is, so both ways to measure must agree
    )
    train_as_test = Splits(tiny_splits.train, None, tiny_splits.train)
    metrics = end_of(config, train_as_test).metrics
    assert metrics is not None
    sizes = [len(pixels) for training, pixels in seen if training]
    assert sizes == [16, 16, 16, 2]
    one_by_one = end_of(config.model_copy(update={"batch_size": 1}), train_as_test).metrics
    assert one_by_one is not None
    for name in ("train/loss", "train/accuracy", "test/loss", "test/accuracy"):
        assert metrics[name] == pytest.approx(one_by_one["test/" + name.split("/")[1]], rel=1e-5)


def test_12_the_test_set_has_no_say_in_what_is_best(tiny_config, tiny_splits):
    config = tiny_config(num_epochs=8)
    wrong = Images(tiny_splits.test.images, (tiny_splits.test.labels + 1) % 10)
    other = Splits(tiny_splits.train, tiny_splits.validation, wrong)
    one, two = (end_of(config, splits).snapshot() for splits in (tiny_splits, other))
    assert [row["test/accuracy"] for row in one["history"]] != [
        row["test/accuracy"] for row in two["history"]
    ]
    assert one["best"]["epoch"] == two["best"]["epoch"]
    assert all(torch.equal(value, two["best"]["model"][name]) for name, value in one["best"]["model"].items())


def test_12_the_result_is_the_last_epochs_and_apart_the_one_that_validation_chose():
    history = [
        {"epoch": 1, "validation/accuracy": 0.8, "test/accuracy": 0.99},
        {"epoch": 2, "validation/accuracy": 0.9, "test/accuracy": 0.95},
        {"epoch": 3, "validation/accuracy": 0.7, "test/accuracy": 0.96},
    ]
    figures = results(history)
    assert figures["test/accuracy"] == 0.96
    assert figures["best/test/accuracy"] == 0.95
    assert 0.99 not in figures.values()


def test_14_every_epoch_visits_every_image_once_in_an_order_of_its_own():
    course = Course(0, torch.zeros(50), batch_size=16, start=(1, 0), num_epochs=3, dataset=MNIST())
    epochs = torch.cat(list(course.orders())).view(3, 50)
    for order in epochs:
        assert torch.equal(order.sort().values, torch.arange(50))
        assert not torch.equal(order, torch.arange(50))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


def test_14_labels_stay_with_their_images(tiny_config, tiny_splits, seen):
    from capsnet.batches import batches

    config = tiny_config(num_epochs=1, dataset={"shift": 0})
    for batch in batches(config, tiny_splits.train, "cpu", (1, 0)):
        for image, label in zip(batch.inputs * 255, batch.labels, strict=True):
            place = (tiny_splits.train.images == image.round()).flatten(1).all(1)
            assert tiny_splits.train.labels[place].tolist() == [label]


def test_15_the_optimizer_lives_through_all_epochs(tiny_config, tiny_splits):
    config = tiny_config(num_epochs=3)
    states = end_of(config, tiny_splits).snapshot()["optimizer"]["state"]
    assert {float(state["step"]) for state in states.values()} == {12.0}
