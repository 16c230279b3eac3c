"""The numbers behind each picture against a direct computation."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image, ImageDraw
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
    rendering,
    rotate,
    scales,
    sheet,
    style,
    titles,
)
from capsnet.figures.gallery import gallery
from capsnet.figures.kinds import KINDS, ORDERS, FigureError
from capsnet.figures.needs import obstacle
from capsnet.figures.subject import Subject, choose, right, spread_out
from capsnet.images import Images, shape
from capsnet.network import Network, Output

pytestmark = pytest.mark.usefixtures("one_thread")


def subject_of(config: Config, network: Network | None = None) -> Any:
    """Return the subject of an untrained network: comparisons need no trained one."""
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


SIDE = 60  # dots: a 28×28 image on any sheet has 56


def pixels_of(figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(rendering.png(figure))).convert("RGB"))


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
    digits = [sheet.zoomed(images.parts[1:2, part], SIDE)[0].numpy() for part in (1, 0)]
    assert [contains(drawn, digit) for digit in digits] == [True, False]


def contains(picture: np.ndarray, part: np.ndarray) -> bool:
    """Whether a picture has these pixels somewhere."""
    height, width = part.shape[:2]
    for top in range(picture.shape[0] - height + 1):
        for left in (picture[top] == part[0, 0]).all(-1).nonzero()[0]:
            window = picture[top : top + height, left : left + width]
            if window.shape == part.shape and (window == part).all():
                return True
    return False


def test_the_effect_of_a_dimension_is_how_much_its_largest_steps_change_a_pixel():
    images = torch.zeros(3, 11, 1, 2, 2)
    images[1, 0] = 0.2  # the first step
    images[1, 10, 0, 0, 0] = 0.4  # one pixel of four at the last one
    images[2, 3] = 1  # in between: counts for nothing
    torch.testing.assert_close(perturb.effects(images), torch.tensor([0.0, 0.15, 0.0]))


@pytest.mark.parametrize("order", ORDERS)
def test_perturb_has_the_dimensions_by_number_or_by_effect(subject, tested, order):
    capsules = subject.output(tested[4:5]).capsules
    effects = perturb.effects(perturb.grid(subject, capsules, 4))
    figure = perturb.picture(subject, tested, sample=4, label=4, order=order)
    found = re.findall(r"(\d+) \((\S+)%\)", "\n".join(text.get_text() for text in figure.texts))
    rows = {int(number): float(change) for number, change in found}
    assert list(rows) == (effects.argsort(descending=True).tolist() if order == "effect" else list(range(16)))
    assert rows == {number: pytest.approx(100 * float(effects[number]), abs=0.051) for number in rows}


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


@pytest.mark.parametrize(
    ("highest", "end"), [(0.108, 0.2), (0.199, 0.2), (0.21, 0.5), (0.6, 1.0), (1.0, 1.0), (math.nan, 1.0)]
)
def test_the_scale_of_couplings_goes_from_zero_to_a_round_multiple_of_the_even_share(highest, end):
    means = torch.full((3, 10), 0.1)
    means[2, 4] = highest
    assert couplings.scale_end(means, even=0.1) == pytest.approx(end)
    shown = couplings.Example(7, "4", means)
    _, heat, bar = couplings.draw(torch.ones(3, 2, 4), shown, 10, ["iteration 1", "2", "3"], "of").axes
    heights = np.asarray(heat.collections[0].norm(np.array([0, 0.1, end])))
    assert heights.tolist() == pytest.approx([0, 0.5, 1])
    assert bar.get_ylabel() == "mean coupling; white: even, 0.1"
    assert [ticks_of(bar.yaxis)[place] for place in (0, 2, -1)] == ["0", "0.1", f"{end:g}"]


@pytest.fixture
def self_routed(tiny_config) -> Any:
    """A network with self-routing whose routing weights are uneven, like those of a trained network."""
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
    histogram, heat, _ = couplings.picture(self_routed, tested, seed=0, sample=0).axes
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
            top = len(frame) - animation.LINE - len(shown)
            part = frame[top:, animation.MARGIN :][: len(shown), : shown.shape[1]]
            assert np.abs(part - shown).mean() < 8  # of 255: a GIF has few colours


def test_the_frames_of_an_animation_have_room_for_what_it_is_of(subject, tested):
    seen = rotate.moved(subject, tested[:1], 0, rotate.MOTIONS["shift"])
    sizes = []
    for origin in ("a", "a " * 300):
        with GifImageFile(io.BytesIO(animation.gif(replace(seen, origin=origin)))) as gif:
            sizes.append(gif.size)
    assert sizes[0][0] == sizes[1][0] and sizes[1][1] >= sizes[0][1] + 5 * animation.SMALL_LINE


def test_the_font_of_an_animation_has_a_minus():
    def drawn(text: str) -> bytes:
        image = Image.new("L", (20, 20))
        ImageDraw.Draw(image).text((2, 2), text, 255, animation._font(animation.LETTERS))
        return image.tobytes()

    assert drawn("−") != drawn("\uffff"), "the box for what a font lacks"


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
    assert "100.00% right: 0 errors in 21 test images" in words


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


# confusion


COUNTS = torch.tensor([[5, 0, 1], [0, 7, 0], [2, 0, 9]])


def colours_of(axes: Any) -> np.ma.MaskedArray:
    """Return the values by which a table's cells are coloured; cells without a colour are masked."""
    return np.ma.masked_invalid(axes.collections[0].get_array())


