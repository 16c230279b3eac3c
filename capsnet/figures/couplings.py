"""Picture of how routing sharpens: the couplings of each iteration (Sabour et al. 2017, Appendix A).

Self-routing has no iterations: its couplings are shown before training, when they are even, and after it.

Letters of shapes: B batch, I primary capsules, J classes, R routing iterations, or before and after
training, T types of primary capsules, P positions of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from capsnet.augmentation import for_test
from capsnet.capsule_network import CapsNet
from capsnet.capsules import SelfRoutedCapsules
from capsnet.config import CapsNetModel, Config, SelfRouting
from capsnet.figures import heat, style
from capsnet.figures.kinds import IMAGES
from capsnet.figures.subject import Subject, classes, spread_out
from capsnet.images import Images
from capsnet.routing import chosen, couplings, norm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 50
HEIGHT = 2.5  # inches of the charts
SMALL_EFFECT = 0.005  # couplings that differ by less are written with one more digit,
FEW = 10  # where no more classes than these leave room for it
DARK = 0.35  # from the middle of the scale, of 1: where black numbers could not be read
NUMBERED = 12  # classes at most: more would leave no room for the numbers
PART = 16  # images at once: couplings take 10 numbers a primary capsule


@torch.no_grad()
def primary(subject: Subject, images: Images) -> torch.Tensor:
    """The primary capsules [B, I, K] of test images, float32, on the network's device."""
    network = subject.network
    assert isinstance(network, CapsNet)
    network.eval()
    with subject.execution.autocast():
        batch = for_test(images.to(subject.execution.device), subject.config.dataset)
        return network.primary_capsules(batch.inputs).float()


@torch.no_grad()
def by_iteration(subject: Subject, capsules: torch.Tensor) -> torch.Tensor:
    """Primary capsules [B, I, K] -> the couplings [R, J, B, I] of each routing iteration."""
    numbers = range(1, len(stages(subject.config)) + 1)
    return torch.stack([of_iteration(subject, capsules, number) for number in numbers])


def last(subject: Subject, capsules: torch.Tensor) -> torch.Tensor:
    """Primary capsules [B, I, K] -> the couplings [J, B, I] by which they are routed in the end."""
    return of_iteration(subject, capsules, len(stages(subject.config)))


def stages(config: Config) -> list[str]:
    """Return the names of the R iterations, or of before and after training."""
    model = config.model
    if isinstance(model, CapsNetModel) and isinstance(model.routing, SelfRouting):
        return ["before training", "after training"]
    return [f"iteration {number}" for number in range(1, config.route_iters + 1)]


@torch.no_grad()
def of_iteration(subject: Subject, capsules: torch.Tensor, number: int) -> torch.Tensor:
    """Primary capsules [B, I, K] -> the couplings [J, B, I] of one iteration, counted from 1."""
    network, model = subject.network, subject.config.model
    assert isinstance(network, CapsNet) and isinstance(model, CapsNetModel)
    routed, none = network.classes, model.none_of_the_above
    if number == 1:  # an even share
        count = routed.prior.shape[1] if isinstance(routed, SelfRoutedCapsules) else len(routed.weight)
        return torch.full((count, *capsules.shape[:2]), 1 / (count + none), device=capsules.device)
    if isinstance(routed, SelfRoutedCapsules):
        return chosen(capsules, routed.route, routed.prior).exp()
    return couplings(capsules, routed.weight, routed.bias, number, none)


def entropies(coupling: torch.Tensor) -> torch.Tensor:
    """Couplings [..., J, B, I] -> the entropy in bits [..., B, I] of where each primary capsule goes.

    A share that goes to no class (`model.none_of_the_above`) counts as one more place.
    """
    kept = (1 - coupling.sum(-3, keepdim=True)).clamp(min=0)
    shares = torch.cat([coupling, kept], dim=-3)
    return torch.special.entr(shares).sum(-3) / math.log(2)


def counted(subject: Subject, images: Images) -> torch.Tensor:
    """The entropies [R, N, I] of all primary capsules of N test images, on the CPU."""
    parts = [images[start : start + PART] for start in range(0, len(images), PART)]
    return torch.cat([entropies(by_iteration(subject, primary(subject, p))).cpu() for p in parts], dim=1)


@dataclass(frozen=True)
class Example:
    """One test image, its number, what it shows, and the mean coupling [R, J] of its primary capsules."""

    sample: int
    shows: str
    means: torch.Tensor


def example(subject: Subject, image: Images, sample: int) -> Example:
    """Compute the example of a batch of one image. Each capsule is weighted by its length: 0 means absent."""
    capsules = primary(subject, image)
    weights = norm(capsules)[..., 0]  # [1, I]
    coupling = by_iteration(subject, capsules)
    means = (coupling * weights).sum((-2, -1)) / weights.sum()
    return Example(sample, classes(image), means.cpu())


