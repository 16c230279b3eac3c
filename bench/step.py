"""Costs of one training step: batch, augmentation, forward, losses, backward, optimizer.

    python bench/step.py                                      # the paper's network and the ordinary one
    python bench/step.py capsnet ordinary efficient_capsnet cnn --rounds 5
    python bench/step.py matrix_capsnet --set batch_size=32 --rounds 3
    python bench/step.py capsnet ordinary --precision float32 bfloat16 --json
    python bench/step.py capsnet --precision bfloat16 --mode eager compiled
    python bench/step.py capsnet --set route_iters=1 --set threads=1

Steps are those of training itself, on the GPU where there is one (else or with `--set use_cuda=false` on
the CPU), of images that are noise. `ordinary` is the paper's network as most people would write it
(bench/ordinary.py), in float32: what "times faster" refers to; where bfloat16 is asked for, it is measured
under autocast as well. (On a GPU its convolutions have no TensorFloat-32, as ours have none in float32,
though PyTorch's own default is to use it.) All are measured in turn, round by round, and in the same rounds
what bounds them: a product of matrices, and the bare two convolutions of the paper's network, forward and
backward, at the same batch. Operations are those of convolutions and matrix products as they were carried
out; what an implementation computes twice counts twice, so compare images/s. Memory is the peak of a
process of its own, on a GPU what its tensors took beside the others'. `first s`: seconds that the very first
step took, compilation included (from nothing, where TORCHINDUCTOR_CACHE_DIR names an empty folder). On a busy
machine compare only within one run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from measure import Cost, Measured, Parser, costs, described, machine, peak_of, run, said, timed, whole
from variants import (
    ORDINARY,
    PAPER,
    STEPS,
    Convolutions,
    Product,
    Variant,
    add_options,
    applied,
    model,
    training,
    variants,
)

from capsnet.config import Config

SIDES = {"cpu": 2048, "cuda": 8192}  # of the matrices


@dataclass(frozen=True)
class Row:
    """Figures of a variant beside its bounds."""

    name: str
    images: int  # a step
    cost: Cost
    peak_bytes: int
    product: Cost
    convolutions: Cost
    times_convolutions: float | None  # the time of a step; None where these are not its own
    times_as_fast: float | None  # as the ordinary implementation, where that was measured

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            **described(self.cost),
            "images_per_second": self.images / self.cost.times.median,
            "share_of_product": self.share_of(self.product),
            "share_of_convolutions": self.share_of(self.convolutions),
            "times_convolutions": self.times_convolutions,
            "times_as_fast_as_ordinary": self.times_as_fast,
            "peak_bytes": self.peak_bytes,
        }

    def share_of(self, bound: Cost) -> float:
        """Return the share of the bound's operations a second that the variant reaches."""
        return self.cost.flop_per_second / bound.flop_per_second

    def __str__(self) -> str:
        return (
            f"{self.name:<34}{timed(self.cost)}{self.images / self.cost.times.median:>10,.0f}"
            f"{self.cost.flop_per_second / 1e9:>10,.0f}"
            f"{self.share_of(self.product):>9.0%}{self.share_of(self.convolutions):>9.0%}"
            f"{times(self.times_convolutions)}{times(self.times_as_fast)}"
            f"{self.peak_bytes / 2**20:>10,.0f}{self.cost.first_seconds:>9.1f}"
        )


HEADER = (
    f"{'':<34}{'ms a step':>10}{'quartiles':>20}{'images/s':>10}{'GFLOP/s':>10}{'of prod.':>9}{'of conv.':>9}"
    f"{'× conv.':>9}{'faster':>9}{'peak MiB':>10}{'first s':>9}"
)


def times(factor: float | None) -> str:
    return f"{'–' if factor is None else f'{factor:.2f}':>9}"


def bounds(chosen: list[Variant], side: int | None) -> dict[str, Measured]:
    """Make the product and the convolutions in each precision, at the chosen sizes of the paper's network."""
    reference = next((each for each in chosen if each.model in PAPER), None)
    first = chosen[0].config()
    same = {"batch_size": first.batch_size, "use_cuda": first.use_cuda, "threads": first.threads}
    settings = reference.config() if reference else Config.model_validate(same)
    device = applied(settings).device
    found: dict[str, Measured] = {}
    for precision in dict.fromkeys(each.precision for each in chosen):
        found[f"product {precision}"] = Product(side or SIDES[device], device, precision)
        found[f"convolutions {precision}"] = Convolutions(settings, precision)
    return found


def rows(chosen: list[Variant], found: dict[str, Cost], peaks: dict[str, int]) -> list[Row]:
    ordinary = next((found[each.name] for each in chosen if each.model == ORDINARY), None)
    made = []
    for each in chosen:
        cost, convolutions = found[each.name], found[f"convolutions {each.precision}"]
        made.append(
            Row(
                name=each.name,
                images=each.config().batch_size,
                cost=cost,
                peak_bytes=peaks[each.name],
                product=found[f"product {each.precision}"],
                convolutions=convolutions,
                times_convolutions=cost.beside(convolutions) if each.model in PAPER else None,
                times_as_fast=ordinary.beside(cost) if ordinary and each.model in PAPER else None,
            )
        )
    return made


def main() -> None:
    parser = Parser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*", type=model, help="capsnet and ordinary by default")
    add_options(parser)
    parser.add_argument("--side", type=whole(1), help="of the matrices of the product; 2048, 8192 on a GPU")
    given = parser.parse_args()
    chosen = variants(given.models or PAPER, given.precision, given.mode, given.set)
    measured = {each.name: training(each) for each in chosen}
    bounding = bounds(chosen, given.side)
    device = measured[chosen[0].name].device
    # Before the peaks: on a CPU the processes of `peak_of` then find their code compiled.
    found = costs({**measured, **bounding}, given.rounds, given.steps or STEPS[device])
    peaks = {each.name: peak_of(training, device, each) for each in chosen}
    table = rows(chosen, found, peaks)
    facts = {**machine(device), "rounds": given.rounds, "steps": given.steps or STEPS[device]}
    if given.json:
        limits = {name: described(found[name]) for name in bounding}
        print(json.dumps({"machine": facts, "rows": [row.as_dict() for row in table], "bounds": limits}))
        return
    print(said(facts), HEADER, *table, sep="\n")
    for name in bounding:
        print(f"{name:<34}{timed(found[name])}{'':>10}{found[name].flop_per_second / 1e9:>10,.0f}")


if __name__ == "__main__":
    run(main)
