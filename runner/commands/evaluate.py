"""`evaluate`: the networks of runs on a test set, one by itself or several together."""

from __future__ import annotations

import json as json_text
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner import exits
from runner.commands import completing
from runner.commands.children import finished, succeeded
from runner.commands.options import Best, Json, Runs
from runner.narration import title
from runner.output import CommandError, emit, emit_json, hint

if TYPE_CHECKING:
    from runner.paths import Home
    from runner.rows import Run

OtherSet = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="NAME",
        help="Another test set, of images of the same size.",
        autocompletion=completing.data_sets,
    ),
]
Folder = Annotated[
    Path | None, typer.Option("--data", metavar="FOLDER", help="Where the data set lies, if no longer there.")
]


def evaluate(
    runs: Runs,
    best: Best = False,
    dataset: OtherSet = None,
    data: Folder = None,
    json: Json = False,
) -> None:
    """Test what RUN has learnt so far; several RUNs are tested as one, by the sum of their lengths.

    It is computed on the CPU, beside whatever the GPUs are booked for. `python -m capsnet evaluate` takes
    checkpoints, also those of single epochs (checkpoint.keep_every), and uses a GPU.

    \b
    Examples:
      python -m runner evaluate 3
      python -m runner evaluate 3 5-9 --json | jq .accuracy
      python -m runner evaluate 3 --dataset mnist
    """
    from runner import storage
    from runner.commands.access import open_queue, require_folders
    from runner.commands.selection import chosen

    with open_queue(only_looks=True) as (home, store):
        found = chosen(store, runs)
        if any(run.attempt for run in found):
            require_folders(home, "evaluate them")
    kept = storage.of(home)
    with ExitStack() as copies:
        saved = {run.id: copies.enter_context(kept.checkpoint(run)) for run in found}
        tested = {str(checkpoint): run for run, checkpoint in require_saved(found, saved)}
        lines = printed(["evaluate", *tested, *options(best, dataset, data, json)], tested)
    if json:
        emit_json(with_runs(json_text.loads("\n".join(lines)), tested, home))
    else:
        emit("\n".join(named(line, tested) for line in lines))


def require_saved(runs: Sequence[Run], saved: Mapping[int, Path | None]) -> list[tuple[Run, Path]]:
    """Each run with its checkpoint. Raises CommandError with a line for each that has saved nothing yet."""
    nothing = [run for run in runs if saved[run.id] is None]
    if nothing:
        lines = [f"run {run.id} is {run.state} and has saved nothing yet to evaluate" for run in nothing]
        raise CommandError("\n".join(lines))
    return [(run, path) for run in runs if (path := saved[run.id]) is not None]


def options(best: bool, dataset: str | None, data: Path | None, json: bool) -> list[str]:
    """Return the options of this command as those of capsnet's."""
    given = {"--dataset": dataset, "--data": None if data is None else str(data)}
    words = [word for key, value in given.items() if value is not None for word in (key, value)]
    return [*words, *(["--best"] if best else []), *(["--json"] if json else [])]


def printed(words: Sequence[str], tested: Mapping[str, Run]) -> list[str]:
    """Return the output of a command of capsnet; where that fails, say why, and end this command too."""
    done = finished(words)
    for line in done.stderr.splitlines():
        hint(named(line, tested))
    if not succeeded(done.returncode, "the evaluation"):
        raise typer.Exit(exits.USAGE)
    return done.stdout.splitlines()


def named(line: str, tested: Mapping[str, Run]) -> str:
    """Return the line with the runs' numbers in the place of the files, perhaps copies, that were read."""
    for path, run in tested.items():
        line = line.replace(path, title(run))
    return line


def with_runs(found: dict[str, Any], tested: Mapping[str, Run], home: Home) -> dict[str, Any]:
    """The figures with the runs' numbers; in the place of a copied checkpoint the storage of its run."""
    for one in [found, *found.get("members", [])]:
        if run := tested.get(one.get("checkpoint", "")):
            one["run"] = run.id
            if home.remote:
                one["checkpoint"] = home.place(run.id, run.name)
    return found
