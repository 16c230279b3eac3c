"""`rm`, `prune`: delete what ended runs left on disk."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from runner.commands.options import All, Json, RunsOrAll, Unpublished, Yes
from runner.output import PROGRAM, CommandError, confirm, emit_json, hint, one_line
from runner.states import ENDED, State
from runner.wording import listed, megabytes, parse_duration, runs_named

if TYPE_CHECKING:
    from runner.paths import Home
    from runner.rows import Run
    from runner.storage import Storage
    from runner.store import Store

PRUNED = frozenset({State.FINISHED, State.FAILED, State.CANCELLED})


def rm(
    runs: RunsOrAll = None,
    everything: All = False,
    yes: Yes = False,
    unpublished: Unpublished = False,
    json: Json = False,
) -> None:
    """Delete ended runs: checkpoints, logs and their place in the queue. MLflow keeps its record of them.

    Of a run that MLflow does not have to its end yet the rest would be lost: the question says so, and --yes
    alone does not delete it.

    A run that has not ended is named on stderr, and the others are deleted. --all: all that have ended. A
    file that the YAML's checkpoint.model_path or log_dir names is the user's own and stays. A run of which
    not everything could be deleted stays in the queue too, and another `rm` finishes.

    \b
    Examples:
      python -m runner rm 3 4
      python -m runner rm 5-9 'name:trial_*'
    """
    from runner.commands.access import open_queue
    from runner.commands.results import Results
    from runner.commands.selection import chosen_or_all

    results = Results()
    with open_queue() as (home, store):
        # The question that `remove` asks names them all.
        chosen = chosen_or_all(store, runs, everything, ENDED, "delete", yes=True)
        for run in chosen:
            if run.state not in ENDED:
                results.refused(run.id, f"$runs $are {run.state}: `{PROGRAM} cancel $numbers` first")
            elif yes and not unpublished and not is_published(run):
                results.refused(run.id, _unpublished(run))
            else:
                results.done(run.id)
        results.tell()
        going = set(results.numbers)
        remove(home, store, [run for run in chosen if run.id in going], yes, json)
        results.end()


def _unpublished(run: Run) -> str:
    """Return why a run is not deleted, as a sentence of Results."""
    from runner.commands.results import literal

    reason = f" ({literal(run.publish_error)})" if run.publish_error else ""
    return f"MLflow does not have all of $runs yet{reason}; --unpublished deletes $them all the same"


def prune(
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only those that ended longer ago: 30d, 12h, 2w.")
    ] = None,
    keep_best: Annotated[
        bool, typer.Option("--keep-best", help="Keep, of each name, the run with the best test accuracy.")
    ] = False,
    yes: Yes = False,
    unpublished: Unpublished = False,
    json: Json = False,
) -> None:
    """Delete all runs that are FINISHED, FAILED or CANCELLED; MLflow keeps its record of them.

    INTERRUPTED runs stay, for they are meant to go on; `rm` deletes them. So do runs that MLflow does not
    have to their end yet, without --unpublished. --keep-best compares the latest accuracy on the test set
    among all ended runs of one name (`name:` in the YAML); of equal ones it keeps the older. What an
    `rm` has begun to delete goes in any case.

    \b
    Examples:
      python -m runner prune --older-than 30d --keep-best
      python -m runner prune --yes
    """
    from runner.commands.access import open_queue

    with open_queue() as (home, store):
        try:
            seconds = parse_duration(older_than) if older_than is not None else 0.0
        except ValueError as error:
            raise CommandError(f"--older-than: {error}") from error
        chosen = prunable(store.runs(ENDED), store.now() - seconds, keep_best)
        behind = [] if unpublished else [run.id for run in chosen if not is_published(run)]
        if behind:
            hint(f"kept, for MLflow does not have all of them yet (see --unpublished): {listed(behind)}")
        remove(home, store, [run for run in chosen if run.id not in behind], yes, json)


def prunable(ended: Iterable[Run], ended_before: float, keep_best: bool) -> list[Run]:
    """Return which of the ended runs `prune` deletes: also those that were not deleted to the end before."""
    ended = list(ended)
    kept = {run.id for run in best(ended)} if keep_best else set()
    return [
        run
        for run in ended
        if run.is_going
        or (run.state in PRUNED and run.id not in kept and (run.ended_at or 0.0) <= ended_before)
    ]


def best(runs: Iterable[Run]) -> list[Run]:
    """Return, of each name, the run with the highest accuracy, the older of equal ones; none without one.

    Nor one whose files may be gone in part.
    """
    found: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: run.id):
        if run.accuracy is None or run.is_going:
            continue
        leader = found.get(run.name)
        if leader is None or leader.accuracy is None or run.accuracy > leader.accuracy:
            found[run.name] = run
    return list(found.values())


def is_published(run: Run) -> bool:
    """Return whether MLflow gets no more of a run: it has all, or the run never started or is going."""
    return run.is_published or run.attempt == 0 or run.is_going


def remove(home: Home, store: Store, runs: list[Run], yes: bool, json: bool) -> None:
    """Ask, then delete the runs' files and forget them. Raises CommandError where something is left."""
    from runner import storage
    from runner.commands.access import require_folders

    if any(run.attempt for run in runs):
        require_folders(home, "delete them")
    kept = storage.of(home)
    sizes = {run.id: kept.size(run) for run in runs}
    left: dict[int, str] = {}
    if runs:
        confirm(f"{question(runs)} and free {megabytes(sum(sizes.values()))}?", yes)
        # All in one transaction, which refuses whatever was resumed meanwhile.
        store.begin_removal([run.id for run in runs], store.now())
        left = _delete(kept, store, runs)
    deleted = [run for run in runs if run.id not in left]
    if deleted:
        freed = megabytes(sum(sizes[run.id] for run in deleted))
        hint(f"deleted {runs_named([run.id for run in deleted])}, freed {freed}")
    elif not runs:
        hint("nothing to delete")
    if json:
        emit_json([{"id": run.id, "name": run.name, "bytes": sizes[run.id]} for run in deleted])
    if left:
        raise CommandError("\n".join(_remains(home, run, left[run.id]) for run in runs if run.id in left))


def _delete(kept: Storage, store: Store, runs: list[Run]) -> dict[int, str]:
    """Delete each run's files and then its row; return, for runs with files left, why."""
    from runner.storage import NoAnswer
    from runner.store import UnknownRun

    left: dict[int, str] = {}
    for number, run in enumerate(runs):
        try:
            kept.delete(run)
        except NoAnswer as error:  # after some seconds each time: the others are not tried
            return left | {other.id: str(error) for other in runs[number:]}
        except OSError as error:
            left[run.id] = one_line(error)
        else:
            with suppress(UnknownRun):  # another process has deleted it at the same time
                store.remove([run.id])
    return left


def _remains(home: Home, run: Run, reason: str) -> str:
    place = home.place(run.id, run.name)
    return f"run {run.id}: {reason}; what is left is in {place}: `{PROGRAM} rm {run.id}` deletes it"


def question(runs: list[Run]) -> str:
    behind = [run.id for run in runs if not is_published(run)]
    warning = f" (MLflow does not have all of {listed(behind)} yet)" if behind else ""
    return f"delete {runs_named([run.id for run in runs])}{warning}"
