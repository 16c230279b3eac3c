"""MultiMNIST: pairs of digits, from the files to trained networks."""

import itertools

import numpy as np
import pytest
import small_mnist
import torch

from capsnet import augmentation, batches, datasets, evaluation, multi_mnist, objective
from capsnet.augmentation import Batch, overlaid
from capsnet.batches import Course
from capsnet.config import Config, MultiMNIST
from capsnet.execution import resolve
from capsnet.images import DataError, Images, ImageShape, Splits
from capsnet.losses import margin_loss, reconstruction_loss
from capsnet.models import build
from capsnet.multi_mnist import pairs
from capsnet.network import Network, Output
from capsnet.objective import predicted
from capsnet.training import train

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"conv_channels": 8, "primary_types": 2, "decoder": {"hidden": [16]}}


def load(root, seed=0, **keys):
    return datasets.load(MultiMNIST(root=str(root), **keys), seed)


def digits(count, pad=4, seed=0):
    """Signs in a frame of `pad` pixels, one class each."""
    labels = np.arange(count) * 7 % 10
    pixels = np.pad(small_mnist.signs(labels, seed), ((0, 0), (pad, pad), (pad, pad)))
    return Images(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels))


def small_config(**keys):
    defaults = {
        "batch_size": 16,
        "num_epochs": 2,
        "threads": 1,
        "use_cuda": False,
        "dataset": {"name": "multi_mnist"},
        "model": SMALL,
    }
    return Config.model_validate(defaults | keys)


@pytest.fixture(scope="module")
def splits():
    """50 digits to train on, 12 pairs to test."""
    return Splits(digits(50), None, pairs(digits(20, seed=1), 12, pixels=4, seed=0))


# ---- the test set


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """The data set loaded from files of 50 training and 20 test images."""
    root = tmp_path_factory.mktemp("files")
    small_mnist.write(root)
    return load(root)


def trimmed(image):
    """The pixels [H, W] from the first to the last that is not black."""
    rows, columns = image.nonzero().unbind(1)
    return image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def same_digit(image, trimmed_one):
    return torch.equal(trimmed(image), trimmed_one)


def place(image):
    """Where the first pixel of [H, W] is that is not black: down, right."""
    rows, columns = image.nonzero().unbind(1)
    return int(rows.min()), int(columns.min())


def test_the_test_set_is_10000_pairs_of_known_shape(read):
    test = read.test
    assert test.images.shape == (10_000, 1, 36, 36)
    assert test.labels.shape == (10_000, 2)
    assert test.parts is not None
    assert test.parts.shape == (10_000, 2, 1, 36, 36)
    assert (test.images.dtype, test.labels.dtype, test.parts.dtype) == (torch.uint8, torch.int64, torch.uint8)
    held = sum(tensor.nbytes for tensor in (test.images, test.labels, test.parts))
    assert held < 40e6  # bytes
    assert datasets.shape(MultiMNIST()) == ImageShape(1, 36, 36, classes=10, labels=2)


def test_training_images_are_single_digits_in_a_frame(read):
    assert torch.equal(read.train.images, digits(50).images)
    assert read.train.labels.shape == (50,)
    assert read.train.parts is None


def test_the_first_digits_of_the_pairs_are_the_test_images_in_their_order_again_and_again(read):
    originals = digits(20, seed=1)
    assert torch.equal(read.test.labels[:, 0], originals.labels.repeat(500))
    assert read.test.parts is not None
    for number in (0, 1, 19, 20, 9_999):
        expected = trimmed(originals.images[number % 20, 0])
        assert torch.equal(trimmed(read.test.parts[number, 0, 0]), expected)


def test_the_second_digits_are_other_test_images_of_the_labelled_class(read):
    originals = digits(20, seed=1)
    assert (read.test.labels[:, 0] != read.test.labels[:, 1]).all()
    seen = set()
    assert read.test.parts is not None
    for number in range(200):
        found = trimmed(read.test.parts[number, 1, 0])
        alike = [index for index, image in enumerate(originals.images) if same_digit(image[0], found)]
        assert originals.labels[alike].tolist() == [read.test.labels[number, 1]]
        seen.update(alike)
    assert seen == set(range(20))


