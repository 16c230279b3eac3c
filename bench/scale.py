"""Growth of a training step's time and memory with the batch, routing iterations, types, size, classes.

    python bench/scale.py iterations                       # 1 to 10
    python bench/scale.py batch types size classes --rounds 5
    python bench/scale.py size --values 28 56 --models capsnet --precision bfloat16 --json
    python bench/scale.py classes --set batch_size=32 --set route_iters=1

Each goes from the paper's network on grey pixels, 28×28 and of ten classes, changed by `--set`, and varies
one thing. Time and memory are those of bench/step.py, of noise; all values of one thing are measured in
turn, round by round. `× first` is the time beside that of the first value.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from measure import Cost, Parser, costs, described, machine, peak_of, run, said, timed, whole
from variants import PAPER, STEPS, Variant, add_options, applied, mistake, training, variants

# A folder of images can have any size and classes; none is read.
IMAGES = {"name": "folder", "root": "noise", "size": 28, "classes": 10, "channels": 1, "shift": 2}


@dataclass(frozen=True)
class Axis:
    """Setting that is varied, with its values."""

    key: str  # of the configuration
    values: tuple[int, ...]


AXES = {
    "batch": Axis("batch_size", (16, 32, 64, 128, 256)),
    "iterations": Axis("route_iters", tuple(range(1, 11))),
    "types": Axis("model.primary_types", (8, 16, 32, 64)),
    "size": Axis("dataset.size", (28, 32, 40, 48, 64)),
    "classes": Axis("dataset.classes", (5, 10, 20, 50, 100)),
}


@dataclass(frozen=True)
class Row:
    """A variant at one value."""

    variant: Variant
    value: int
    cost: Cost
    peak_bytes: int
    first: Cost  # at the first value

    @property
    def images_per_second(self) -> float:
        return self.variant.config().batch_size / self.cost.times.median

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.variant.name,
            "value": self.value,
            **described(self.cost),
            "images_per_second": self.images_per_second,
            "times_first": self.cost.beside(self.first),
            "peak_bytes": self.peak_bytes,
        }

    def __str__(self) -> str:
        return (
            f"{self.variant.name:<34}{self.value:>6}{timed(self.cost)}{self.cost.beside(self.first):>9.2f}"
            f"{self.images_per_second:>10,.0f}{self.peak_bytes / 2**20:>10,.0f}"
        )


def header(axis: Axis) -> str:
    columns = f"{'ms a step':>10}{'quartiles':>20}{'× first':>9}{'images/s':>10}{'peak MiB':>10}"
    return f"{axis.key:>40}{columns}"


def along(axis: Axis, chosen: list[Variant], rounds: int, steps: int | None) -> list[Row]:
    """Measure each variant at each of the axis's values, in that order."""
    points = {(each, value): at(each, axis, value) for each in chosen for value in axis.values}
    measured = {key: training(point) for key, point in points.items()}
    device = next(iter(measured.values())).device
    found = costs(measured, rounds, steps or STEPS[device])
    peaks = {key: peak_of(training, device, point) for key, point in points.items()}
    first = axis.values[0]
    return [Row(points[key], key[1], found[key], peaks[key], found[key[0], first]) for key in points]


def at(variant: Variant, axis: Axis, value: int) -> Variant:
    return replace(variant, overrides=(*variant.overrides, f"{axis.key}={value}"))


def axes(names: list[str], values: list[int] | None, overrides: list[str]) -> list[Axis]:
    """Return the axes to vary; raises ConfigError where `--set` or `--values` conflict with them."""
    if values and len(names) != 1:
        raise mistake(f"--values are those of one thing: name one of {', '.join(AXES)}")
    chosen = [replace(AXES[name], values=tuple(values or AXES[name].values)) for name in names]
    for axis in chosen:
        if axis.key in keys(overrides):
            raise mistake(f"{axis.key} is what is varied: leave it out of --set")
    return chosen


def keys(overrides: list[str]) -> set[str]:
    return {override.partition("=")[0].strip() for override in overrides}


def around(axis: Axis, overrides: list[str]) -> list[str]:
    """Return the overrides for all values of an axis: the user's, and IMAGES where neither sets the key."""
    taken = keys(overrides) | {axis.key}
    images = {f"dataset.{key}": value for key, value in IMAGES.items()}
    return [f"{key}={value}" for key, value in images.items() if key not in taken] + overrides


def main() -> None:
    parser = Parser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("axes", nargs="+", choices=AXES, help="what to vary")
    parser.add_argument("--values", nargs="+", type=whole(1), help="in place of those of the one axis")
    parser.add_argument("--models", nargs="+", choices=PAPER, default=PAPER)
    add_options(parser)
    given = parser.parse_args()
    chosen = axes(given.axes, given.values, given.set)
    trained = [
        variants(given.models, given.precision, given.mode, around(axis, given.set)) for axis in chosen
    ]
    facts = machine(applied(at(trained[0][0], chosen[0], chosen[0].values[0]).config()).device)
    if not given.json:
        print(said(facts), flush=True)
    found: dict[str, Any] = {}
    for name, axis, those in zip(given.axes, chosen, trained, strict=True):
        rows = along(axis, those, given.rounds, given.steps)
        found[name] = [row.as_dict() for row in rows]
        if not given.json:
            print(header(axis), *rows, sep="\n", flush=True)
    if given.json:
        print(json.dumps({"machine": facts, **found}))


if __name__ == "__main__":
    run(main)
