"""`up`, `down`, `status`: start, stop and show the services that run the runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from capsnet.layout import Below, Column, Shorten
from capsnet.streams import terminal_width
from runner.commands.options import Json
from runner.output import (
    PROGRAM,
    CommandError,
    emit,
    emit_json,
    emit_table,
    hint,
    one_line,
    plain_table,
)
from runner.source import short
from runner.states import UNFINISHED, State
from runner.wording import NOTHING, duration, plural

if TYPE_CHECKING:
    from runner.homes import HomeStatus, KnownHome
    from runner.rows import Machine
    from runner.store import Store

INDENT = "  "
HOME_COLUMNS = (Column("STATE"), Column("HOME"), Column("RUNS"), Column("NOTE"))
HOMES_GIVE_WAY = (Below("NOTE"), Below("RUNS"), Shorten("HOME", 16))
REASONS = 3  # for which runs could not be published, in `status`


def up() -> None:
    """Start local Ray and the scheduler, or join the cluster that RAY_ADDRESS names; `submit` does so too.

    \b
    Example:
      python -m runner up
    """
    from runner.commands.access import open_queue
    from runner.commands.starting import require_storage
    from runner.service import bring_up
    from runner.stages import stages

    with open_queue(create=True) as (home, store):
        require_storage(home, store)
        with stages() as tell:
            bring_up(home, store, tell)
        hint(f"up; {_unfinished(store)}")


def down(
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Kill what runs instead of letting it save; end a local Ray that does not answer.",
        ),
    ] = False,
) -> None:
    """Stop: what runs is saved and queued again, so that the next `up` or `submit` goes on with it.

    Local Ray ends too, unless another home of this user has a scheduler on it.

    \b
    Example:
      python -m runner down
    """
    from runner.commands.access import open_queue
    from runner.service import shut_down
    from runner.stages import stages

    with open_queue() as (home, store):
        with stages() as tell:
            shut_down(home, store, force, tell)
        hint(f"down; {_unfinished(store)}")


def _unfinished(store: Store) -> str:
    counts = store.counts()
    count = sum(counts[state] for state in UNFINISHED)
    return f"{plural(count, 'run')} unfinished; `{PROGRAM} queue` lists what there is"


def status(
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Instead, list the homes of this user, and which are up.")
    ] = False,
    json: Json = False,
) -> None:
    """Say what is up: scheduler, Ray, GPUs, tracking, and how many runs there are in each state.

    --all lists every home that a command of this user has used on this machine, with its runs by state. One
    that is gone is named once. Of a queue on a server only where it is, without the password.

    \b
    Examples:
      python -m runner status
      python -m runner status --all
    """
    if everything:
        list_homes(json)
        return
    from runner.commands.access import how_to_start, is_elsewhere, open_queue
    from runner.service import own_cluster
    from runner.service import status as look

    with open_queue(only_looks=True) as (home, store):
        beat = store.scheduler_beat()
        elsewhere = beat is not None and is_elsewhere(home) and beat.cluster != own_cluster()
        cluster = beat.cluster if beat and elsewhere else None
        found = {
            **look(home, store),
            "cluster": cluster,
            "machines": list(beat.machines) if beat else [],
        }
        if json:
            emit_json(found)
        else:
            emit("\n".join(status_lines(found, how_to_start(home), terminal_width())))


def list_homes(json: bool) -> None:
    """Print the homes of this user, and forget those that are gone. Raises CommandError."""
    from runner import homes
    from runner.paths import home

    current = homes.of(home())
    here = current.name
    try:
        noted = homes.known_homes()
        if here not in {known.name for known in noted} and _look_here(current).condition != "gone":
            noted.append(current)  # so far only looked at, which notes nothing
        found = [
            (known, _look_here(known) if known.name == here else homes.look(known, time.time()))
            for known in noted
        ]
        gone = [known for known, status in found if status.condition == "gone"]
        for known in gone:
            homes.forget(known)
    except (OSError, RuntimeError) as error:
        raise CommandError(f"the homes of this user are not known: {one_line(error)}") from error
    found = [(known, status) for known, status in found if known not in gone]
    if json:
        emit_json([home_document(known, status, here) for known, status in found])
    elif found:
        emit_table(HOME_COLUMNS, [home_row(known, status, here) for known, status in found], HOMES_GIVE_WAY)
    else:
        hint(f"no home is known yet: `{PROGRAM} submit` or `{PROGRAM} up` makes one")
    if gone:
        hint(f"gone, and forgotten now: {', '.join(known.name for known in gone)}")


def _look_here(known: KnownHome) -> HomeStatus:
    """Return how the home that commands use now stands; its queue may be on a server."""
    from runner.commands.access import open_queue
    from runner.homes import HomeStatus, look
    from runner.service import is_alive
    from runner.store import NoQueue, StoreError

    try:
        with open_queue(only_looks=True) as (_, store):
            runs = {state.value: count for state, count in store.counts().items()}
            return HomeStatus("up" if is_alive(store, store.now()) else "down", runs)
    except NoQueue:
        return look(known, time.time())
    except StoreError as error:
        return HomeStatus("unknown", note=str(error))


def home_document(known: KnownHome, status: HomeStatus, here: str) -> dict[str, Any]:
    """Return a home for programs; `here`: the name of the one that commands use now."""
    return {
        "home": known.root,
        "database": known.database,
        "host": known.host,
        "state": status.condition,
        "runs": None
        if status.condition == "unknown"
        else {state: status.runs.get(state, 0) for state in State},
        "current": known.name == here,
        "note": status.note,
    }


def home_row(known: KnownHome, status: HomeStatus, here: str) -> list[str]:
    """Return the cells of HOME_COLUMNS."""
    runs = NOTHING if status.condition == "unknown" else run_counts(status.runs)
    notes = ["used here"] if known.name == here else []
    return [status.condition, known.name, runs, "; ".join([*notes, *filter(None, [status.note])])]


def run_counts(counts: Mapping[str, int]) -> str:
    """ "2 RUNNING, 3 FINISHED"; "none"."""
    return ", ".join(f"{counts[state]} {state}" for state in State if counts.get(state)) or "none"


def status_lines(found: dict[str, Any], start: str, width: int | None = None) -> list[str]:
    """Format the findings of `runner.service.status`, a line a part; `start`: what to do without a scheduler.

    `width`: of the terminal, in cells; the table of the hosts is laid out for it.
    """
    parts = {
        "home": found["home"],
        **({"storage": found["storage"]} if found["storage"] else {}),
        "scheduler": scheduler_line(found["scheduler"], start),
        "ray": ray_line(found["ray"], found["cluster"]),
        "gpus": _number(found["gpus"]),
        "cpus": _number(found["cpus"]),
        "tracking": tracking_line(found["tracking"], found["publish_errors"]),
        "runs": run_counts(found["runs"]),
    }
    lines = [f"{name:<10} {text}" for name, text in parts.items()]
    return lines + (machine_lines(found["machines"], width) if len(found["machines"]) > 1 else [])


def machine_lines(machines: Sequence[Machine], width: int | None = None) -> list[str]:
    """Return the hosts of a cluster, one a line; `width`: of the terminal, in cells."""
    rows = [
        [
            one["name"],
            plural(one["gpus"], "GPU"),
            f"{one['cpus']:g} cores",
            "nothing starts there" if one["leaving"] else "",
        ]
        for one in machines
    ]
    columns = [Column("HOST"), Column("GPUS", right=True), Column("CORES", right=True), Column("NOTE")]
    gives_way = [Below("NOTE"), Shorten("HOST", 16)]
    _, *lines = plain_table(columns, rows, width and width - len(INDENT), gives_way)
    return ["hosts", *(f"{INDENT}{line}" for line in lines)]


def scheduler_line(scheduler: dict[str, Any], start: str) -> str:
    if not scheduler["alive"]:
        return f"down; {start} starts it"
    age = duration(scheduler["beat_age_seconds"])
    code = f", code {short(scheduler['code'])}" if scheduler["code"] else ""
    where = f"pid {scheduler['pid']} on {scheduler['host']}, version {scheduler['version']}{code}"
    message = f"; {scheduler['message']}" if scheduler["message"] else ""
    return f"up, {where}, last seen {age} ago{message}"


def tracking_line(tracking: str | None, publish_errors: Mapping[str, int]) -> str:
    """Return where runs are published to, and why some could not be."""
    failed = [f"{plural(count, 'run')} not published: {reason}" for reason, count in publish_errors.items()]
    return "; ".join([tracking or NOTHING, *failed[:REASONS], *(["..."] if failed[REASONS:] else [])])


def ray_line(ray: dict[str, Any], cluster: str | None) -> str:
    """Return which Ray runs the runs; `cluster`: where that is none of this host's, its name."""
    if cluster is not None:
        return f"{cluster}, to which this host does not belong"
    if ray["local"] and ray["state"] in ("starting", "without a node"):
        return f"{ray['state']}, pid {ray['pid']}; `{PROGRAM} up` brings one up, `{PROGRAM} down` ends it"
    if ray["address"] is None:
        return "down"
    return f"{ray['address']} ({'local, pid ' + str(ray['pid']) if ray['local'] else 'RAY_ADDRESS'})"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:g}"