def test_an_image_is_the_sum_of_its_digits_cut_off_at_white(read):
    assert read.test.parts is not None
    sums = read.test.parts.long().sum(1)
    assert torch.equal(read.test.images.long(), sums.clamp(max=255))
    assert sums.amax() > 255  # or this would show nothing


@pytest.mark.parametrize("pixels", [0, 1, 4])
def test_each_digit_of_a_pair_is_shifted_by_itself_as_far_as_is_said(pixels):
    originals = digits(20)
    found = pairs(originals, 1000, pixels, seed=0)
    assert found.parts is not None
    homes = {
        int(label): place(image[0]) for image, label in zip(originals.images, originals.labels, strict=True)
    }
    moves = []
    for image, label in zip(found.parts[:, :, 0].flatten(0, 1), found.labels.flatten(), strict=True):
        moves.append(np.subtract(place(image), homes[int(label)]))
    moves = np.array(moves).reshape(1000, 4)
    for column in moves.T:
        assert set(column.tolist()) == set(range(-pixels, pixels + 1))
    if pixels:
        assert np.abs(np.corrcoef(moves.T) - np.eye(4)).max() < 0.15


def test_the_pairs_follow_the_test_seed_and_not_the_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(multi_mnist, "TEST_PAIRS", 30)
    small_mnist.write(tmp_path)
    first = load(tmp_path).test
    assert same(load(tmp_path, seed=5).test, first)
    assert not torch.equal(load(tmp_path, test_seed=1).test.labels, first.labels)


def same(one, other):
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def test_a_validation_split_is_of_pairs_of_held_back_digits(tmp_path, monkeypatch):
    monkeypatch.setattr(multi_mnist, "TEST_PAIRS", 30)
    small_mnist.write(tmp_path)
    splits = load(tmp_path, validation=15)
    assert splits.validation is not None
    assert splits.validation.parts is not None
    assert splits.validation.images.shape == (15, 1, 36, 36)
    assert (splits.validation.labels[:, 0] != splits.validation.labels[:, 1]).all()
    trained_on = {trimmed(image[0]).numpy().tobytes() for image in splits.train.images}
    assert not any(trimmed(part[0]).numpy().tobytes() in trained_on for part in splits.validation.parts[:, 1])
    again = load(tmp_path, validation=15).validation
    assert again is not None
    assert same(again, splits.validation)


@pytest.mark.parametrize("validation", [1, 49])
def test_a_split_that_leaves_one_class_is_one_line(tmp_path, monkeypatch, validation):
    monkeypatch.setattr(multi_mnist, "TEST_PAIRS", 30)
    small_mnist.write(tmp_path)
    config = small_config(
        dataset={"name": "multi_mnist", "root": str(tmp_path), "validation": validation},
        loss={"with_reconstruction": False},
        model={"conv_channels": 2, "primary_types": 1},
    )
    with pytest.raises(DataError, match=r"all 1 images show a \d: .* dataset\.validation"):
        next(train(config))


# ---- training pairs


def course(count=50, epochs=3, seed=0, **dataset):
    labels = digits(count).labels
    return Course(seed, labels, 16, (1, 0), epochs, MultiMNIST(**dataset))


def test_an_epoch_has_each_image_once_as_first_digit_with_one_of_another_class():
    labels = digits(50).labels
    orders = torch.cat(list(course().orders())).view(3, 50, 2)
    for epoch in orders:
        assert epoch[:, 0].sort().values.tolist() == list(range(50))
        assert (labels[epoch[:, 0]] != labels[epoch[:, 1]]).all()
    by_image = [dict(epoch.tolist()) for epoch in orders]
    assert by_image[0] != by_image[1] != by_image[2]  # each epoch has partners of its own


def test_another_seed_draws_other_pairs():
    assert not torch.equal(next(course(seed=0).orders())[:, 1], next(course(seed=1).orders())[:, 1])


def test_both_digits_of_an_image_are_shifted_each_by_itself():
    shifts = torch.cat([draws["shifts"] for draws in course(count=2000, epochs=1).draws("cpu")])
    assert shifts.shape == (2000, 2, 2)
    assert (int(shifts.amin()), int(shifts.amax())) == (-4, 4)
    assert (shifts.flatten(1).T.double().corrcoef() - torch.eye(4)).abs().amax() < 0.1
    assert next(course(shift=0).draws("cpu")) == {}


