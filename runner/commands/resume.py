"""`resume`: ended runs go on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner import exits
from runner.commands.options import All, Json, RunsOrAll, Settings, Yes
from runner.output import PROGRAM, CommandError, emit_json, hint
from runner.states import ENDED, IllegalMove, State

if TYPE_CHECKING:
    from runner.editing import Edit
    from runner.paths import Home
    from runner.rows import Origin, Run
    from runner.source import Source
    from runner.store import Store

TAKES_A_GPU = "--set runner.gpus=auto"
STOPPED = (State.INTERRUPTED, State.FAILED)  # what --all resumes: a cancelled run is not meant to go on


def resume(
    runs: RunsOrAll = None,
    everything: All = False,
    settings: Settings = None,
    best: Annotated[
        bool, typer.Option("--best", help="Go on from the best weights, not the latest.")
    ] = False,
    new_code: Annotated[
        bool, typer.Option("--new-code", help="Go on with the code as it is now, not that of the submission.")
    ] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Queue each ended RUN again: it goes on from its checkpoint, as the same run and the same MLflow run.

    A FINISHED run goes on with more epochs. What can be set: num_epochs, optim (but not optim.name),
    stop_after_epochs_without_gain, loss.rc_loss_weight, checkpoint.interval_seconds, checkpoint.keep_every,
    dataset.root, and runner.gpus, runner.cpus and runner.workers. Anything else would be another run:
    submit it. It keeps the code of its submission; --new-code takes that of now, with a mistake in it
    mended.

    A run that cannot be resumed is named on stderr, with the reason, and the others are queued. --all: all
    that are INTERRUPTED or FAILED. JSON is an object where one RUN is named by its number or name, else a
    list.

    \b
    Examples:
      python -m runner resume 3
      python -m runner resume 3 5-9 --set num_epochs=200
      python -m runner resume 3 --set runner.workers=1
      python -m runner resume --all --new-code
    """
    from capsnet.mistakes import ConfigError
    from runner.commands.access import open_queue
    from runner.commands.listing import documents
    from runner.commands.results import Results, literal
    from runner.commands.selection import chosen_or_all, may_be_several
    from runner.commands.starting import start_service
    from runner.editing import edited, keeps_to_the_cpu
    from runner.following import patiently
    from runner.loading import data_environment
    from runner.present import present
    from runner.store import UnknownRun, Unreachable

    source, origin = present(Path.cwd()) if new_code else (None, None)
    results, queued = Results(), []
    with open_queue() as access:
        home, store = access
        environment = data_environment(home)
        for run in chosen_or_all(store, runs, everything, STOPPED, "resume", yes):
            if reason := obstacle(run):
                results.refused(run.id, reason)
                continue
            try:
                edit = edited(run, settings or [], best, environment, new_code)
                require_data(home, run, edit)
                queue_again(store, run, edit, best, origin, source)
                for note in edit.notes:
                    hint(note)
            except (CommandError, ConfigError, IllegalMove, UnknownRun) as error:
                results.why(str(error))
            except Unreachable as error:
                if not results.numbers:
                    raise
                results.why(f"{error}; run {run.id} and the runs after it may not be queued")
                break
            else:
                results.done(run.id, f"$runs $are queued again; `{PROGRAM} watch $numbers` shows $them")
                if edit.remark:
                    results.remark(run.id, f"$runs: {literal(edit.remark)}")
                queued.append(replace(run, **edit.wants._asdict()) if edit.wants else run)
        results.tell()
        started = start_service(home, store, queued)
        if started:
            with suppress(Unreachable):  # the runs are queued, which the exit code must say
                tell_of_gpus(store, [run for run in queued if keeps_to_the_cpu(run, settings or [])])
        if json:
            found = patiently(lambda: documents(access, results.numbers))
            emit_json(found if everything or may_be_several(runs or []) else found[0])
        if not started:
            raise typer.Exit(exits.NOT_STARTED)
        results.end()


def require_data(home: Home, run: Run, edit: Edit) -> None:
    """Raise CommandError where the run's data set is not there; say so where another host may train it."""
    from capsnet.mistakes import ConfigError
    from capsnet.preflight import of_data
    from runner import loading
    from runner.commands.access import trains_here
    from runner.commands.submit import doubtful

    try:
        config = loading.parse(edit.config or run.config, f"run {run.id}").config
    except ConfigError:  # it goes on with its own code, which may know other keys
        return
    for found in of_data(config):
        line = f"run {run.id}: {found.message}"
        if trains_here(home):
            raise CommandError(f"{line}; `{PROGRAM} resume {run.id} --set dataset.root=FOLDER` goes on then")
        hint(doubtful(line))


def tell_of_gpus(store: Store, runs: Sequence[Run]) -> None:
    """Say that these runs stay on the CPU, where there are GPUs now, and how to give them one."""
    from runner.commands.results import about
    from runner.commands.situations import number_of_gpus

    if not runs or not number_of_gpus(store):
        return
    began = "$runs began where there was no GPU, and $stay on the CPU: to change that, "
    hint(
        about(
            [run.id for run in runs], began + f"interrupt $them and `{PROGRAM} resume $numbers {TAKES_A_GPU}`"
        )
    )


def obstacle(run: Run) -> str | None:
    """Return why a run cannot be resumed, whatever is set; None where it can."""
    from runner.commands.results import GOING

    if run.state not in ENDED:
        return f"$runs $are {run.state}: only an ended run can be resumed"
    return GOING if run.is_going else None


def queue_again(
    store: Store, run: Run, edit: Edit, best: bool, origin: Origin | None, source: Source | None
) -> None:
    """Queue a run with what is to be changed of it. Raises IllegalMove and UnknownRun."""
    store.resume(
        run.id,
        edit.config,
        edit.num_epochs,
        best,
        edit.wants,
        origin=origin,
        source=source,
        overrides=edit.overrides,
        longer=edit.longer,
        now=store.now(),
    )
