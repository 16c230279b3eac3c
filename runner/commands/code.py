"""`code`: the source that a run was submitted with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.commands.options import Json, RunArgument
from runner.output import PROGRAM, CommandError, emit, emit_json, hint
from runner.wording import NOTHING, plural

if TYPE_CHECKING:
    from runner.rows import Run
    from runner.store import Store


def code(
    run: RunArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Write it into this folder, which is made."),
    ] = None,
    attempt: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="What this attempt ran; default: what the next would."),
    ] = None,
    json: Json = False,
) -> None:
    """Say which code RUN was submitted with, and which files of it are others here; or write it out.

    A run keeps the code of its submission, whatever is edited or installed later, until `resume --new-code`.

    \b
    Examples:
      python -m runner code 3
      python -m runner code 3 --output code-of-3 && diff -r code-of-3/capsnet capsnet
      cd code-of-3 && python -m capsnet evaluate ../runs/3-mnist_3iter/checkpoint.pt
    """
    from runner import source
    from runner.commands.access import named, open_queue

    with open_queue(only_looks=True) as (_, store):
        chosen = named(store, run)
        files = kept(store, chosen, attempt)
    if output is not None:
        write_out(files, output)
        hint(f"{plural(len(files), 'file')} in {output}")
    found = document(chosen, source.digest(files), changed(files, source.here().files))
    if json:
        emit_json(found)
    elif output is None:
        emit("\n".join(lines(found)))


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


def write_out(files: Mapping[str, bytes], output: Path) -> None:
    """Write files into a folder that is new or empty."""
    from runner import source

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CommandError(f"{output}: is there already: name a new folder")
    source.write(files, output)


def changed(files: Mapping[str, bytes], here: Mapping[str, bytes]) -> list[str]:
    """The names of those that are others here, or only on one side."""
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


def lines(found: Mapping[str, Any]) -> list[str]:
    names = found["changed_here"]
    return [
        f"code       {found['code']}",
        f"python     {found['python'] or NOTHING}",
        f"pytorch    {found['torch'] or NOTHING}",
        f"here       {plural(len(names), 'file')} changed" if names else "here       the same",
        *(f"  {name}" for name in names),
    ]