def picture(
    subject: Subject, test: Images, seed: int, sample: int, count: int = IMAGES["couplings"]
) -> Figure:
    """Draw the couplings of at most `count` test images, chosen by `seed`, and of test image `sample`."""
    indices = spread_out(torch.arange(len(test)), count, seed, "couplings").to(test.labels.device)
    shown = example(subject, test[sample : sample + 1], sample)
    model = subject.config.model
    assert isinstance(model, CapsNetModel)
    places = len(shown.means[0]) + model.none_of_the_above
    return draw(counted(subject, test[indices]), shown, places, stages(subject.config), subject.origin)


def draw(found: torch.Tensor, shown: Example, places: int, names: list[str], origin: str) -> Figure:
    """Draw entropies [R, N, I] of couplings to so many `places`, and the example; R names."""
    title = f"Routing couplings: {found.shape[1]} test images of {found.shape[2]:,} primary capsules"
    figure = style.chart(style.PAGE, HEIGHT, title, origin)
    left, right = figure.subplots(1, 2, width_ratios=(1, 2.3))
    _histogram(left, found, places, names)
    _heat(right, shown, 1 / places, names)
    return figure


def _histogram(axes: Axes, found: torch.Tensor, places: int, names: list[str]) -> None:
    """The entropies of each iteration after the first, in which all are the same."""
    from matplotlib.ticker import MaxNLocator

    most = math.log2(places)
    axes.axvline(most, color=style.GREY, linewidth=1, linestyle="--", label=f"{names[0]}: even")
    low = min(float(found.min()), most - 0.01)
    colours = (style.SKY, style.BLUE, style.ORANGE, style.GREEN, style.PURPLE, style.AMBER, style.BLACK)
    for number, values in enumerate(found[1:].flatten(1)):
        counts, edges = torch.histogram(values, BINS, range=(low, most + 1e-4))
        shares = (100 * counts / len(values)).numpy()
        colour = colours[number % len(colours)]
        axes.stairs(shares, edges.numpy(), color=colour, label=names[number + 1], linewidth=1.2)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.set_xlabel("entropy of its couplings, bits", size=style.TEXT)
    axes.set_yscale("log")  # most capsules have hardly a preference, and would hide those that have
    axes.set_ylim(0.01, 150)
    axes.set_yticks((0.01, 0.1, 1, 10, 100), ("0.01", "0.1", "1", "10", "100"))
    axes.set_ylabel("primary capsules, %", size=style.TEXT)
    axes.tick_params(labelsize=style.SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=style.SMALL, loc="upper left")


def scale_end(means: torch.Tensor, even: float) -> float:
    """The end of a scale from 0 for these couplings: twice the even share, or the next round multiple."""
    highest = float(means.max())
    return next((even * times for times in (2, 5, 10, 20, 50) if highest <= even * times <= 1), 1.0)


def _heat(axes: Axes, shown: Example, even: float, names: list[str]) -> None:
    """The mean couplings of the example, an iteration a row; white is the even share, on a scale from 0."""
    from matplotlib.colors import TwoSlopeNorm

    means, end = shown.means.numpy(), scale_end(shown.means, even)
    scale = TwoSlopeNorm(even, vmin=0, vmax=end)
    mesh = heat.cells(axes, means, "PuOr_r", scale)
    columns = {}
    if means.shape[1] <= NUMBERED:
        cells = [(row, column) for row, column in np.ndindex(*means.shape)]
        dark = np.abs(scale(means) - 0.5) > DARK
        fine = np.ptp(means) < SMALL_EFFECT and means.shape[1] <= FEW
        digits = 4 if fine else 3
        texts = {cell: f"{means[cell]:.{digits}f}".removeprefix("0") for cell in cells}
        heat.number(axes, texts, {cell: "white" if dark[cell] else style.BLACK for cell in cells})
        columns = {number: str(number) for number in range(means.shape[1])}
    heat.name(axes, dict(enumerate(n.removeprefix("iteration ").split()[0] for n in names)), columns)
    axes.set_xlabel("class", size=style.TEXT)
    axes.set_ylabel("iteration" if names[0].startswith("iteration") else "training", size=style.TEXT)
    axes.set_title(f"test image {shown.sample}, which shows {shown.shows}", loc="left", size=style.TEXT)
    ticks = (0, even / 2, even, (even + end) / 2, end)
    heat.explain(axes, mesh, f"mean coupling; white: even, {even:.3g}", "right", ticks, pad=0.03)
