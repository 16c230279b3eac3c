"""`figures`: pictures of the networks of runs, drawn by their numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from capsnet.figures.kinds import ALL, DPI_RANGE, KINDS
from runner import exits
from runner.commands import completing
from runner.commands.children import Child
from runner.commands.options import RUN_HELP, Best
from runner.commands.selection import chosen, looks_like_runs
from runner.narration import title
from runner.output import PROGRAM, CommandError, emit, hint

if TYPE_CHECKING:
    from runner.rows import Run
    from runner.storage import Storage
    from runner.store import Store

Words = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN|KIND",
        help=f"{RUN_HELP} KIND: {', '.join(KINDS)}; without one all that take seconds.",
        show_default=False,
        autocompletion=completing.runs_and_pictures,
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        metavar="PATH",
        help="The file of one picture, in a folder that is there; of all pictures of a run their folder.",
        show_default=False,
    ),
]
Format = Annotated[
    Literal["png", "pdf", "svg"] | None,
    typer.Option("--format", help="Default: png, or as PATH ends.", show_default=False),
]
Dpi = Annotated[
    int | None,
    typer.Option(
        "--dpi",
        min=DPI_RANGE[0],
        max=DPI_RANGE[1],
        help="Dots per inch of a PNG, and of the images in a PDF or an SVG.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Options:
    """Options that all pictures of a call have in common."""

    best: bool
    output: str | None
    format: str | None
    dpi: int | None

    def words(self, kind: str) -> list[str]:
        """Return the options of the command that draws one kind."""
        given = {"--output": self.output, "--format": self.format, "--dpi": self.dpi}
        words = [f"{name}={value}" for name, value in given.items() if value is not None]
        return [*words, *(["--best"] if self.best and kind != "curves" else [])]  # curves are of all epochs


@dataclass(frozen=True)
class Drawn:
    """A run with its checkpoint."""

    run: Run
    checkpoint: Path


@dataclass(frozen=True)
class Job:
    """A kind of picture, of one run or of several together."""

    kind: str
    runs: Sequence[Drawn]


def figures(
    words: Words,
    best: Best = False,
    output: Output = None,
    file_format: Format = None,
    dpi: Dpi = None,
) -> None:
    """Draw pictures of what each RUN has learnt so far into its folder, and print where they are.

    `curves` of several RUNs, where it is named, is one picture, in the first one's folder. Pictures are
    computed on the CPU, beside whatever the GPUs are booked for. MLflow gets what is in the folder when the
    run ends; what is drawn later stays there. `python -m capsnet KIND --help` has more options, for a
    checkpoint.

    \b
    Examples:
      python -m runner figures 3
      python -m runner figures 3 5-9 perturb rotate
      python -m runner figures 3 4 curves --output curves.pdf
    """
    from runner import storage
    from runner.commands.access import open_queue, require_folders

    with open_queue() as (home, store):
        names, kinds = parted(store, words)
        runs = chosen(store, names)
        if any(run.attempt for run in runs):
            require_folders(home, "draw them")
    options = Options(best, output, file_format, dpi)
    kept = storage.of(home)
    with ExitStack() as stack:
        drawn = [one for run in runs if (one := _saved(kept, run, stack)) is not None]
        jobs = planned(kinds or [ALL], drawn)
        if output is not None and len(jobs) > 1:
            raise CommandError(
                f"--output {output} is for one picture, or for all of one run; these are {len(jobs)}: "
                "leave it out, or name one run and one kind"
            )
        done = [_draw(job, options) for job in jobs]
        for one in drawn:
            kept.keep_figures(one.checkpoint)
    if len(drawn) < len(runs) or not all(done):
        raise typer.Exit(exits.PARTLY if any(done) else exits.USAGE)


def parted(store: Store, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words for runs, of which the first is one, and those for kinds of pictures."""
    first, *others = words
    if first in KINDS:
        raise CommandError(f"name a run before {first}, as in: {PROGRAM} figures 3 {first}")
    kinds = [word for word in others if word in KINDS]
    names = [word for word in others if word not in KINDS]
    for word in names:
        if not looks_like_runs(word) and not store.named(word):
            raise CommandError(
                f"there is no run and no picture {word!r}: the pictures are {', '.join(KINDS)}"
            )
    return [first, *names], kinds


def _saved(kept: Storage, run: Run, stack: ExitStack) -> Drawn | None:
    """The run with its checkpoint, which is there until the stack is closed; None, and said, without one."""
    checkpoint = stack.enter_context(kept.checkpoint(run))
    if checkpoint is None:
        hint(f"run {run.id} is {run.state} and has saved nothing yet to draw")
        return None
    return Drawn(run, checkpoint)


def planned(kinds: Sequence[str], runs: Sequence[Drawn]) -> list[Job]:
    """Return each kind of each run; but curves are of all runs together."""
    if not runs:
        return []
    jobs: list[Job] = []
    for kind in kinds:
        jobs += [Job(kind, runs)] if kind == "curves" else [Job(kind, [one]) for one in runs]
    return jobs


def _draw(job: Job, options: Options) -> bool:
    """Draw kinds of pictures; return whether all could be drawn."""
    labels = [f"--label={title(one.run)}" for one in job.runs]
    child = Child([job.kind, *options.words(job.kind), *labels, *(str(one.checkpoint) for one in job.runs)])
    for line in child.lines():
        emit(os.path.realpath(line))  # beside a copy the folder is a link to the run's own
    return child.has_done(f"drawing {job.kind}")
