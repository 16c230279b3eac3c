"""`interrupt`, `cancel`: stop runs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from runner.commands.options import All, Json, RunsOrAll, Yes
from runner.moves import extension
from runner.output import PROGRAM, emit_json, hint
from runner.states import UNFINISHED, State

if TYPE_CHECKING:
    from runner.rows import Intent, Run

GRACE_SECONDS = 30.0  # saving takes one to three seconds; a worker that hangs must not hold its GPU for long

Grace = Annotated[float, typer.Option(min=0, help="Seconds until a worker that does not answer is killed.")]


def interrupt(
    runs: RunsOrAll = None,
    everything: All = False,
    grace: Grace = GRACE_SECONDS,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Let each RUN save and stop; its GPU is free within seconds, and `resume` goes on where it was.

    A run that has ended is named on stderr, and the others are interrupted. --all: all that run or wait.

    \b
    Examples:
      python -m runner interrupt 3 && python -m runner wait 3
      python -m runner interrupt 5-9 'name:mnist_*'
      python -m runner interrupt --all
    """
    _ask(runs, everything, "interrupt", grace, yes, json)


def cancel(
    runs: RunsOrAll = None,
    everything: All = False,
    grace: Grace = GRACE_SECONDS,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """End each RUN: one that waits at once, one that runs after it has saved.

    A run that has ended is named on stderr, and the others are cancelled. --all: all that run or wait.

    \b
    Examples:
      python -m runner cancel 3 4
      python -m runner cancel 5-9 'name:mnist_*'
      python -m runner cancel --all
    """
    _ask(runs, everything, "cancel", grace, yes, json)


def _ask(
    words: list[str] | None, everything: bool, intent: Intent, grace: float, yes: bool, json: bool
) -> None:
    from runner.commands.access import how_to_start, open_queue
    from runner.commands.listing import documents
    from runner.commands.results import Results
    from runner.commands.selection import chosen_or_all
    from runner.service import is_alive

    results = Results()
    with open_queue() as access:
        home, store = access
        chosen = chosen_or_all(store, words, everything, UNFINISHED, intent, yes)
        moved = store.ask_each([run.id for run in chosen], intent, grace, store.now())
        results.take(store, chosen, moved, partial(_asked, intent=intent), partial(_ended, intent=intent))
        results.tell()
        if State.RUNNING in moved.values() and not is_alive(store, store.now()):
            hint(f"no scheduler runs to see to it: {how_to_start(home)}")
        if json:
            emit_json(documents(access, results.numbers))
        results.end()


def _ended(run: Run, intent: Intent) -> str:
    more = f" {extension(run)}" if run.state is State.FINISHED else ""
    return f"$runs $are {run.state}: nothing to {intent}; `{PROGRAM} resume $numbers{more}` goes on"


def _asked(state: State, intent: Intent) -> str:
    if state is State.RUNNING:
        stops = "$save and $stop" if intent == "interrupt" else "$are being cancelled"
        return f"$runs {stops}; `{PROGRAM} wait $numbers` waits for $them"
    return f"$runs $are {state}; `{PROGRAM} resume $numbers` queues $them again"