def test_the_confusion_picture_says_the_counts_that_are_not_zero():
    axes = confusion.draw(COUNTS, "title", "of").axes[0]
    said = {(int(x), int(y)): text.get_text() for text in axes.texts for x, y in [text.get_position()]}
    assert said == {(0, 0): "5", (2, 0): "1", (1, 1): "7", (0, 2): "2", (2, 2): "9"}


def test_only_errors_have_a_colour_and_right_answers_are_grey_whatever_their_number():
    axes, bar = confusion.draw(COUNTS, "title", "of").axes
    shown = colours_of(axes)
    assert shown.mask.tolist() == [[True, True, False], [True, True, True], [False, True, True]]
    np.testing.assert_allclose(shown.compressed(), [100 / 6, 100 * 2 / 11])
    assert axes.collections[0].get_clim() == pytest.approx((0, 100 * 2 / 11))
    greys = [tuple(patch.get_path().get_extents(patch.get_patch_transform()).min) for patch in axes.patches]
    assert greys == [(0, 0), (1, 1), (2, 2)]
    assert bar.get_xlabel() == "errors, % of the images of a label"


def test_without_an_error_the_confusion_picture_has_no_colour():
    axes = confusion.draw(torch.eye(3, dtype=torch.int64), "title", "of").axes[0]
    assert colours_of(axes).mask.all()
    assert axes.collections[0].get_clim() == (0, 1)


def test_many_classes_get_colours_without_numbers():
    figure = confusion.draw(torch.eye(200, dtype=torch.int64), "title", "of")
    assert len(figure.axes[0].texts) == 0
    assert len(figure.axes[0].get_xticks()) <= 10
    assert max(pixels_of(figure).shape) < 1200


def test_counts_that_a_column_has_no_room_for_take_the_width_of_the_page():
    widths = [
        confusion.draw(count * torch.eye(10, dtype=torch.int64), "", "").get_figwidth()
        for count in (1_135, 25_000)
    ]
    assert widths == pytest.approx([style.COLUMN, style.PAGE], abs=0.01)


# curves


HISTORY = [
    {"epoch": 1, "train/loss": 0.5, "test/loss": 0.4, "test/accuracy": 0.8, "validation/accuracy": 0.7},
    {"epoch": 2, "train/loss": 0.3, "test/loss": 0.2, "test/accuracy": 0.9, "validation/accuracy": 0.6},
]


def lines_of(axes: Any) -> dict[str, list[list[float]]]:
    return {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in axes.lines}


def ticks_of(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.get_ticklabels()]


