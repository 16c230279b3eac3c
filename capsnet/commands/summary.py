"""`summary`: the layers of a network, the shapes of their outputs, their parameters."""

from __future__ import annotations

from argparse import Namespace

from capsnet import datasets
from capsnet.config import load
from capsnet.layout import Column, LeaveOut, fit, line
from capsnet.models import Layer, build, layers
from capsnet.printable import say
from capsnet.streams import terminal_width

COLUMNS = (Column("layer"), Column("kind"), Column("output"), Column("parameters", right=True))
GIVES_WAY = (LeaveOut("kind"), LeaveOut("output"))  # in this order, on a terminal that is too narrow


def run(arguments: Namespace) -> int:
    """Print the network that a file describes; return the exit code."""
    config = load(arguments.file, arguments.set)
    shape = datasets.shape(config.dataset)
    say(f"{config.name}: images {shape.channels}×{shape.height}×{shape.width}, {shape.classes} classes")
    say(table(layers(build(config, shape), shape), terminal_width()))
    return 0


def table(rows: list[Layer], width: int | None = None) -> str:
    """Return one line a layer, then the sum of the parameters; `width`: of the terminal, in cells."""
    cells = [[row.name, row.kind, "×".join(map(str, row.output)), f"{row.parameters:,}"] for row in rows]
    cells.append(["total", "", "", f"{sum(row.parameters for row in rows):,}"])
    fitted = fit(COLUMNS, cells, width, GIVES_WAY)
    lines = [line(fitted.titles), *(line(row.cells) for row in fitted.rows)]
    if fitted.left_out:
        lines.append(f"too narrow for {', '.join(fitted.left_out)}: a wider terminal shows more")
    return "\n".join(lines)
