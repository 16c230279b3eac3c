"""`up`, `down`, `status`: what runs the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from capsnet.layout import Below, Column, Shorten
from capsnet.streams import terminal_width
from runner.commands.options import Json
from runner.output import PROGRAM, emit, emit_json, hint, plain_table
from runner.source import short
from runner.states import UNFINISHED
from runner.wording import NOTHING, duration, plural

if TYPE_CHECKING:
    from runner.rows import Machine
    from runner.store import Store

INDENT = "  "
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


def status(json: Json = False) -> None:
    """Say what is up: scheduler, Ray, GPUs, tracking, and how many runs there are in each state.

    \b
    Example:
      python -m runner status
    """
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


def status_lines(found: dict[str, Any], start: str, width: int | None = None) -> list[str]:
    """What `runner.service.status` found, one line a part; `start`: what to do where no scheduler runs.

    `width`: of the terminal, in cells, for which the table of the hosts is laid out.
    """
    parts = {
        "home": found["home"],
        **({"storage": found["storage"]} if found["storage"] else {}),
        "scheduler": scheduler_line(found["scheduler"], start),
        "ray": ray_line(found["ray"], found["cluster"]),
        "gpus": _number(found["gpus"]),
        "cpus": _number(found["cpus"]),
        "tracking": tracking_line(found["tracking"], found["publish_errors"]),
        "runs": ", ".join(f"{count} {state}" for state, count in found["runs"].items() if count) or "none",
    }
    lines = [f"{name:<10} {text}" for name, text in parts.items()]
    return lines + (machine_lines(found["machines"], width) if len(found["machines"]) > 1 else [])


def machine_lines(machines: Sequence[Machine], width: int | None = None) -> list[str]:
    """The hosts of a cluster, one a line; `width`: of the terminal, in cells."""
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
    """Where runs are published to, and why some could not be."""
    failed = [f"{plural(count, 'run')} not published: {reason}" for reason, count in publish_errors.items()]
    return "; ".join([tracking or NOTHING, *failed[:REASONS], *(["..."] if failed[REASONS:] else [])])


def ray_line(ray: dict[str, Any], cluster: str | None) -> str:
    """Which Ray runs the runs; `cluster`: where that is none of this host's, its name."""
    if cluster is not None:
        return f"{cluster}, to which this host does not belong"
    if ray["local"] and ray["state"] in ("starting", "without a node"):
        return f"{ray['state']}, pid {ray['pid']}; `{PROGRAM} up` brings one up, `{PROGRAM} down` ends it"
    if ray["address"] is None:
        return "down"
    return f"{ray['address']} ({'local, pid ' + str(ray['pid']) if ray['local'] else 'RAY_ADDRESS'})"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:g}"