def test_the_curves_are_those_of_the_history():
    loss, error = curves.draw([curves.History("a", HISTORY)]).axes
    assert lines_of(loss) == {"train": [[1, 0.5], [2, 0.3]], "test": [[1, 0.4], [2, 0.2]]}
    drawn = lines_of(error)
    assert (drawn["test"], drawn["validation"]) == ([[1, 20], [2, 10]], [[1, 30], [2, 40]])
    assert [text.get_text() for text in error.texts] == ["best on validation: 1"]


def test_the_curves_of_several_runs_have_a_colour_each_and_a_line_for_each_part():
    other = [row | {"test/loss": 0.1} for row in HISTORY[:1]]
    figure = curves.draw([curves.History("first", HISTORY), curves.History("second", other)])
    loss = figure.axes[0]
    drawn = {
        (line.get_color(), line.get_linestyle()): np.asarray(line.get_xydata()).tolist()
        for line in loss.lines
    }
    assert drawn[style.BLUE, "-"] == [[1, 0.4], [2, 0.2]]
    assert drawn[style.ORANGE, "-"] == [[1, 0.1]]
    assert drawn[style.BLUE, "--"] == [[1, 0.5], [2, 0.3]]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "first",
        "second",
        "train",
        "validation",
        "test",
    ]
    assert not figure.axes[1].texts, "several runs have no best epoch in common"


def test_of_several_runs_the_heading_has_what_they_have_in_common_and_the_legend_the_rest():
    configs = [Config.model_validate({"dataset": {"name": "digits"}, "route_iters": n}) for n in (1, 3)]
    histories = [curves.History(f"run {n}", HISTORY, config) for n, config in enumerate(configs)]
    assert curves.named(histories) == (
        ["run 0 · capsnet, 1 routing iteration", "run 1 · capsnet, 3 routing iterations"],
        "digits",
    )
    same = [histories[0], curves.History("run 2", HISTORY, configs[0])]
    assert curves.named(same) == (["run 0", "run 2"], "capsnet, 1 routing iteration · digits")
    assert curves.named([histories[0], curves.History("table", HISTORY)])[1] == ""


def test_more_runs_than_are_told_apart_by_their_colours_are_refused():
    with pytest.raises(FigureError, match="9 runs are too many for one chart, 8 at most"):
        curves.draw([curves.History(str(number), HISTORY) for number in range(9)])
    assert len(set(style.SERIES)) == 8


@pytest.mark.parametrize("accuracy", [1.0, 0.0, 0.5])
def test_a_single_epoch_gives_curves_too(accuracy):
    row = {"epoch": 1, "train/loss": 0.2, "train/accuracy": accuracy, "test/accuracy": accuracy}
    figure = curves.draw([curves.History("a", [row])])
    assert rendering.png(figure)
    assert ticks_of(figure.axes[0].xaxis) == ["1"]


def test_without_an_epoch_there_are_no_curves():
    with pytest.raises(FigureError, match="no curves picture: no epoch has ended yet"):
        curves.draw([curves.History("a", [])])
    with pytest.raises(FigureError, match="no curves picture: no epoch of b has ended yet"):
        curves.draw([curves.History("a", HISTORY), curves.History("b", [])])


# scales


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (1, [1]),
        (2, [1, 2]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (28, [1, 5, 10, 15, 20, 25]),
        (50, [1, 10, 20, 30, 40, 50]),
        (1000, [1, 200, 400, 600, 800, 1000]),
        (10**9, [1, 2 * 10**8, 4 * 10**8, 6 * 10**8, 8 * 10**8, 10**9]),
    ],
)
def test_epochs_are_marked_from_the_first_on_and_never_at_zero(last, expected):
    assert scales.epochs(1, last) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.6, 13, [1, 2, 5, 10]),
        (0.067, 0.4, [0.07, 0.1, 0.2, 0.3]),
        (0.08, 45, [0.1, 0.2, 0.5, 1, 2, 5, 10, 20]),
        (0.0011, 100, [0.01, 0.1, 1, 10, 100]),
        (0.71, 0.79, [0.72, 0.74, 0.76, 0.78]),
        (1e-20, 1e10, [1e-20, 1e-16, 1e-12, 1e-08, 0.0001, 1, 1e4, 1e8]),
    ],
)
def test_a_logarithm_is_marked_at_round_numbers(low, high, expected):
    assert scales.marks(low, high) == pytest.approx(expected)


