"""`figures`: pictures of runs' networks, drawn by their numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from capsnet.figures.kinds import ALL, DPI_RANGE, KINDS
from runner import exits
from runner.commands.options import RunArgument
from runner.output import CommandError, emit, hint
from runner.wording import run_label

if TYPE_CHECKING:
    from runner.rows import Run
    from runner.storage import Storage
    from runner.store import Store

More = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN|KIND",
        help=f"More runs, and kinds of pictures: {', '.join(KINDS)}; without one all that take seconds.",
        show_default=False,
    ),
]
Best = Annotated[bool, typer.Option("--best", help="The weights that did best on validation.")]
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
        """The options of the command that draws one kind."""
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
    run: RunArgument,
    more: More = None,
    best: Best = False,
    output: Output = None,
    file_format: Format = None,
    dpi: Dpi = None,
) -> None:
    """Draw pictures of what each RUN has learnt so far into its folder, and print where they are.

    The curves of several runs are one picture, in the first one's folder. Pictures are computed on the CPU,
    beside whatever the GPUs are booked for. MLflow gets what is in the folder when the run ends; what is
    drawn later stays there. `python -m capsnet KIND --help` has more options, for a checkpoint.

    \b
    Examples:
      python -m runner figures 3
      python -m runner figures 3 perturb rotate
      python -m runner figures 3 4 curves --output curves.pdf
    """
    from runner import storage
    from runner.commands.access import open_queue, require_folders

    kinds = [word for word in more or [] if word in KINDS]
    words = [run, *(word for word in more or [] if word not in KINDS)]
    with open_queue() as (home, store):
        chosen = _chosen(store, words)
        if any(each.attempt for each in chosen):
            require_folders(home, "draw them")
    options = Options(best, output, file_format, dpi)
    kept = storage.of(home)
    with ExitStack() as stack:
        drawn = [_saved(kept, each, stack) for each in chosen]
        jobs = planned(kinds or [ALL], drawn)
        if output is not None and len(jobs) > 1:
            raise CommandError(
                f"--output {output} is for one picture, or for all of one run; these are {len(jobs)}: "
                "leave it out, or name one run and one kind"
            )
        done = [_draw(job, options) for job in jobs]
        for one in drawn:
            kept.keep_figures(one.checkpoint)
    if not all(done):
        raise typer.Exit(exits.USAGE)


def _chosen(store: Store, words: Sequence[str]) -> list[Run]:
    from runner.commands.access import all_named

    try:
        return all_named(store, words)
    except CommandError as error:
        if len(words) == 1:
            raise
        raise CommandError(f"{error}; the kinds of pictures are {', '.join(KINDS)}") from error


def _saved(kept: Storage, run: Run, stack: ExitStack) -> Drawn:
    """The run with its checkpoint, which is there until the stack is closed."""
    checkpoint = stack.enter_context(kept.checkpoint(run))
    if checkpoint is None:
        raise CommandError(f"run {run.id} is {run.state} and has saved nothing yet to draw")
    return Drawn(run, checkpoint)


def planned(kinds: Sequence[str], runs: Sequence[Drawn]) -> list[Job]:
    """Each kind of each run; but curves are of all runs together."""
    jobs: list[Job] = []
    for kind in kinds:
        jobs += [Job(kind, runs)] if kind == "curves" else [Job(kind, [one]) for one in runs]
    return jobs


def _draw(job: Job, options: Options) -> bool:
    """Have a child draw, as it needs PyTorch; what it cannot draw it says on stderr. Whether it could."""
    # -P: a file in the current directory must not be imported in the place of a module.
    command = [sys.executable, "-P", "-m", "capsnet", job.kind, *options.words(job.kind)]
    command += [f"--label={run_label(one.run.id, one.run.name)}" for one in job.runs]
    command += [str(one.checkpoint) for one in job.runs]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        for line in child.stdout:
            emit(os.path.realpath(line.rstrip("\n")))  # beside a copy the folder is a link to the run's own
    if child.returncode < 0:  # it could say nothing itself
        hint(f"drawing {job.kind} was ended by signal {-child.returncode}")
    return child.returncode == 0
