"""`code`: the source that a run was submitted with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.commands.options import Json, Runs
from runner.output import PROGRAM, CommandError, emit, emit_json, hint
from runner.wording import NOTHING, plural

if TYPE_CHECKING:
    from runner.rows import Run
    from runner.store import Store


def code(
    runs: Runs,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Write it into this folder, which is made; of several runs into FOLDER/RUN.",
        ),
    ] = None,
    attempt: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="What this attempt ran; default: what the next would."),
    ] = None,
    json: Json = False,
) -> None:
    """Say which code each RUN was submitted with, and which files of it are others here; or write it out.

    A run keeps the code of its submission, whatever is edited or installed later, until `resume --new-code`.
    JSON is an object where one RUN is named by its number or name, else a list.

    \b
    Examples:
      python -m runner code 3
      python -m runner code 3 --output code-of-3 && diff -r code-of-3/capsnet capsnet
      python -m runner code 3 5 --output codes && diff -r codes/3 codes/5
      cd code-of-3 && python -m capsnet evaluate ../runs/3-mnist_3iter/checkpoint.pt
    """
    from runner import source
    from runner.commands.access import open_queue
    from runner.commands.selection import chosen, may_be_several

    with open_queue(only_looks=True) as (_, store):
        codes = [(run, kept(store, run, attempt)) for run in chosen(store, runs)]
    several = may_be_several(runs)
    if output is not None:
        require_new(output)
        for run, files in codes:
            folder = output / str(run.id) if several else output
            source.write(files, folder)
            hint(f"{plural(len(files), 'file')} in {folder}")
    here = source.here().files
    found = [document(run, source.digest(files), changed(files, here)) for run, files in codes]
    if json:
        emit_json(found if several else found[0])
    elif output is None:
        emit("\n\n".join("\n".join(lines(one, several)) for one in found))


def kept(store: Store, run: Run, attempt: int | None) -> dict[str, bytes]:
    """The files that a run goes on with, or an attempt ran. Raises CommandError where they were not kept."""
    wanted = run.code
    if attempt is not None:
        codes = {one.number: one.code for one in store.attempts(run.id)}
        if attempt not in codes:
            raise CommandError(f"run {run.id} has no attempt {attempt}: `{PROGRAM} show {run.id}` lists them")
        wanted = codes[attempt]
    found = store.source(wanted) if wanted is not None else None
    if found is None:
        raise CommandError(
            f"the code of run {run.id} was not kept: an earlier version of this program ran it"
        )
    return found.archive.files()


def require_new(output: Path) -> None:
    """Raise CommandError unless files can be written into a folder that is new or empty."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CommandError(f"{output}: is there already: name a new folder")


def changed(files: Mapping[str, bytes], here: Mapping[str, bytes]) -> list[str]:
    """Return the names of those that are others here, or only on one side."""
    return sorted(name for name in files.keys() | here.keys() if files.get(name) != here.get(name))


def document(run: Run, digest: str, others: list[str]) -> dict[str, Any]:
    return {
        "id": run.id,
        "code": digest,
        "changed_here": others,
        "python": run.submit_python,
        "torch": run.submit_torch,
        "git_commit": run.git_commit,
        "git_dirty": run.git_dirty,
    }


def lines(found: Mapping[str, Any], several: bool) -> list[str]:
    """Describe a run's code, of several runs under the run's number."""
    names = found["changed_here"]
    return [
        *([f"run        {found['id']}"] if several else []),
        f"code       {found['code']}",
        f"python     {found['python'] or NOTHING}",
        f"pytorch    {found['torch'] or NOTHING}",
        f"here       {plural(len(names), 'file')} changed" if names else "here       the same",
        *(f"  {name}" for name in names),
    ]
