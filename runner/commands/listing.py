"""`queue` (alias `ls`): the runs, one a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner import notes
from runner.commands.options import Json
from runner.output import PROGRAM, Column, emit_json, emit_table, hint
from runner.states import ENDED, UNFINISHED, State
from runner.wording import age, duration, percent, plural

if TYPE_CHECKING:
    from runner.commands.access import Access
    from runner.notes import Situation
    from runner.paths import Home
    from runner.rows import Run

NOTE_LENGTH = 100  # characters of a note; `show` has all of it

COLUMNS = (
    Column("RUN", right=True),
    Column("NAME"),
    Column("STATE"),
    Column("EPOCH", right=True),
    Column("ACCURACY", right=True),
    Column("GPU"),
    Column("LEFT", right=True),
    Column("AGE", right=True),
    Column("NOTE", wraps=True),
)


def queue(
    everything: Annotated[
        bool,
        typer.Option(
            "--all", "-a", help="Also queued runs after the next 50, and ended ones before the last 20."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """List the runs: what waits and why, what runs and how far it is, what has ended and how well.

    Of a long queue the next 50 runs are listed; JSON has all that are unfinished.

    ACCURACY is the latest on the test set, LEFT the time that a running one still needs, AGE the time
    since it was submitted. GPU: which ones a run uses or used last; of a waiting one, how many it asks for.

    \b
    Examples:
      python -m runner queue
      python -m runner queue --json | jq '.[] | select(.state == "FINISHED") | .accuracy'
    """
    from runner.commands.access import open_queue
    from runner.commands.situations import RECENT, current_runs, situation

    with open_queue(only_looks=True) as access:
        store = access.store
        now = situation(access)
        if json:
            runs = store.runs() if everything else [*store.runs(UNFINISHED), *store.latest(RECENT)]
            runs = sorted({run.id: run for run in runs}.values(), key=lambda run: run.id)
            emit_json([document(run, access.home, now) for run in runs])
            return
        shown = store.runs() if everything else current_runs(store)
        if shown:
            emit_table(COLUMNS, [row(run, now) for run in shown])
        else:
            hint(f"no runs yet: `{PROGRAM} submit experiments/quickstart.yaml` queues one")
        if not everything and (left := left_out(store.counts(), shown)):
            hint(f"{left} not shown: `{PROGRAM} queue --all`")
        if not now.served and any(run.state in UNFINISHED for run in shown):
            hint(f"no scheduler runs: {now.start} starts it")


def left_out(counts: Mapping[State, int], shown: Iterable[Run]) -> str:
    """How many runs are not among those that are shown."""
    listed = Counter(run.state for run in shown)
    queued = counts[State.QUEUED] - listed[State.QUEUED]
    ended = sum(counts[state] - listed[state] for state in ENDED)
    later = [plural(queued, "later queued run")] if queued > 0 else []
    older = [plural(ended, "older ended run")] if ended > 0 else []
    return " and ".join(later + older)


def row(run: Run, situation: Situation) -> list[str]:
    """The cells of COLUMNS for a run."""
    return [
        str(run.id),
        run.name,
        run.state,
        notes.epochs(run),
        percent(run.accuracy),
        notes.gpus(run),
        duration(run.seconds_left) if run.state is State.RUNNING else "",
        age(run.submitted_at, situation.now),
        cut(notes.note(run, situation)),
    ]


def cut(note: str) -> str:
    return note if len(note) <= NOTE_LENGTH else f"{note[: NOTE_LENGTH - 3]}..."


def document(run: Run, home: Home, situation: Situation) -> dict[str, Any]:
    """A run for programs: every field of its row but the configuration, its folder, and the note."""
    fields = asdict(run)
    del fields["config"]
    folder = home.place(run.id, run.name)
    return {**fields, "folder": folder, "note": notes.note(run, situation) or None}


def documents(access: Access, ids: Iterable[int]) -> list[dict[str, Any]]:
    """The runs of these numbers for programs, as they are now."""
    from runner.commands.situations import situation

    now = situation(access)
    runs = [run for run in map(access.store.run, ids) if run is not None]
    return [document(run, access.home, now) for run in runs]
