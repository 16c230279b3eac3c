"""Bounds of each part of a training step, arithmetic or memory: a table and a roofline picture.

    python bench/roofline.py                                # the paper's network, in float32 and bfloat16
    python bench/roofline.py --output docs/roofline.png
    python bench/roofline.py --precision float32 --set batch_size=32 --json

Each part, forward and backward, is run by itself on random numbers of the sizes that it has in the network,
on a GPU as a CUDA graph; activations, losses and augmentation are in none of them. Its operations are those
of products and convolutions as they are carried out (of Adam, 12 for each weight); its bytes are those that
must move at least: inputs and weights forward and backward, outputs and gradients once. Their ratio is the
arithmetic intensity: beyond the ridge a part is bound by arithmetic (measured: a product of large matrices),
before it by memory (measured: the sum of two large vectors into a third). A part above the roof is computed
by better code than that product, or finds its operands in the processor's cache. Williams, Waterman,
Patterson 2009.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import Cost, Measured, Parser, costs, machine, operations, replayed, run, said, whole
from step import SIDES
from torch import nn
from variants import PRECISIONS, STEPS, Product, Variant, noise, resolved

from capsnet import batches, datasets, models
from capsnet.capsule_network import CapsNet
from capsnet.config import Config
from capsnet.execution import Execution

ADAM_FLOP = 12  # for each weight: two running means, a root, a quotient, a step
VECTOR = 2**25  # numbers, of float32: 128 MiB, which no cache holds


@dataclass
class Part:
    """A part of the step that can be run by itself."""

    name: str
    device: str
    step: Callable[[], None]
    bytes: int
    flop: int | None = None  # None: counted by `operations`


@dataclass(frozen=True)
class Point:
    """Position of a part under the roof."""

    name: str
    flop: int
    bytes: int
    seconds: float

    @property
    def intensity(self) -> float:
        """Arithmetic intensity in operations a byte."""
        return self.flop / self.bytes

    @property
    def flop_per_second(self) -> float:
        return self.flop / self.seconds


@dataclass(frozen=True)
class Roof:
    """Limits of the machine: operations and bytes a second."""

    flop_per_second: float
    bytes_per_second: float

    def above(self, intensity: float) -> float:
        """Return the most operations a second at an intensity."""
        return min(self.flop_per_second, intensity * self.bytes_per_second)


class Sum:
    """The sum of two vectors, into a third."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.vectors = [torch.ones(VECTOR, device=device) for _ in range(3)]

    def step(self) -> None:
        torch.add(self.vectors[0], self.vectors[1], out=self.vectors[2])

    @property
    def bytes(self) -> int:
        return sum(vector.nbytes for vector in self.vectors)


def parts(settings: Config, how: Execution) -> list[Part]:
    """Cut the paper's network into its parts."""
    shape = datasets.shape(settings.dataset)
    network = models.build(settings, shape)
    assert isinstance(network, CapsNet)
    network.to(how.device).to(memory_format=how.torch_memory_format)
    images = noise(settings).to(how.device)
    inputs = next(batches.batches(settings, images, how.device, start=(1, 0))).inputs
    with torch.no_grad(), how.autocast():
        features = F.relu(network.conv(inputs))
        capsules = network.primary(features)
        classes = network.classes(capsules)
    found = [
        layer("first convolution", how, network.conv, inputs, gradient=False),
        layer("primary capsules", how, network.primary, features),
        layer(f"routing, {settings.route_iters} iterations", how, network.classes, capsules),
    ]
    if network.decoder is not None:
        found.append(layer("decoder", how, network.decoder, classes))
    return [*found, adam(network, how)]


def layer(name: str, how: Execution, module: nn.Module, inputs: torch.Tensor, gradient: bool = True) -> Part:
    """Make a part of a module, forward and backward; `gradient`: also towards its inputs."""
    inputs = inputs.detach().requires_grad_(gradient)
    with how.autocast():
        upstream = torch.ones_like(module(inputs))

    def step() -> None:
        inputs.grad = None
        module.zero_grad()
        with how.autocast():
            outputs = module(inputs)
        outputs.backward(upstream)

    # Inputs and weights are read twice, outputs and their gradient once; gradients are written.
    least = 3 * size(module.parameters()) + (3 if gradient else 2) * size([inputs]) + 2 * size([upstream])
    return Part(name, how.device, step, least)


def adam(network: nn.Module, how: Execution) -> Part:
    """Make a part of Adam: weights, gradients, both running means are read; all but gradients are written."""
    weights = list(network.parameters())
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.Adam(weights, fused=True, capturable=how.device == "cuda")

    def step() -> None:
        optimizer.step()

    flop = ADAM_FLOP * sum(weight.numel() for weight in weights)
    return Part("Adam", how.device, step, 7 * size(weights), flop)


