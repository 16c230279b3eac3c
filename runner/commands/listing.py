"""`queue` (alias `ls`): the runs, one a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from capsnet.layout import Below, Column, LeaveOut, Shorten, clipped
from runner import notes
from runner.commands import completing
from runner.commands.options import Json
from runner.filters import Filter, Tag
from runner.output import PROGRAM, CommandError, emit_json, emit_table, hint
from runner.states import ENDED, UNFINISHED, State
from runner.wording import age, duration, parse_duration, percent, plural

if TYPE_CHECKING:
    from runner.commands.access import Access
    from runner.notes import Situation
    from runner.paths import Home
    from runner.rows import Run
    from runner.store import Store

NOTE_WIDTH = 100  # cells of a note; `show` has all of it

COLUMNS = (
    Column("RUN", right=True),
    Column("NAME"),
    Column("STATE"),
    Column("EPOCH", right=True),
    Column("ACCURACY", right=True),
    Column("GPU"),
    Column("LEFT", right=True),
    Column("AGE", right=True),
    Column("CHANGES"),
    Column("NOTE"),
)

GIVES_WAY = (  # on a terminal that is too narrow, in this order; the help of `queue` states it
    Shorten("NAME", 32, most=32),
    Below("NOTE"),
    Below("CHANGES"),
    Shorten("NAME", 16, most=32),
    LeaveOut("AGE"),
    LeaveOut("GPU"),
    LeaveOut("LEFT"),
    Shorten("NAME", 8, most=32),
    LeaveOut("ACCURACY"),
    LeaveOut("EPOCH"),
    LeaveOut("NAME"),
    LeaveOut("STATE"),
)
ELSEWHERE = f"`{PROGRAM} queue --json`"  # what has the columns that are left out


def queue(
    everything: Annotated[
        bool,
        typer.Option(
            "--all", "-a", help="Also queued runs after the next 50, and ended ones before the last 20."
        ),
    ] = False,
    states: Annotated[
        list[State] | None,
        typer.Option(
            "--state",
            metavar="STATE",
            case_sensitive=False,
            help=f"Only runs in this state, or in one of these: {', '.join(State).lower()}.",
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="GLOB",
            help="Only runs whose name is like this, as in 'mnist_*'.",
            autocompletion=completing.names,
        ),
    ] = None,
    with_tags: Annotated[
        list[str] | None,
        typer.Option("--tag", metavar="KEY[=VALUE]", help="Only runs with this tag; of several, with all."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only runs submitted since then: 2d, 12h, 1w.")
    ] = None,
    json: Json = False,
) -> None:
    """List the runs: what waits and why, what runs and how far it is, what has ended and how well.

    Of a long queue the next 50 runs are listed; JSON has all that are unfinished. --state, --name, --tag and
    --since list every run that meets all of them; each of the first three may be given several times.

    EPOCH: how many are done, of all, in any state: 2.5/10 in the middle of the third. For a run that is not
    running: those in its checkpoint, where a resume goes on. ACCURACY is the one on the test set after the
    last finished epoch, LEFT the time that a running run still needs, AGE the time since it was submitted.
    GPU: which ones a run uses or used last; of a waiting one, how many it asks for.
    CHANGES: what --set has changed of a run, and in what it differs from the listed runs of its name.
    NOTE: why a run waits or has ended so, in 100 characters; `show` has all of it.

    Where the terminal is too narrow no number is cut. Columns without content go first, and then, until the
    rest fits: names of more than 32 characters lose their middle; a NOTE, then CHANGES, that has no room
    goes on lines of its own below its run; names lose more, down to 16; AGE, GPU and LEFT are left out;
    names go down to 8; ACCURACY, EPOCH, NAME and STATE are left out. A line says which are. COLUMNS, if set,
    is the width of the terminal. A pipe or a file gets all columns, one line a run, whatever COLUMNS is.

    \b
    Examples:
      python -m runner queue
      python -m runner queue --state failed --state interrupted --since 2d
      python -m runner queue --name 'mnist_*' --tag paper=table-2
      python -m runner queue --json | jq '.[] | select(.config.optim.lr < 0.001) | .accuracy'
    """
    from runner.commands.access import open_queue
    from runner.commands.situations import current_runs, situation

    with open_queue(only_looks=True) as access:
        store = access.store
        now = situation(access)
        wanted = requested(states, names, with_tags, since, now.now)
        if wanted != Filter():
            shown = store.matching(wanted)
        elif everything:
            shown = store.runs()
        else:
            shown = unfinished_and_recent(store) if json else current_runs(store)
        if json:
            emit_json([document(run, access.home, now) for run in shown])
            return
        if shown:
            emit_table(COLUMNS, rows(shown, now), GIVES_WAY, ELSEWHERE)
        elif wanted != Filter():
            hint(f"no run is like that: `{PROGRAM} queue --all` lists all")
        else:
            hint(f"no runs yet: `{PROGRAM} submit experiments/quickstart.yaml` queues one")
        if not everything and wanted == Filter() and (left := left_out(store.counts(), shown)):
            hint(f"{left} not shown: `{PROGRAM} queue --all`")
        if not now.served and any(run.state in UNFINISHED for run in shown):
            hint(f"no scheduler runs: {now.start} starts it")


def requested(
    states: Sequence[State] | None,
    names: Sequence[str] | None,
    with_tags: Sequence[str] | None,
    since: str | None,
    now: float,
) -> Filter:
    """Return the filter that the options make. Raises CommandError for an age that is none."""
    try:
        submitted_since = None if since is None else now - parse_duration(since)
    except ValueError as error:
        raise CommandError(f"--since: {error}") from error
    pairs = [text.partition("=") for text in with_tags or ()]
    return Filter(
        states=frozenset(states or ()),
        names=tuple(names or ()),
        tags=tuple(Tag(key, value if equals else None) for key, equals, value in pairs),
        submitted_since=submitted_since,
    )


def unfinished_and_recent(store: Store) -> list[Run]:
    """Return all unfinished runs, and those that ended last; by number."""
    from runner.commands.situations import RECENT

    found = [*store.runs(UNFINISHED), *store.latest(RECENT)]
    return sorted({run.id: run for run in found}.values(), key=lambda run: run.id)


def left_out(counts: Mapping[State, int], shown: Iterable[Run]) -> str:
    """Return how many runs are not among those that are shown."""
    listed = Counter(run.state for run in shown)
    queued = counts[State.QUEUED] - listed[State.QUEUED]
    ended = sum(counts[state] - listed[state] for state in ENDED)
    later = [plural(queued, "later queued run")] if queued > 0 else []
    older = [plural(ended, "older ended run")] if ended > 0 else []
    return " and ".join(later + older)


def rows(runs: Sequence[Run], situation: Situation) -> list[list[str]]:
    """Return the cells of COLUMNS for each of the runs that are listed together."""
    from runner.changes import changes

    changed = changes(runs)
    return [row(run, situation, changed[run.id]) for run in runs]


def row(run: Run, situation: Situation, changed: str) -> list[str]:
    """Return the cells of COLUMNS for a run; `changed`: what is special about it."""
    return [
        str(run.id),
        run.name,
        run.state,
        notes.epochs(run),
        percent(run.accuracy),
        notes.gpus(run),
        duration(run.seconds_left) if run.state is State.RUNNING else "",
        age(run.submitted_at, situation.now),
        changed,
        clipped(notes.note(run, situation), NOTE_WIDTH),
    ]


def document(run: Run, home: Home, situation: Situation) -> dict[str, Any]:
    """A run for programs: every field of its row, the configuration as data, its folder, the column NOTE.

    `epochs_done`: whole epochs, as the column EPOCH counts them; `trained_seconds`: the attempt that goes on
    included.
    """
    from runner import configuration

    return {
        **asdict(run),
        "epochs_done": notes.epochs_and_steps(run)[0],
        "trained_seconds": notes.trained_seconds(run, situation.now),
        "config": configuration.document(run),
        "folder": home.place(run.id, run.name),
        "note": notes.note(run, situation) or None,
    }


def documents(access: Access, ids: Iterable[int]) -> list[dict[str, Any]]:
    """Return the runs of these numbers for programs, as they are now."""
    from runner.commands.situations import situation

    now = situation(access)
    runs = [run for run in map(access.store.run, ids) if run is not None]
    return [document(run, access.home, now) for run in runs]