def test_a_training_batch_shows_the_digits_that_it_names():
    config, images = small_config(), digits(50)
    order = next(course().orders())
    batch = next(batches.batches(config, images, "cpu", (1, 0)))
    assert torch.equal(batch.labels, images.labels[order])
    assert batch.inputs.shape == (16, 1, 36, 36)
    assert batch.targets.shape == (16, 2, 1, 36, 36)
    assert batch.inputs.dtype == batch.targets.dtype == torch.float32
    for number, digit in itertools.product(range(16), range(2)):
        shown = (batch.targets[number, digit, 0] * 255).round().to(torch.uint8)
        assert torch.equal(trimmed(shown), trimmed(images.images[order[number, digit], 0]))
    assert torch.allclose(batch.inputs, batch.targets.sum(1).clamp(max=1))
    assert batch.targets.sum(1).amax() > 1


def test_white_on_white_is_white():
    white = Images(torch.full((1, 2, 1, 2, 2), 255, dtype=torch.uint8), torch.tensor([[0, 1]]))
    found = overlaid(white, None, 0)
    assert (found.images == 255).all()
    assert found.parts is not None
    assert torch.equal(found.parts, white.images)


def everything(batch):
    return batch.inputs, batch.targets, batch.labels


def test_batches_that_workers_pick_are_the_same_bit_for_bit():
    images = digits(50)
    picked = []
    for workers in (0, 2):
        config = small_config(dataloader={"num_workers": workers})
        picked.append(list(batches.batches(config, images, "cpu", (1, 2))))
    resident, loaded = picked
    assert len(resident) == len(loaded) == 6
    for one, other in zip(resident, loaded, strict=True):
        assert all(map(torch.equal, everything(one), everything(other)))


@pytest.mark.parametrize("steps", [1, 4, 6])
def test_a_run_that_is_broken_off_goes_on_bit_for_bit(splits, steps):
    config = small_config()
    *_, last = train(config, splits=splits, interval_seconds=0)
    progresses = train(config, splits=splits, interval_seconds=0)
    trained = (progress for progress in progresses if progress.phase == "train")
    state = next(itertools.islice(trained, steps - 1, None)).snapshot()
    *_, resumed = train(config, state, splits)
    expected, found = last.snapshot()["model"], resumed.snapshot()["model"]
    assert all(torch.equal(found[name], weights) for name, weights in expected.items())


# ---- what is measured


ORDERED = list(itertools.permutations(range(4), 2))


@pytest.mark.parametrize("labels", ORDERED)
def test_the_two_longest_are_answered_and_stand_where_they_are_asked_for(labels):
    for longest in ORDERED:
        lengths = torch.full((1, 4), 0.1)
        lengths[0, longest[0]], lengths[0, longest[1]] = 0.9, 0.8
        answer = predicted(lengths, torch.tensor([labels]))[0].tolist()
        assert sorted(answer) == sorted(longest)
        for label in set(labels) & set(longest):
            assert answer.index(label) == labels.index(label)


