"""`figures`: pictures of the networks of runs, drawn by their numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capsnet.figures.kinds import ALL, KINDS
from runner import exits
from runner.commands.children import Child
from runner.commands.options import RUN_HELP
from runner.commands.selection import chosen, looks_like_runs
from runner.output import CommandError, emit, hint

if TYPE_CHECKING:
    from runner.paths import Home
    from runner.rows import Run
    from runner.store import Store

Words = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN|KIND",
        help=f"{RUN_HELP} KIND: {', '.join(KINDS)}; without one all that take seconds.",
        show_default=False,
    ),
]
Best = Annotated[bool, typer.Option("--best", help="The weights that did best on validation.")]


def figures(words: Words, best: Best = False) -> None:
    """Draw pictures of what each RUN has learnt so far into its folder, and print where they are.

    They are computed on the CPU, beside whatever the GPUs are booked for. MLflow gets what is in the folder
    when the run ends; what is drawn later stays there.

    \b
    Examples:
      python -m runner figures 3
      python -m runner figures 3 5-9 perturb rotate
    """
    from runner.commands.access import open_queue, require_folders

    with open_queue() as (home, store):
        names, kinds = parted(store, words)
        runs = chosen(store, names)
        if any(run.attempt for run in runs):
            require_folders(home, "draw them")
    done = [_drawn(home, run, kinds, best) for run in runs]
    if not all(done):
        raise typer.Exit(exits.USAGE)


def parted(store: Store, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words for runs, of which the first is one, and those for kinds of pictures."""
    first, *others = words
    kinds = [word for word in others if word in KINDS]
    names = [word for word in others if word not in KINDS]
    for word in names:
        if not looks_like_runs(word) and not store.named(word):
            raise CommandError(f"there is no picture {word!r}: choose from {', '.join(KINDS)}")
    return [first, *names], kinds


def _drawn(home: Home, run: Run, kinds: Sequence[str], best: bool) -> bool:
    """Draw pictures of a run; whether all of them could be."""
    from runner import storage

    kept = storage.of(home)
    with kept.checkpoint(run) as checkpoint:
        if checkpoint is None:
            hint(f"run {run.id} is {run.state} and has saved nothing yet to draw")
            return False
        done = [_draw(kind, checkpoint, best) for kind in kinds or [ALL]]
        kept.keep_figures(checkpoint)
    return all(done)


def _draw(kind: str, checkpoint: Path, best: bool) -> bool:
    """Draw a kind of picture; whether it could be."""
    # Those of curves are of all epochs.
    child = Child([kind, str(checkpoint), *(["--best"] if best and kind != "curves" else [])])
    for line in child.lines():
        emit(os.path.realpath(line))  # beside a copy the folder is a link to the run's own
    return child.has_done(f"drawing {kind}")
