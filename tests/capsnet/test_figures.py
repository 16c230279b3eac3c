"""The numbers behind each picture against a direct computation."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from capsnet import execution, models, randomness
from capsnet.augmentation import cropped, for_test
from capsnet.config import Config
from capsnet.figures import (
    animation,
    confusion,
    couplings,
    curves,
    overlap,
    perturb,
    primary,
    reconstruct,
    rotate,
    sheet,
)
from capsnet.figures.gallery import gallery
from capsnet.figures.kinds import KINDS, FigureError
from capsnet.figures.needs import obstacle
from capsnet.figures.subject import Subject, choose, right, spread_out
from capsnet.images import Images, shape
from capsnet.network import Network, Output

pytestmark = pytest.mark.usefixtures("one_thread")


def subject_of(config: Config, network: Network | None = None) -> Any:
    """An untrained network: its numbers are as good as any for comparing."""
    network = network or models.build(config, shape(config.dataset))
    return Subject(config, network, execution.resolve(config))


@pytest.fixture
def subject(tiny_config) -> Any:
    subject = subject_of(tiny_config(use_cuda=False))
    with torch.no_grad():
        subject.network.primary.weight.mul_(10)  # so that routing makes a difference
        subject.network.classes.weight.mul_(4)
    return subject


@pytest.fixture
def tested(tiny_splits) -> Images:
    return tiny_splits.test


@pytest.fixture
def pairs() -> tuple[Any, Images]:
    """A network for overlaid digits, and six of them."""
    model = {"conv_channels": 6, "primary_types": 2, "decoder": {"hidden": [12]}}
    dataset = {"name": "multi_mnist", "pad": 0, "shift": 0}
    config = Config.model_validate({"model": model, "dataset": dataset, "threads": 1, "use_cuda": False})
    pixels = randomness.integers(1, 0, 255, (6, 2, 1, 28, 28), "parts").to(torch.uint8)
    images = pixels.sum(1).clamp(max=255).to(torch.uint8)
    labels = torch.tensor([[0, 1], [2, 3], [9, 4], [5, 6], [7, 8], [1, 0]])
    return subject_of(config), Images(images, labels, pixels)


def pixels_of(figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(sheet.png(figure))).convert("RGB"))


# perturb


def test_a_row_of_perturb_is_what_the_decoder_makes_of_the_capsule_with_one_dimension_off(subject, tested):
    image = tested[4:5]
    capsules = subject.output(image).capsules
    grid = perturb.grid(subject, capsules, label=4)
    assert grid.shape == (16, 11, 1, 12, 12)
    for dimension in (0, 7, 15):
        for place, step in enumerate([-0.25, -0.2, -0.15, -0.1, -0.05, 0, 0.05, 0.1, 0.15, 0.2, 0.25]):
            moved = torch.zeros_like(capsules)
            moved[0, 4] = capsules[0, 4]
            moved[0, 4, dimension] += step
            with torch.no_grad():
                expected = subject.network.decoder(moved)[0]
            torch.testing.assert_close(grid[dimension, place], expected)
    assert not torch.equal(grid[0, 0], grid[0, 10])


def test_perturb_has_a_row_for_each_dimension_of_a_class_capsule(tiny_config, tested):
    model = {"class_dim": 5, "conv_channels": 8, "kernel_size": 5, "primary_types": 3}
    subject = subject_of(tiny_config(model=model | {"decoder": {"hidden": [16]}}, use_cuda=False))
    capsules = subject.output(tested[:1]).capsules
    assert perturb.grid(subject, capsules, 0).shape[:2] == (5, 11)


def test_of_two_digits_perturb_shows_the_one_whose_capsule_it_changes(pairs):
    subject, images = pairs
    figure = perturb.picture(subject, images, sample=1, label=3)
    drawn = pixels_of(figure)
    digit = sheet.zoomed(images.parts[1:2, 1])[0].numpy()
    assert contains(drawn, digit)
    assert not contains(drawn, sheet.zoomed(images.parts[1:2, 0])[0].numpy())


def contains(picture: np.ndarray, part: np.ndarray) -> bool:
    """Whether a picture has these pixels somewhere."""
    height, width = part.shape[:2]
    for top in range(picture.shape[0] - height + 1):
        for left in (picture[top] == part[0, 0]).all(-1).nonzero()[0]:
            window = picture[top : top + height, left : left + width]
            if window.shape == part.shape and (window == part).all():
                return True
    return False


# couplings


def literal_couplings(subject: Any, images: Images) -> list[torch.Tensor]:
    """Procedure 1 of the paper with all predictions formed: the couplings [B, I, J] of each iteration.

    With `none_of_the_above` one more logit, always 0, has its share too: [B, I, J + 1].
    """
    none = subject.config.model.none_of_the_above
    capsules = couplings.primary(subject, images).double()
    weight = subject.network.classes.weight.detach().double()  # [J, I·K, D]
    weight = weight.unflatten(1, capsules.shape[1:])
    predictions = torch.einsum("bik,jikd->bijd", capsules, weight)
    logits, found = torch.zeros(predictions.shape[:3], dtype=torch.float64), []
    for _ in range(subject.config.route_iters):
        places = torch.cat([logits, torch.zeros_like(logits[..., :1])], dim=2) if none else logits
        found.append(places.softmax(2))
        sums = torch.einsum("bij,bijd->bjd", found[-1][..., : logits.shape[2]], predictions)
        if subject.network.classes.bias is not None:
            sums = sums + subject.network.classes.bias.detach().double()
        length = sums.norm(dim=-1, keepdim=True)
        outputs = sums * length / (1 + length**2)
        logits = logits + torch.einsum("bijd,bjd->bij", predictions, outputs)
    return found


def test_the_entropies_are_those_of_the_literal_procedure(subject, tested):
    found = couplings.counted(subject, tested)
    for number, literal in enumerate(literal_couplings(subject, tested)):
        expected = -(literal * literal.log2()).sum(2)
        torch.testing.assert_close(found[number].double(), expected, atol=1e-4, rtol=1e-4)
    assert found.shape == (3, 21, 12)
    assert found[2].mean() < found[1].mean() < found[0].mean() == pytest.approx(math.log2(10), abs=1e-6)


def test_the_entropies_count_what_goes_to_no_class(tiny_config, tested):
    model = {"conv_channels": 8, "kernel_size": 5, "primary_types": 3, "decoder": {"hidden": [16]}}
    model |= {"none_of_the_above": True, "class_bias": True}
    subject = subject_of(tiny_config(model=model, route_iters=4, use_cuda=False))
    with torch.no_grad():
        subject.network.primary.weight.mul_(10)
        subject.network.classes.bias.add_(0.1)
    found = couplings.counted(subject, tested)
    assert len(found) == 4
    for number, literal in enumerate(literal_couplings(subject, tested)):
        expected = -(literal * literal.log2()).sum(2)
        torch.testing.assert_close(found[number].double(), expected, atol=1e-4, rtol=1e-4)
    assert found[0].mean() == pytest.approx(math.log2(11), abs=1e-6)
    figure = couplings.picture(subject, tested, seed=0, sample=0)
    assert np.asarray(figure.axes[0].lines[0].get_xdata())[0] == pytest.approx(math.log2(11))


def test_what_a_capsule_keeps_to_itself_is_one_more_place():
    even = torch.full((3, 1, 2), 1 / 4)
    torch.testing.assert_close(couplings.entropies(even), torch.full((1, 2), 2.0))


def test_the_example_weighs_each_capsule_by_its_length(subject, tested):
    image = tested[2:3]
    shown = couplings.example(subject, image, sample=2)
    weights = couplings.primary(subject, image)[0].norm(dim=-1).double()
    for number, literal in enumerate(literal_couplings(subject, image)):
        expected = torch.einsum("i,ij->j", weights, literal[0]) / weights.sum()
        torch.testing.assert_close(shown.means[number].double(), expected, atol=1e-5, rtol=1e-4)


@pytest.fixture
def self_routed(tiny_config) -> Any:
    """As after some training: routing that is not even any more."""
    model = {"conv_channels": 8, "kernel_size": 5, "primary_types": 3, "decoder": {"hidden": [16]}}
    subject = subject_of(tiny_config(model=model | {"routing": {"name": "self"}}, use_cuda=False))
    with torch.no_grad():
        route = subject.network.classes.route
        route.copy_(5 * torch.linspace(-9, 9, route.numel()).sin().view_as(route))
    return subject


def test_self_routing_is_shown_before_training_and_after(self_routed, tested):
    found = couplings.counted(self_routed, tested)
    capsules = couplings.primary(self_routed, tested).double()
    literal = torch.einsum("bik,ikj->bij", capsules, self_routed.network.classes.route.double()).softmax(2)
    expected = -(literal * literal.log2()).sum(2).detach()
    assert found.shape == (2, 21, 12)
    assert found[0].mean() == pytest.approx(math.log2(10), abs=1e-6)
    torch.testing.assert_close(found[1].double(), expected, atol=1e-4, rtol=1e-4)
    histogram, heat = couplings.picture(self_routed, tested, seed=0, sample=0).axes
    legend = histogram.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["before training: even", "after training"]
    assert [text.get_text() for text in heat.get_yticklabels()] == ["before", "after"]


def test_what_self_routing_passes_on_is_each_capsule_times_its_share(self_routed, tested):
    told = primary.passed_on(self_routed, tested)
    capsules = couplings.primary(self_routed, tested)
    route = self_routed.network.classes.route
    shares = torch.einsum("bik,ikj->bij", capsules, route).softmax(2)
    answers = self_routed.output(tested).lengths.argmax(1)
    expected = 10 * capsules * shares[torch.arange(21), :, answers, None]
    torch.testing.assert_close(told, expected.detach(), atol=1e-6, rtol=1e-4)


def test_what_stands_for_the_lengths_is_called_by_its_name(self_routed, subject, tested):
    motion = rotate.MOTIONS["rotate"]
    assert rotate.moved(self_routed, tested[:1], 0, motion).scores == "activation"
    assert rotate.moved(subject, tested[:1], 0, motion).scores == "length"


# rotate


def test_an_image_that_is_turned_by_nothing_or_all_around_is_the_untouched_one(subject, tested):
    image = tested[3:4]
    seen = rotate.moved(subject, image, 3, rotate.MOTIONS["rotate"])
    output = subject.output(image)
    for place in (0, -1):
        assert torch.equal(seen.images[place], image.images[0])
        torch.testing.assert_close(seen.lengths[place], output.lengths[0])
        answer = output.lengths.argmax(1)
        assert seen.reconstructions is not None
        expected = subject.reconstruct(output.capsules, answer)[0]
        torch.testing.assert_close(seen.reconstructions[place], expected)
    assert seen.motion.amounts[18] == 90
    assert torch.equal(seen.images[18], image.images[0].rot90(1, (1, 2)))


def test_a_shift_moves_by_whole_pixels(subject, tested):
    image = tested[:1]
    seen = rotate.moved(subject, image, 0, rotate.MOTIONS["shift"])
    at_three = seen.images[seen.motion.amounts.index(3)]
    assert torch.equal(at_three[..., 3:], image.images[0][..., :-3])
    assert at_three[..., :3].sum() == 0


@pytest.mark.parametrize(("name", "neutral"), [("rotate", 0), ("shift", 0), ("scale", 1), ("shear", 0)])
def test_the_accuracy_of_images_that_are_not_moved_is_that_of_the_test(subject, tested, name, neutral):
    motion = rotate.MOTIONS[name]
    measured = dict(rotate.accuracies(subject, tested, motion))
    hits = right(tested.labels, subject.answers(tested)).double().mean().item()
    assert measured[neutral] == pytest.approx(hits)
    assert {motion.amounts[0], motion.amounts[-1]} <= measured.keys()
    assert len(measured) <= 33


@pytest.mark.parametrize(("name", "frames"), [("rotate", 72), ("shift", 48)])
def test_the_animation_has_a_frame_for_each_amount_and_goes_on_for_ever(subject, tested, name, frames):
    seen = rotate.moved(subject, tested[:1], 0, rotate.MOTIONS[name])
    with GifImageFile(io.BytesIO(animation.gif(seen))) as gif:
        assert (gif.format, gif.n_frames, gif.info["loop"]) == ("GIF", frames, 0)
        places = animation.order(seen)
        for number in (0, frames // 2, frames - 1):
            gif.seek(number)
            frame = np.asarray(gif.convert("RGB")).astype(int)
            shown = sheet.zoomed(seen.images[places[number]][None], animation.SIDE)[0].numpy()
            part = frame[animation.HEAD :, sheet.MARGIN :][: len(shown), : shown.shape[1]]
            assert np.abs(part - shown).mean() < 8  # of 255: a GIF has few colours


# reconstruct, overlap


def test_cases_are_right_or_wrong_as_answered_and_decoded_by_answer_and_by_label(subject, tested):
    answers = subject.answers(tested)
    output = subject.output(tested)
    assert torch.equal(answers, output.lengths.argmax(1))
    hits, misses = reconstruct.split(tested, answers, seed=0, count=5)
    assert all(answers[i] == tested.labels[i] for i in hits)
    assert all(answers[i] != tested.labels[i] for i in misses)
    assert len(misses) == 5
    cases = reconstruct.cases(subject, tested, answers, misses)
    assert cases is not None
    for number, index in enumerate(misses):
        for shown, label in ((cases.as_answered, answers), (cases.as_labelled, tested.labels)):
            with torch.no_grad():
                expected = subject.network.reconstruct(output.capsules[index : index + 1], label[index, None])
            torch.testing.assert_close(shown[number], expected[0])


def test_without_wrong_answers_there_are_only_right_ones(subject, tested):
    labels = subject.answers(tested)
    flawless = Images(tested.images, labels)
    figure = reconstruct.picture(subject, flawless, labels, seed=0)
    words = [text.get_text() for text in figure.texts]
    assert "right" in words and "wrong" not in words
    assert "0 of 21 test images answered wrongly (100.00% right)" in words


def test_each_digit_of_a_pair_is_reconstructed_in_its_colour(pairs):
    subject, images = pairs
    answers = subject.answers(images)
    assert answers.shape == (6, 2)
    some = overlap.pairs(subject, images, answers, torch.arange(6))
    assert some is not None
    capsules = subject.output(images).capsules
    for label in (0, 1):
        expected = subject.reconstruct(capsules, answers[:, label])
        torch.testing.assert_close(some.reconstructions[:, label], expected)
    parts = torch.zeros(1, 2, 1, 1, 3)
    parts[0, 0, 0, 0, 0] = parts[0, 1, 0, 0, 1] = 1
    coloured = overlap.coloured(parts)
    torch.testing.assert_close(coloured[0, :, 0, 0], overlap.INKS[0])
    torch.testing.assert_close(coloured[0, :, 0, 1], overlap.INKS[1])
    assert coloured[0, :, 0, 2].sum() == 0


def test_the_labels_of_a_pair_have_the_colours_of_their_digits(pairs):
    subject, images = pairs
    figure = overlap.picture(subject, images, images.labels, seed=0)  # as if all were right
    colours = {text.get_text(): text.get_color() for text in figure.texts if text.get_text().isdigit()}
    assert set(colours.values()) == set(overlap.COLOURS)
    assert colours["2"] == overlap.COLOURS[0] and colours["3"] == overlap.COLOURS[1]


# primary


def test_the_decoder_of_primary_capsules_is_a_function_of_the_seed_and_leaves_the_network_as_it_is(
    subject, tiny_splits
):
    before = {name: value.clone() for name, value in subject.network.state_dict().items()}
    random = torch.get_rng_state()
    lines: list[str] = []
    found = [primary.train(subject, tiny_splits.train, seed, 6, lines.append) for seed in (1, 1, 2)]
    weights = [torch.cat([p.flatten() for p in decoder.parameters()]) for decoder in found]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert all(torch.equal(value, before[name]) for name, value in subject.network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert lines[0].startswith("decoder of primary capsules: step 6/6, squared error ")


def test_the_decoder_learns_the_images(subject, tiny_splits):
    errors = []
    primary.train(subject, tiny_splits.train, 0, 150, lambda line: errors.append(float(line.split()[-3])))
    assert errors[-1] < 0.7 * errors[0]


def test_a_row_of_primary_is_one_capsule_at_five_scales(subject, tiny_splits):
    decoder = primary.train(subject, tiny_splits.train, 0, 4, lambda line: None)
    told = primary.passed_on(subject, tiny_splits.test[:1])
    chosen = primary.strongest(subject, told)
    images = primary.scaled(decoder, told, chosen)
    assert images.shape == (4, 5, 1, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(images[0, 4], decoder(told)[0])
        alone = torch.zeros_like(told)
        alone[:, chosen[1].number] = told[:, chosen[1].number] * 0.5
        torch.testing.assert_close(images[2, 2], decoder(alone)[0])
    assert all(torch.equal(images[0, 0], row[0]) for row in images)


def test_what_is_passed_on_is_the_capsule_times_its_coupling_to_the_answer(subject, tested):
    told = primary.passed_on(subject, tested)
    literal = literal_couplings(subject, tested)[-1]
    answers = subject.answers(tested)
    capsules = couplings.primary(subject, tested)
    for number in range(len(tested)):
        share = literal[number, :, answers[number]].float() * 10
        torch.testing.assert_close(told[number], capsules[number] * share[:, None], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_what_is_passed_on_takes_the_couplings_of_the_last_iteration_only(
    tiny_config, tested, monkeypatch, iterations
):
    subject = subject_of(tiny_config(route_iters=iterations, use_cuda=False))
    capsules = couplings.primary(subject, tested)
    last = couplings.by_iteration(subject, capsules)[-1]
    asked, real = [], couplings.of_iteration

    def noted(subject: Any, capsules: torch.Tensor, number: int) -> torch.Tensor:
        asked.append(number)
        return real(subject, capsules, number)

    monkeypatch.setattr(couplings, "of_iteration", noted)
    told = primary.passed_on(subject, tested)
    assert asked == [iterations]
    answers = subject.answers(tested)
    share = last[answers, torch.arange(len(tested))][..., None] * 10
    torch.testing.assert_close(told, capsules * share)


def test_the_chosen_capsules_are_the_strongest_of_their_types(subject, tested):
    told = primary.passed_on(subject, tested[:1])
    amounts = told[0].norm(dim=-1)
    chosen = primary.strongest(subject, told)
    assert sorted(one.type for one in chosen) == [0, 1, 2]
    for one in chosen:
        assert one.number == (one.row * 2 + one.column) * 3 + one.type  # 2×2 positions of 3 types
        assert amounts[one.number] == amounts[one.type :: 3].max()
        assert one.share == pytest.approx((amounts[one.number] / amounts.sum()).item())


@pytest.mark.parametrize(
    ("padding", "primary_padding", "columns"),
    [("valid", "valid", 2), ("same", "valid", 4), ("valid", "same", 4), ("same", "same", 6)],
)
def test_the_frame_is_the_part_of_the_image_that_the_capsule_sees(
    tiny_config, padding, primary_padding, columns
):
    paddings = {"padding": padding, "primary_padding": primary_padding}
    model = {"conv_channels": 8, "kernel_size": 5, "primary_types": 3, **paddings}
    subject = subject_of(tiny_config(model=model | {"decoder": {"hidden": [16]}}, use_cuda=False))
    pixels = torch.rand(1, 1, 12, 12, requires_grad=True)
    capsules = subject.network.primary_capsules(pixels)
    for row, column in ((0, 0), (1, 1), (0, 1)):
        number = (row * columns + column) * 3 + 1
        (slope,) = torch.autograd.grad(capsules[0, number].sum(), pixels, retain_graph=True)
        seen = slope[0, 0] != 0
        rows, across = primary.seen_by(subject, primary.Capsule(number, 1, row, column, 0.0))
        expected = torch.zeros(12, 12, dtype=torch.bool)
        expected[rows, across] = True
        assert not (seen & ~expected).any()
        for edge in (expected.any(1), expected.any(0)):
            assert edge.any()
        assert torch.equal(seen.any(1), expected.any(1)) and torch.equal(seen.any(0), expected.any(0))


def test_the_decoder_is_always_told_of_a_capsule_and_sometimes_of_all():
    told = torch.ones(400, 50, 2)
    counts = primary._mask(told, seed=0, step=3).sum((1, 2))
    assert counts.min() == 1 and counts.max() > 40
    assert 0.1 < (counts <= 3).float().mean() < 0.5


# confusion, curves


def test_the_confusion_picture_says_the_counts_that_are_not_zero():
    counts = torch.tensor([[5, 0, 1], [0, 7, 0], [2, 0, 9]])
    figure = confusion.draw(counts, "title")
    said = {tuple(map(int, text.get_position())): text.get_text() for text in figure.axes[0].texts}
    assert said == {(0, 0): "5", (2, 0): "1", (1, 1): "7", (0, 2): "2", (2, 2): "9"}
    shown = figure.axes[0].images[0].get_array()
    assert shown is not None
    np.testing.assert_allclose(shown[0], np.sqrt([5 / 6, 0, 1 / 6]))


def test_many_classes_get_colours_without_numbers():
    figure = confusion.draw(torch.eye(200, dtype=torch.int64), "title")
    assert len(figure.axes[0].texts) == 0
    assert max(pixels_of(figure).shape) < 1000


def test_the_curves_are_those_of_the_history():
    history = [
        {"epoch": 1, "train/loss": 0.5, "test/loss": 0.4, "test/accuracy": 0.8, "validation/accuracy": 0.7},
        {"epoch": 2, "train/loss": 0.3, "test/loss": 0.2, "test/accuracy": 0.9, "validation/accuracy": 0.6},
    ]
    loss, accuracy = curves.draw(history, "title").axes
    drawn = {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in loss.lines}
    assert drawn == {"train": [[1, 0.5], [2, 0.3]], "test": [[1, 0.4], [2, 0.2]]}
    drawn = {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in accuracy.lines}
    assert drawn["test"] == [[1, 80], [2, 90]]
    assert [text.get_text() for text in accuracy.texts] == ["best on validation: 1"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (10.0, 97.0, [20, 40, 60, 80, 90, 95]),
        (87.0, 99.75, [90, 95, 98, 99, 99.5]),
        (98.7, 99.3, [98.8, 99, 99.2]),
        (0.0, 100.0, [0, 50, 90, 99, 99.9, 100]),
    ],
)
def test_accuracy_is_marked_at_round_numbers(low, high, expected):
    assert curves.marks(low, high) == expected


def test_the_scale_of_accuracy_goes_up_to_all_and_comes_back():
    values = np.array([0.0, 50, 99, 99.9, 100])
    stretched = curves.stretched(values)
    assert np.isfinite(stretched).all() and (np.diff(stretched) > 0).all()
    np.testing.assert_allclose(curves.shrunk(stretched), values, atol=1e-9)


@pytest.mark.parametrize("accuracy", [1.0, 0.0, 0.5])
def test_a_single_epoch_gives_curves_too(accuracy):
    row = {"epoch": 1, "train/loss": 0.2, "train/accuracy": accuracy, "test/accuracy": accuracy}
    figure = curves.draw([row], "title")
    assert sheet.png(figure)
    left, right_end = figure.axes[0].get_xlim()
    assert [tick for tick in figure.axes[0].get_xticks() if left < tick < right_end] == [1]


def test_without_an_epoch_there_are_no_curves():
    with pytest.raises(FigureError, match="no epoch has ended yet"):
        curves.draw([], "title")


# sheets


def test_a_sheet_holds_the_very_pixels_of_its_images():
    images = randomness.integers(0, 0, 255, (2, 1, 28, 28), "pixels").to(torch.uint8)
    drawn = pixels_of(sheet.draw([sheet.Block([("name", images)])]))
    for image in images[:, 0].numpy():
        magnified = image.repeat(2, axis=0).repeat(2, axis=1)
        assert contains(drawn, np.repeat(magnified[..., None], 3, axis=2))


def test_colours_are_shown_as_colours_and_of_two_cameras_the_first():
    colours, cameras = torch.rand(2, 3, 4, 5), torch.rand(2, 2, 4, 5)
    assert torch.equal(sheet.pixels(colours), colours)
    assert torch.equal(sheet.pixels(cameras), cameras[:, :1].expand(2, 3, 4, 5))


@pytest.mark.parametrize(("side", "shown"), [(8, 56), (28, 56), (48, 96), (64, 64), (300, 56)])
def test_images_of_any_size_are_shown_at_a_size_that_can_be_seen(side, shown):
    assert sheet.zoomed(torch.zeros(1, 1, side, side)).shape == (1, shown, shown, 3)


@pytest.mark.parametrize("channels", [2, 3])
def test_of_standardised_inputs_the_pixels_are_shown(channels):
    name = {2: "smallnorb", 3: "cifar10"}[channels]
    config = Config.model_validate(
        {
            "dataset": {"name": name, "crop": 12} | ({"size": 16} if channels == 2 else {}),
            "model": {"conv_channels": 6, "kernel_size": 5, "primary_types": 2, "decoder": {"hidden": [8]}},
            "threads": 1,
            "use_cuda": False,
        }
    )
    subject = subject_of(config)
    pixels = randomness.integers(0, 0, 255, (5, channels, 12, 12), "pixels").to(torch.uint8)
    images = Images(pixels, torch.arange(5))
    assert for_test(images, config.dataset).inputs.min() < 0
    for kind, figure in gallery(config, subject.network, images, subject.execution, []):
        if kind in ("reconstruct", "perturb"):
            assert any(contains(pixels_of(figure), shown.numpy()) for shown in sheet.zoomed(pixels)), kind


def test_a_moved_image_is_seen_by_the_scale_of_its_whole_image():
    config = Config.model_validate(
        {
            "dataset": {"name": "cifar10", "crop": 12, "standardise": "first", "brightness": 1.0},
            "model": {"conv_channels": 6, "kernel_size": 5, "primary_types": 2, "decoder": {"hidden": [8]}},
            "threads": 1,
            "use_cuda": False,
        }
    )
    subject = subject_of(config)
    pixels = randomness.integers(0, 0, 255, (3, 3, 32, 32), "pixels").to(torch.uint8)
    images = cropped(Images(pixels, torch.arange(3)), config.dataset)
    motion = rotate.MOTIONS["shift"]
    moved = rotate.moved(subject, images[1:2], 1, motion)
    still = motion.amounts.index(0)
    expected = subject.output(images[1:2]).lengths
    torch.testing.assert_close(moved.lengths[still : still + 1], expected)
    assert not torch.allclose(subject.output(replace(images, scale=None)).lengths[1:2], expected)


# which pictures, of which image


def test_an_image_is_chosen_by_number_by_class_or_by_seed(tested):
    assert choose(tested, 0, sample=12) == (12, 2)
    assert {choose(tested, seed, digit=3) for seed in range(20)} == {(3, 3), (13, 3)}
    assert choose(tested, 5) == choose(tested, 5)
    assert len({choose(tested, seed) for seed in range(20)}) > 5


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"sample": 21}, "--sample 21: there are 21 test images, from 0 on"),
        ({"digit": 10}, r"--digit 10: no test image shows that class \(they are 0 to 9\)"),
        ({"sample": 4, "digit": 5}, "--sample 4 shows 4, not --digit 5"),
    ],
)
def test_an_image_that_is_not_there_is_an_error(tested, wish, message):
    with pytest.raises(FigureError, match=message):
        choose(tested, 0, **wish)


def test_of_an_image_with_two_digits_either_can_be_chosen(pairs):
    _, images = pairs
    assert choose(images, 0, sample=2) == (2, 9)
    assert choose(images, 0, sample=2, digit=4) == (2, 4)
    assert choose(images, 0, digit=6) == (3, 6)


def test_a_choice_keeps_the_order_and_takes_no_more_than_there_are():
    indices = torch.arange(10, 20)
    chosen = spread_out(indices, 4, 0, "x")
    assert len(chosen) == 4 and chosen.tolist() == sorted(chosen.tolist())
    assert torch.equal(spread_out(indices, 50, 0, "x"), indices)


CNN = {"model": {"name": "cnn"}, "dataset": {"name": "digits"}}
NO_DECODER = {"loss": {"with_reconstruction": False}}


@pytest.mark.parametrize(
    ("keys", "possible"),
    [
        ({}, "reconstruct perturb rotate primary couplings confusion curves"),
        (
            {"dataset": {"name": "multi_mnist"}},
            "reconstruct perturb rotate overlap couplings confusion curves",
        ),
        (CNN, "rotate confusion curves"),
        (NO_DECODER, "rotate primary couplings confusion curves"),
        ({"route_iters": 1}, "reconstruct perturb rotate primary confusion curves"),
        ({"model": {"routing": {"name": "attention"}}}, "reconstruct perturb rotate confusion curves"),
        (
            {"model": {"routing": {"name": "self"}}, "route_iters": 1},
            "reconstruct perturb rotate primary couplings confusion curves",
        ),
        ({"model": {"name": "efficient_capsnet"}}, "reconstruct perturb rotate confusion curves"),
        ({"model": {"name": "matrix_capsnet"}}, "rotate confusion curves"),
    ],
)
def test_each_run_gives_the_pictures_that_make_sense_for_it(keys, possible):
    config = Config.model_validate(keys)
    assert [kind for kind in KINDS if obstacle(kind, config) is None] == possible.split()


class Probabilities(Network):
    """Stands for a network without capsules."""

    decoder = None

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(144, 10)

    def forward(self, images: torch.Tensor) -> Output:
        logits = self.layer(images.flatten(1))
        return Output(logits.new_zeros(len(images), 10, 0), logits.softmax(1), logits)


def test_a_network_without_capsules_has_confusion_and_curves(tested):
    keys = {"model": {"name": "cnn"}, "dataset": {"name": "digits", "size": 12}, "use_cuda": False}
    subject = subject_of(Config.model_validate(keys), Probabilities())
    history = [{"epoch": 1, "train/loss": 1.0, "test/loss": 1.0, "test/accuracy": 0.5}]
    drawn = gallery(subject.config, subject.network, tested, subject.execution, history)
    assert [kind for kind, _ in drawn] == ["curves", "confusion"]
    seen = rotate.moved(subject, tested[:1], 0, rotate.MOTIONS["rotate"])
    assert seen.reconstructions is None and seen.scores == "probability"
    torch.testing.assert_close(seen.lengths.sum(1), torch.ones(73))


def test_the_gallery_of_pairs_has_their_overlap(pairs):
    subject, images = pairs
    drawn = dict(gallery(subject.config, subject.network, images, subject.execution, []))
    assert list(drawn) == ["confusion", "reconstruct", "perturb", "overlap", "couplings"]
    for figure in drawn.values():
        assert Image.open(io.BytesIO(sheet.png(figure))).format == "PNG"


def test_the_gallery_is_the_same_each_time_and_disturbs_no_random_numbers(subject, tested):
    random = torch.get_rng_state()
    first, second = (
        [(kind, sheet.png(figure)) for kind, figure in gallery(*arguments)]
        for arguments in [(subject.config, subject.network, tested, subject.execution, [])] * 2
    )
    assert first == second and len(first) == 4
    assert torch.equal(torch.get_rng_state(), random)
