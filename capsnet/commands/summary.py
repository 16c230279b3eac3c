"""`summary`: the layers of a network, the shapes of what they give, their parameters."""

from __future__ import annotations

from argparse import Namespace

from capsnet import datasets
from capsnet.config import load
from capsnet.models import Layer, build, layers
from capsnet.printable import say


def run(arguments: Namespace) -> int:
    """Print the network that a file describes; the exit code."""
    config = load(arguments.file, arguments.set)
    shape = datasets.shape(config.dataset)
    say(f"{config.name}: images {shape.channels}×{shape.height}×{shape.width}, {shape.classes} classes")
    say(table(layers(build(config, shape), shape)))
    return 0


def table(rows: list[Layer]) -> str:
    """One line a layer, then the sum of the parameters."""
    cells = [("layer", "kind", "output", "parameters")]
    cells += [(row.name, row.kind, "×".join(map(str, row.output)), f"{row.parameters:,}") for row in rows]
    cells.append(("total", "", "", f"{sum(row.parameters for row in rows):,}"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column == 3 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    )