def test_each_image_of_a_batch_is_answered_by_itself():
    lengths = torch.rand(len(ORDERED), 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor(ORDERED)
    one_by_one = [predicted(lengths[i : i + 1], labels[i : i + 1]) for i in range(len(ORDERED))]
    assert torch.equal(predicted(lengths, labels), torch.cat(one_by_one))


def test_the_margin_loss_of_two_labels_by_hand():
    lengths = torch.tensor([[0.95, 0.5, 0.05, 0.3]])
    right, wrong = (0.9 - 0.5) ** 2, 0.5 * (0.3 - 0.1) ** 2  # 0.95 is long enough, 0.05 short enough
    for labels in ([[0, 1]], [[1, 0]]):
        assert margin_loss(lengths, torch.tensor(labels)).item() == pytest.approx(right + wrong)
        halved = margin_loss(lengths, torch.tensor(labels), "authors").item()
        assert halved == pytest.approx((right + wrong) / 2 / 4)


class Fixed(Network):
    """A network with given lengths, which decodes each class to an image of a brightness of its own."""

    def __init__(self, lengths):
        super().__init__()
        self.lengths = lengths
        self.decoder = None

    def forward(self, images):
        return Output(self.lengths[:, :, None] * torch.ones(1, 1, 3), self.lengths)

    def reconstruct(self, capsules, classes):
        assert classes.dim() == 1
        return (classes / 10).view(-1, 1, 1, 1).expand(-1, 1, 36, 36)


LENGTHS = torch.tensor([[0.1, 0.9, 0.8, 0.2], [0.1, 0.9, 0.8, 0.2], [0.1, 0.9, 0.8, 0.2]])
LABELS = torch.tensor([[2, 1], [1, 3], [3, 0]])  # both right, one right, none


@pytest.fixture
def batch():
    parts = torch.rand(3, 2, 1, 36, 36, generator=torch.Generator().manual_seed(0))
    return Batch(parts.sum(1).clamp(max=1), parts, LABELS)


def test_an_image_is_right_only_if_both_its_digits_are(batch):
    measured = objective.measure(Fixed(LENGTHS), batch, small_config(), training=False)
    assert measured.correct.tolist() == [True, False, False]
    assert measured.predictions.tolist() == [[2, 1], [1, 2], [1, 2]]
    assert measured.sums()[objective.MEASURES.index("accuracy")] == 1


@pytest.mark.parametrize("training", [True, False])
def test_each_digit_is_reconstructed_by_itself_and_the_errors_are_added(batch, training):
    """In training from the capsules of the labels, in the test from the two longest."""
    config = small_config()
    measured = objective.measure(Fixed(LENGTHS), batch, config, training=training)
    shown = LABELS if training else torch.tensor([[2, 1], [1, 2], [1, 2]])
    expected = (shown.view(3, 2, 1, 1, 1) / 10 - batch.targets).square().sum((1, 2, 3, 4))
    assert torch.allclose(measured.reconstruction_loss, expected)
    margins = margin_loss(LENGTHS, LABELS)
    assert torch.allclose(measured.loss, margins + 0.0005 * expected)


def test_a_network_decodes_each_label_from_its_own_capsule():
    config = small_config()
    network = build(config, datasets.shape(config.dataset))
    found = pairs(digits(20), 4, 4, seed=0)
    batch = augmentation.for_test(found, config.dataset)
    measured = objective.measure(network, batch, config, training=True)
    assert found.parts is not None
    assert network.decoder is not None
    capsules = network(batch.inputs).capsules
    expected = torch.zeros(4)
    for number in range(4):
        for digit in range(2):
            masked = torch.zeros_like(capsules[number : number + 1])
            label = found.labels[number, digit]
            masked[0, label] = capsules[number, label]
            decoded = network.decoder(masked)
            expected[number] += reconstruction_loss(decoded, found.parts[number, digit][None] / 255)[0]
    assert torch.allclose(measured.reconstruction_loss, expected, rtol=1e-5)


def test_the_confusion_counts_both_digits_and_sets_a_mistake_beside_what_was_not_seen():
    answers = predicted(LENGTHS, LABELS)
    found = evaluation.confusion(LABELS, answers, 4)
    expected = torch.zeros(4, 4, dtype=torch.int64)
    for true, answer in ((2, 2), (1, 1), (1, 1), (3, 2), (3, 1), (0, 2)):
        expected[true, answer] += 1
    assert torch.equal(found, expected)


def test_what_is_shown_of_a_pair_is_the_sum_of_both_reconstructions(splits):
    config = small_config()
    network = build(config, datasets.shape(config.dataset))
    found = evaluation.examples(network, splits.test, config, resolve(config))
    assert found is not None
    seen, shown = found
    assert torch.equal(seen, splits.test.images / 255)
    assert shown.shape == seen.shape
    assert shown.amax() <= 1


# ---- networks that learn from it


MODELS = {
    "capsnet": {"model": SMALL},
    "cnn": {
        "model": {
            "name": "cnn",
            "conv_channels": [8],
            "kernel_sizes": [5],
            "pool": 4,
            "hidden": [64],
            "dropout": 0,
        }
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_falls(splits, name):
    config = small_config(num_epochs=6, optim={"lr": 0.003}, **MODELS[name])
    rows = [p.metrics for p in train(config, splits=splits) if p.metrics is not None]
    assert rows[-1]["train/loss"] < 0.8 * rows[0]["train/loss"]
    assert all(0 <= row["test/accuracy"] <= 1 for row in rows)