def test_an_epoch_without_an_error_is_drawn_at_zero_below_all_others():
    rows = [{"epoch": n, "test/accuracy": accuracy} for n, accuracy in enumerate((0.9, 0.99, 1.0), start=1)]
    error = curves.draw([curves.History("a", rows)]).axes[1]
    heights = [y for _, y in lines_of(error)["test"]]
    assert heights[:2] == [10, 1] and heights[2] < 1
    assert dict(zip(error.get_yticks(), ticks_of(error.yaxis), strict=True))[heights[2]] == "0"


def test_what_has_no_logarithm_is_drawn_without_one():
    rows = [{"epoch": 1, "test/loss": -0.5}, {"epoch": 2, "test/loss": 0.5}]
    loss, error = curves.draw([curves.History("a", rows)]).axes
    assert (loss.get_yscale(), loss.get_title("left")) == ("linear", "loss")
    assert lines_of(loss)["test"] == [[1, -0.5], [2, 0.5]]
    assert error.get_yscale() == "linear", "of which there is nothing"


# sheets


def test_a_sheet_holds_the_very_pixels_of_its_images():
    images = randomness.integers(0, 0, 255, (2, 1, 28, 28), "pixels").to(torch.uint8)
    drawn = pixels_of(sheet.draw([sheet.Block([("name", images)])], "title", "of"))
    for image in images[:, 0].numpy():
        magnified = image.repeat(3, axis=0).repeat(3, axis=1)
        assert contains(drawn, np.repeat(magnified[..., None], 3, axis=2))


def test_many_images_go_below_each_other_at_a_size_that_can_be_seen():
    images = torch.zeros(30, 1, 28, 28, dtype=torch.uint8)
    block = sheet.Block([("image", images)], [("label", [str(n) for n in range(30)])], "right")
    strips, layout = sheet.laid_out([block])
    assert [strip.columns for strip in strips] == [10, 10, 10]
    assert [strip.title for strip in strips] == ["right", "", ""]
    assert [label for strip in strips for label in strip.captions[0][1]] == [str(n) for n in range(30)]
    assert layout.side >= 56
    figure = sheet.draw([block], "title", "of")
    assert figure.get_figwidth() <= style.PAGE + 0.01


def test_labels_that_are_wider_than_images_move_them_apart():
    images = torch.zeros(8, 1, 12, 12, dtype=torch.uint8)
    wide = [sheet.Block([("image", images)], [("label", ["123 → 456"] * 8)])]
    _, layout = sheet.laid_out(wide)
    assert layout.across >= style.text_width("123 → 456") * style.DOTS


def test_colours_are_shown_as_colours_and_of_two_cameras_the_first():
    colours, cameras = torch.rand(2, 3, 4, 5), torch.rand(2, 2, 4, 5)
    assert torch.equal(sheet.pixels(colours), colours)
    assert torch.equal(sheet.pixels(cameras), cameras[:, :1].expand(2, 3, 4, 5))


@pytest.mark.parametrize(("side", "shown"), [(8, 88), (28, 84), (48, 48), (64, 64), (300, 90)])
def test_images_of_any_size_are_magnified_by_a_whole_number_or_made_smaller(side, shown):
    assert sheet.zoomed(torch.zeros(1, 1, side, side), 90).shape == (1, shown, shown, 3)


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
    for kind, figure in gallery(subject, images, [], seed=0):
        if kind in ("reconstruct", "perturb"):
            drawn, sides = pixels_of(figure), (60, 72, 84)  # whichever fits
            shown = [image.numpy() for side in sides for image in sheet.zoomed(pixels, side)]
            assert any(contains(drawn, image) for image in shown), kind


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
    """A network without capsules: a linear layer and softmax."""

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
    drawn = gallery(subject, tested, history, seed=0)
    assert [kind for kind, _ in drawn] == ["curves", "confusion"]
    seen = rotate.moved(subject, tested[:1], 0, rotate.MOTIONS["rotate"])
    assert seen.reconstructions is None and seen.scores == "probability"
    torch.testing.assert_close(seen.lengths.sum(1), torch.ones(73))


