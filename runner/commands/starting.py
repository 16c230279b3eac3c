"""Start of the services that run the queued runs, where they do not run already."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from runner.commands.access import how_to_start, is_elsewhere
from runner.output import PROGRAM, CommandError, hint, one_line
from runner.wording import runs_named

if TYPE_CHECKING:
    from runner.paths import Home
    from runner.placement import Wanted
    from runner.store import Store


def start_service(home: Home, store: Store, queued: Sequence[Wanted]) -> bool:
    """Start local Ray and the scheduler after something was queued; return False, with a hint, if it fails.

    What was queued stays so: a later `up` or `submit` starts it. A queue for several hosts is served by their
    cluster: a host that does not belong to it starts nothing, for its own Ray would be another cluster.
    Prints which runs in `queued` can never start, as far as a scheduler knows that already.
    """
    from runner.store import Unreachable

    try:
        if is_elsewhere(home):
            _look_whether_served(home, store)
        elif not _started(home, store):
            return False
        for difference in differences(home, store):
            hint(f"{difference}; `{PROGRAM} down`, then `{PROGRAM} up` changes that")
    except Unreachable as error:  # queued all the same: an error would make users queue them twice
        hint(f"queued, but whether a scheduler serves it is not known: {error}")
        return is_elsewhere(home)
    except KeyboardInterrupt:
        hint(f"stopped before a scheduler serves it; what is queued stays so: `{PROGRAM} up` goes on")
        return False
    with suppress(Unreachable):  # `queue` says it, too
        for line in never(store, queued):
            hint(line)
    return True


def require_storage(home: Home, store: Store) -> None:
    """Raise CommandError, before anything is queued or started, where no run could be kept.

    One that a scheduler uses is not asked, for that takes a second.
    """
    from runner.service import is_alive

    if home.storage is None or is_elsewhere(home) or is_alive(store, store.now()):
        return
    from runner import storage

    try:
        storage.of(home).check(store.queue_id)
    except OSError as error:
        raise CommandError(one_line(error)) from error


def highest_number(home: Home, store: Store) -> int:
    """Return the highest number of a run of which files are kept, as far as this host sees them.

    A queue that was deleted, or put back from a copy, does not know it. An object store, which takes a second
    to answer, is asked only while no scheduler serves the queue: a scheduler has asked when it began.
    """
    from runner import storage
    from runner.service import is_alive

    if home.remote and (is_elsewhere(home) or is_alive(store, store.now())):
        return 0
    try:
        return storage.of(home).highest_number()
    except OSError as error:
        raise CommandError(one_line(error)) from error


def _look_whether_served(home: Home, store: Store) -> None:
    from runner.service import is_alive

    if not is_alive(store, store.now()):
        hint(f"no scheduler serves this queue at the moment: {how_to_start(home)} starts it")


def _started(home: Home, store: Store) -> bool:
    from runner.local_ray import LocalRayError
    from runner.service import ServiceError, ensure
    from runner.stages import stages

    try:
        require_storage(home, store)
        with stages() as tell:
            ensure(home, store, tell)
    except (CommandError, LocalRayError, OSError, ServiceError) as error:
        hint(f"queued, but not started: {one_line(error)}\n`{PROGRAM} up` tries again")
        return False
    return True


def never(store: Store, queued: Sequence[Wanted]) -> list[str]:
    """Return a line for each reason for which some of these runs can never start."""
    from runner.commands.situations import hopeless

    numbers: dict[str, list[int]] = {}
    for number, reason in hopeless(store, queued).items():
        numbers.setdefault(reason, []).append(number)
    return [
        f"{runs_named(those)}: {'each ' if len(those) > 1 else ''}{reason}"
        for reason, those in numbers.items()
    ]


def differences(home: Home, store: Store) -> list[str]:
    """Return the differences between the running scheduler and one that this command would start."""
    from runner.paths import recorded
    from runner.protocol import PROTOCOL
    from runner.redaction import redacted
    from runner.tracking import target

    beat = store.scheduler_beat()
    if beat is None:
        return []
    found = []
    # Of a cluster that is elsewhere, this host knows the server only where its variable says so.
    named = bool(os.environ.get("MLFLOW_TRACKING_URI")) or not is_elsewhere(home)
    if named and beat.tracking != (wanted := redacted(target(home).uri)):
        found.append(f"the scheduler publishes to {beat.tracking} and not to {wanted}")
    if beat.home is not None and (keeps := recorded(beat.home)).storage != home.storage:
        found.append(
            f"the scheduler keeps the runs in {keeps.storage or keeps.root} and not in "
            f"{home.storage or home.root}"
        )
    if beat.protocol is None:
        found.append(
            f"the scheduler is of version {beat.version}: it runs what is installed, not what was submitted"
        )
    elif beat.protocol < PROTOCOL:
        found.append(f"the scheduler is of version {beat.version} and cannot run code as new as this")
    return found
