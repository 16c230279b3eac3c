"""`compare`: what differs between runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from capsnet.layout import Column
from runner.commands.options import Json, Runs
from runner.output import PROGRAM, CommandError, emit_json, emit_side_by_side, hint

if TYPE_CHECKING:
    from runner.commands.access import Access
    from runner.rows import Run


def compare(runs: Runs, json: Json = False) -> None:
    """Print in what two RUNs or more differ: configuration, code, versions, machine; and their metrics.

    Metrics are those of the latest finished epoch. A hyphen is where a run has no such key. RUNs that do not
    fit beside the others on a terminal follow below them.

    \b
    Examples:
      python -m runner compare 3 5
      python -m runner compare 'name:mnist_*'
      python -m runner compare 3 5 --json | jq .differences.configuration
    """
    from runner.commands.access import open_queue
    from runner.commands.selection import chosen

    with open_queue(only_looks=True) as access:
        print_comparison(access, chosen(access.store, runs), json)


def print_comparison(access: Access, runs: Sequence[Run], json: bool) -> None:
    """Print what differs between these runs. Raises CommandError for less than two."""
    from runner.commands.listing import documents
    from runner.comparison import CONFIGURATION, METRICS, differences, metrics, table

    if len(runs) < 2:
        raise CommandError(f"to compare, name two runs or more (this is run {runs[0].id} alone)")
    apart, measured, files = differences(runs), metrics(runs), files_apart(access, runs)
    if json:
        found = documents(access, [run.id for run in runs])
        emit_json({"runs": found, "differences": {**apart, "code_files": files}, METRICS: measured})
        return
    columns = [Column("RUN"), *(Column(str(run.id)) for run in runs)]
    emit_side_by_side(columns, table(runs, {**apart, METRICS: measured}))
    if not apart[CONFIGURATION]:
        hint("the configurations are alike")
    if files:
        hint(f"other code in {', '.join(files)}: `{PROGRAM} code RUN --output FOLDER` writes it out")


def files_apart(access: Access, runs: Sequence[Run]) -> list[str]:
    """Return the files of the packages that are not alike in the code of all runs, as far as it was kept."""
    from runner.commands.code import changed

    digests = dict.fromkeys(run.code for run in runs if run.code is not None)
    if len(digests) < 2:  # nothing to unpack
        return []
    found = [access.store.source(digest) for digest in digests]
    first, *others = [kept.archive.files() for kept in found if kept is not None] or [{}]
    return sorted({name for other in others for name in changed(first, other)})