def test_the_gallery_of_pairs_has_their_overlap(pairs):
    subject, images = pairs
    drawn = dict(gallery(subject, images, [], seed=0))
    assert list(drawn) == ["confusion", "reconstruct", "perturb", "overlap", "couplings"]
    for figure in drawn.values():
        assert Image.open(io.BytesIO(rendering.png(figure))).format == "PNG"


def test_the_gallery_is_the_same_each_time_and_disturbs_no_random_numbers(subject, tested):
    random = torch.get_rng_state()
    first, second = (
        [(kind, rendering.png(figure)) for kind, figure in gallery(subject, tested, HISTORY, seed=0)]
        for _ in range(2)
    )
    assert first == second and len(first) == 5
    assert torch.equal(torch.get_rng_state(), random)


# pages


def words_of(figure: Figure) -> list[Text]:
    """Return all visible text of a figure."""
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        found += [*axes.texts, *(legend.get_texts() if (legend := axes.get_legend()) else ())]
        if not axes.axison:
            continue
        found += [getattr(axes, name) for name in ("title", "_left_title", "_right_title")]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            found += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            found.append(axis.label)
    return [text for text in found if text.get_text().strip() and text.get_visible()]


def faults_of(figure: Figure) -> list[str]:
    """List text that leaves the figure, lies over other text, or has a size unusual in papers."""
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # but laid out
    words = words_of(figure)
    assert len(words) > 2
    boxes = [text.get_window_extent(canvas.get_renderer()).padded(-1) for text in words]
    width, height = canvas.get_width_height()
    found = [
        f"{text.get_text()!r} is cut"
        for text, box in zip(words, boxes, strict=True)
        if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height
    ]
    found += [
        f"{words[first].get_text()!r} lies over {words[second].get_text()!r}"
        for first in range(len(words))
        for second in range(first)
        if boxes[first].overlaps(boxes[second])
    ]
    found += [
        f"{text.get_text()!r} has {text.get_fontsize()} points"
        for text in words
        if not 7 <= float(text.get_fontsize()) <= 9
    ]
    if figure.get_figwidth() > style.PAGE + 0.01:
        found.append(f"{figure.get_figwidth()} inches are more than a page has")
    return found


LONG = "run-" + "x" * 96
MANY = [row | {"epoch": row["epoch"] + 2 * n} for n in range(40) for row in HISTORY]


def drawings(subject: Any, tested: Images, tiny_splits: Any, pairs: Any) -> dict[str, Figure]:
    """Every kind of picture, with much text: long names, many classes, iterations and runs."""
    decoder = primary.train(subject, tiny_splits.train, 0, 1, lambda line: None)
    drawn = dict(gallery(subject, tested, HISTORY, seed=0))
    drawn["primary"] = primary.picture(subject, decoder, tested, sample=3)
    for name in ("rotate", "shear"):
        motion = rotate.MOTIONS[name]
        seen = rotate.moved(subject, tested[:1], 0, motion)
        drawn[name] = rotate.draw(seen, rotate.accuracies(subject, tested[:2], motion), 2)
    of_pairs, images = pairs
    drawn |= {f"{kind} of pairs": figure for kind, figure in gallery(of_pairs, images, [], seed=0)}
    drawn["long history"] = curves.draw([curves.History(LONG, MANY)])
    drawn["runs"] = curves.draw([curves.History(f"{LONG}{n}", MANY, subject.config) for n in range(8)])
    for classes in (2, 26):
        counts = torch.randint(0, 900, (classes, classes), generator=torch.Generator().manual_seed(0))
        drawn[f"confusion of {classes}"] = confusion.draw(counts, f"{classes} classes", LONG)
    for places in (2, 11):
        shown = couplings.Example(7, "4 and 9", torch.full((10, places), 1 / places))
        names = [f"iteration {number}" for number in range(1, 11)]
        entropies = math.log2(places) * torch.rand(10, 5, 9, generator=torch.Generator().manual_seed(0))
        drawn[f"couplings to {places}"] = couplings.draw(entropies, shown, places, names, LONG)
    wide = Images(torch.zeros(30, 1, 28, 28, dtype=torch.uint8), torch.arange(100, 130))
    cases = reconstruct.Cases(wide, wide.labels + 70, torch.zeros(30, 1, 28, 28), torch.zeros(30, 1, 28, 28))
    grid = torch.zeros(100, 11, 1, 28, 28)
    drawn["many dimensions"] = perturb.draw(wide[:1], 100, grid, 7, LONG, "effect")
    drawn["a note"] = sheet.draw([sheet.Block([("", wide.images[:1])])], "title", "of", "note " * 25)
    drawn["reconstruct of many classes"] = reconstruct.draw(cases, cases, "title " * 40, LONG)
    return drawn


