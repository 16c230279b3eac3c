"""`figures`: pictures of a run's network, drawn by its number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from capsnet.figures.kinds import ALL, KINDS
from runner import exits
from runner.commands.options import RunArgument
from runner.output import CommandError, emit, hint

Kinds = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KIND]...",
        help=f"{', '.join(KINDS)}; without one all that take seconds.",
        show_default=False,
    ),
]
Best = Annotated[bool, typer.Option("--best", help="The weights that did best on validation.")]


def figures(run: RunArgument, kinds: Kinds = None, best: Best = False) -> None:
    """Draw pictures of what RUN has learnt so far into its folder, and print where they are.

    They are computed on the CPU, beside whatever the GPUs are booked for. MLflow gets what is in the folder
    when the run ends; what is drawn later stays there.

    \b
    Examples:
      python -m runner figures 3
      python -m runner figures 3 perturb rotate
    """
    from runner import storage
    from runner.commands.access import named, open_queue, require_folders

    for kind in kinds or []:
        if kind not in KINDS:
            raise CommandError(f"there is no picture {kind!r}: choose from {', '.join(KINDS)}")
    with open_queue() as (home, store):
        chosen = named(store, run)
        if chosen.attempt:
            require_folders(home, "draw them")
    kept = storage.of(home)
    with kept.checkpoint(chosen) as checkpoint:
        if checkpoint is None:
            raise CommandError(f"run {chosen.id} is {chosen.state} and has saved nothing yet to draw")
        done = [_draw(kind, checkpoint, best) for kind in kinds or [ALL]]
        kept.keep_figures(checkpoint)
    if not all(done):
        raise typer.Exit(exits.USAGE)


def _draw(kind: str, checkpoint: Path, best: bool) -> bool:
    """Have a child draw, as it needs PyTorch; what it cannot draw it says on stderr. Whether it could."""
    # -P: a file in the current directory must not be imported in the place of a module.
    command = [sys.executable, "-P", "-m", "capsnet", kind, str(checkpoint)]
    if best and kind != "curves":  # those are of all epochs
        command.append("--best")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        for line in child.stdout:
            emit(os.path.realpath(line.rstrip("\n")))  # beside a copy the folder is a link to the run's own
    if child.returncode < 0:  # it could say nothing itself
        hint(f"drawing {kind} was ended by signal {-child.returncode}")
    return child.returncode == 0