def recorded(part: Part) -> Part:
    """Record a part as a graph on a GPU, where launching its operations one by one takes longer than it."""
    if part.device != "cuda":
        return part
    flop = operations(part) if part.flop is None else part.flop
    return replace(part, step=replayed(part.step), flop=flop)


def size(tensors: Iterable[torch.Tensor]) -> int:
    """Return the size of tensors in bytes."""
    return sum(tensor.nbytes for tensor in tensors)


def points(chosen: list[Part], found: dict[str, Cost]) -> list[Point]:
    """Return the point of each part, and of all parts together."""
    made = [
        Point(
            part.name,
            found[part.name].flop if part.flop is None else part.flop,
            part.bytes,
            found[part.name].times.median,
        )
        for part in chosen
    ]
    together = Point(
        "all of these",
        sum(point.flop for point in made),
        sum(point.bytes for point in made),
        sum(point.seconds for point in made),
    )
    return [*made, together]


def table(found: dict[str, list[Point]], roofs: dict[str, Roof]) -> Iterable[str]:
    yield f"{'':<34}{'ms':>10}{'GFLOP':>10}{'MB':>10}{'FLOP/B':>10}{'GFLOP/s':>10}{'of roof':>10}"
    for precision, those in found.items():
        for point in those:
            share = point.flop_per_second / roofs[precision].above(point.intensity)
            yield (
                f"{precision + ' ' + point.name:<34}{point.seconds * 1e3:>10,.1f}{point.flop / 1e9:>10,.2f}"
                f"{point.bytes / 1e6:>10,.0f}{point.intensity:>10,.1f}{point.flop_per_second / 1e9:>10,.0f}"
                f"{share:>10.0%}"
            )


def draw(found: dict[str, list[Point]], roofs: dict[str, Roof], title: str, path: Path) -> None:
    """Draw the picture; raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    lowest = min(point.intensity for those in found.values() for point in those) / 2
    highest = max(point.intensity for those in found.values() for point in those) * 3
    for color, (precision, those) in zip(("tab:blue", "tab:orange"), found.items(), strict=False):
        roof = roofs[precision]
        ridge = roof.flop_per_second / roof.bytes_per_second
        along = [lowest, ridge, highest]
        axes.plot(along, [roof.above(x) / 1e9 for x in along], color=color, label=f"{precision}: roof")
        for marker, point in zip("osD^vP", those, strict=False):
            at = point.intensity, point.flop_per_second / 1e9
            axes.plot(*at, marker, color=color, label=f"{precision}: {point.name}")
    axes.set(xscale="log", yscale="log", title=title)
    axes.set_xlabel("operations a byte that must be moved")
    axes.set_ylabel("GFLOP/s")
    axes.grid(which="both", alpha=0.2)
    axes.legend(fontsize="small", loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = Parser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=whole(2), default=11, help="each measures everything once")
    parser.add_argument("--side", type=whole(1), help="of the matrices of the product; 2048, 8192 on a GPU")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in a run's YAML")
    parser.add_argument("--output", type=Path, help="a PNG to draw")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found: dict[str, list[Point]] = {}
    roofs: dict[str, Roof] = {}
    facts: dict[str, Any] = {}
    for precision in given.precision:
        settings, how = resolved(Variant("capsnet", precision, overrides=tuple(given.set)))
        chosen = [recorded(part) for part in parts(settings, how)]
        vectors = Sum(how.device)
        product = Product(given.side or SIDES[how.device], how.device, precision)
        measured: dict[str, Measured] = {part.name: part for part in chosen}
        cost = costs({**measured, "product": product, "sum": vectors}, given.rounds, STEPS[how.device])
        found[precision] = points(chosen, cost)
        roofs[precision] = Roof(cost["product"].flop_per_second, vectors.bytes / cost["sum"].times.median)
        facts = {**machine(how.device), "rounds": given.rounds}
    if given.output is not None:
        draw(
            found,
            roofs,
            f"{facts['device']}, {facts['threads']} threads: the parts of a training step",
            given.output,
        )
    if given.json:
        rows = {precision: [asdict(point) for point in those] for precision, those in found.items()}
        limits = {precision: asdict(roof) for precision, roof in roofs.items()}
        print(json.dumps({"machine": facts, "parts": rows, "roofs": limits}))
        return
    print(said(facts), *table(found, roofs), sep="\n")
    for precision, roof in roofs.items():
        bounds = f"{roof.flop_per_second / 1e9:,.0f} GFLOP/s, {roof.bytes_per_second / 1e9:,.1f} GB/s"
        print(f"{precision + ' roof':<34}{bounds}")


if __name__ == "__main__":
    run(main)
