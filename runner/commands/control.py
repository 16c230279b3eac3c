"""`interrupt`, `resume`, `cancel`, `priority`: what the user wants of runs that are there already."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner import exits
from runner.commands.options import Json, RunArgument, Runs, Settings
from runner.moves import extension
from runner.output import PROGRAM, CommandError, emit_json, hint
from runner.states import ENDED, State

if TYPE_CHECKING:
    from runner.rows import Intent, Run

GRACE_SECONDS = 30.0  # saving takes one to three seconds; a worker that hangs must not hold its GPU for long

LARGEST = 1_000_000  # priority, as in the YAML

Grace = Annotated[float, typer.Option(min=0, help="Seconds until a worker that does not answer is killed.")]


def interrupt(runs: Runs, grace: Grace = GRACE_SECONDS, json: Json = False) -> None:
    """Let each RUN save and stop; its GPU is free within seconds, and `resume` goes on where it was.

    \b
    Example:
      python -m runner interrupt 3 && python -m runner wait 3
    """
    _ask(runs, "interrupt", grace, json)


def cancel(runs: Runs, grace: Grace = GRACE_SECONDS, json: Json = False) -> None:
    """End each RUN: one that waits at once, one that runs after it has saved.

    \b
    Example:
      python -m runner cancel 3 4
    """
    _ask(runs, "cancel", grace, json)


def _ask(texts: list[str], intent: Intent, grace: float, json: bool) -> None:
    from runner.commands.access import all_named, how_to_start, open_queue
    from runner.service import is_alive

    with open_queue() as (home, store):
        chosen = all_named(store, texts)
        refuse([_ended(run, intent) for run in chosen if run.state in ENDED])
        states = {}
        for run in chosen:
            states[run.id] = store.ask(run.id, intent, grace, store.now())
            hint(_asked(run, states[run.id], intent))
        if State.RUNNING in states.values() and not is_alive(store, store.now()):
            hint(f"no scheduler runs to see to it: {how_to_start(home)}")
        if json:
            emit_json([{"id": run.id, "state": states[run.id]} for run in chosen])


def _ended(run: Run, intent: Intent) -> str:
    from runner.notes import gone_soon

    if run.is_going:
        return f"run {run.id} {gone_soon(run)}"
    more = f" {extension(run)}" if run.state is State.FINISHED else ""
    return f"run {run.id} is {run.state}: nothing to {intent}; `{PROGRAM} resume {run.id}{more}` goes on"


def _asked(run: Run, state: State, intent: Intent) -> str:
    if state is State.RUNNING:
        stops = "saves and stops" if intent == "interrupt" else "is being cancelled"
        return f"run {run.id} {stops}; `{PROGRAM} wait {run.id}` waits for it"
    return f"run {run.id} is {state}; `{PROGRAM} resume {run.id}` queues it again"


def resume(
    run: RunArgument,
    settings: Settings = None,
    best: Annotated[
        bool, typer.Option("--best", help="Go on from the best weights, not the latest.")
    ] = False,
    new_code: Annotated[
        bool, typer.Option("--new-code", help="Go on with the code as it is now, not that of the submission.")
    ] = False,
    json: Json = False,
) -> None:
    """Queue an ended RUN again: it goes on from its checkpoint, as the same run and the same MLflow run.

    A FINISHED run goes on with more epochs. What can be set: num_epochs, optim (but not optim.name),
    stop_after_epochs_without_gain, loss.rc_loss_weight, checkpoint.interval_seconds, checkpoint.keep_every,
    dataset.root, and runner.gpus, runner.cpus and runner.workers. Anything else would be another run:
    submit it. It keeps the code of its submission; --new-code takes that of now, with a mistake in it
    mended.

    \b
    Examples:
      python -m runner resume 3
      python -m runner resume 3 --set num_epochs=200
      python -m runner resume 3 --set runner.workers=1
      python -m runner resume 3 --new-code
    """
    from runner.commands.access import named, open_queue
    from runner.commands.starting import start_service
    from runner.editing import edited
    from runner.loading import data_environment
    from runner.notes import gone_soon
    from runner.present import present

    source, origin = present(Path.cwd()) if new_code else (None, None)
    with open_queue() as (home, store):
        chosen = named(store, run)
        if chosen.state not in ENDED:
            raise CommandError(f"run {chosen.id} is {chosen.state}: only an ended run can be resumed")
        if chosen.is_going:
            raise CommandError(f"run {chosen.id} {gone_soon(chosen)}")
        edit = edited(chosen, settings or [], best, data_environment(home), new_code)
        store.resume(
            chosen.id,
            edit.config,
            edit.num_epochs,
            best,
            edit.wants,
            origin=origin,
            source=source,
            longer=edit.longer,
            now=store.now(),
        )
        hint(f"run {chosen.id} is queued again; `{PROGRAM} watch {chosen.id}` shows it")
        queued = replace(chosen, **edit.wants._asdict()) if edit.wants else chosen
        started = start_service(home, store, [queued])
        if json:
            emit_json({"id": chosen.id, "state": State.QUEUED})
        if not started:
            raise typer.Exit(exits.NOT_STARTED)


def priority(
    run: RunArgument,
    number: Annotated[
        int, typer.Argument(metavar="N", min=-LARGEST, max=LARGEST, help="Higher starts first.")
    ],
) -> None:
    """Give a queued RUN another place: the highest priority starts first, equal ones in order of number.

    \b
    Examples:
      python -m runner priority 7 10
      python -m runner priority 8 -- -5
    """
    from runner.commands.access import named, open_queue

    with open_queue() as (_, store):
        chosen = named(store, run)
        store.set_priority(chosen.id, number)
        hint(f"run {chosen.id} has priority {number}")


def refuse(reasons: list[str]) -> None:
    """Raise CommandError where there is any reason to: all of them, one a line, and nothing done."""
    if reasons:
        raise CommandError("\n".join(reasons))