def test_whatever_is_drawn_is_of_a_papers_size_and_no_word_is_cut_or_lies_over_another(
    subject, tested, tiny_splits, pairs
):
    with rendering.defaults():
        drawn = drawings(subject, tested, tiny_splits, pairs)
        faults = {name: found for name, figure in drawn.items() if (found := faults_of(figure))}
    assert faults == {}


def test_the_guard_of_pages_can_fail():
    figure = Figure(figsize=(9, 1))
    for x, size in ((0.0, 8), (0.01, 8), (0.99, 8), (0.5, 5)):
        figure.text(x, 0.5, f"at {x}", size=size)
    faults = faults_of(figure)
    assert faults == [
        "'at 0.99' is cut",
        "'at 0.01' lies over 'at 0.0'",
        "'at 0.5' has 5.0 points",
        "9.0 inches are more than a page has",
    ]


def test_every_picture_says_which_run_model_and_data_set_it_is_of(subject, tested):
    subject = replace(subject, label="run 3 (tiny)", epoch=2)
    origin = "run 3 (tiny) · capsnet, 3 routing iterations · digits"
    seen = rotate.moved(subject, tested[:1], 0, rotate.MOTIONS["shift"])
    figures = dict(gallery(subject, tested, HISTORY, seed=0)) | {"shift": rotate.draw(seen, [(0, 1.0)], 1)}
    for kind, figure in figures.items():
        expected = origin if kind == "curves" else f"{origin} · epoch 2"
        assert expected in [text.get_text() for text in figure.texts], kind
    assert seen.origin == f"{origin} · epoch 2"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"model": {"routing": {"name": "self"}}}, "run · capsnet, self-routing · mnist"),
        ({"model": {"routing": {"name": "attention"}}}, "run · capsnet, attention routing · mnist"),
        ({"route_iters": 1}, "run · capsnet, 1 routing iteration · mnist"),
        ({"model": {"name": "matrix_capsnet"}}, "run · matrix_capsnet, 3 EM iterations · mnist"),
        ({"model": {"name": "cnn"}, "name": "base"}, "base · cnn · mnist"),
        (
            {
                "model": {"name": "efficient_capsnet"},
                "dataset": {"name": "folder", "root": "/a/birds", "size": 28, "classes": 3},
            },
            "run · efficient_capsnet · folder birds",
        ),
    ],
)
def test_the_origin_of_a_picture_names_network_routing_and_data(keys, expected):
    config = Config.model_validate(keys)
    assert titles.origin(config) == expected
    assert (
        titles.origin(config, "mine", 7, best=True)
        == f"mine · {expected.partition(' · ')[2]} · epoch 7, best on validation"
    )


def test_a_heading_that_is_too_long_is_wrapped_and_keeps_every_letter():
    def width(text: str) -> float:
        return float(len(text))

    assert style.wrapped("one two three", 7, width) == ["one two", "three"]
    assert style.wrapped("a bcdefghij k", 4, width) == ["a", "bcde", "fghi", "j k"]
    assert style.wrapped("", 4, width) == []
