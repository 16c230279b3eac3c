"""The queue of this home, opened, and what can be done to it from this host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from runner.output import PROGRAM, CommandError, hint

if TYPE_CHECKING:
    from runner.paths import Home
    from runner.store import Store


class Access(NamedTuple):
    home: Home
    store: Store


@contextmanager
def open_queue(create: bool = False, only_looks: bool = False, adopts: bool = False) -> Iterator[Access]:
    """Yield the queue of this home; one that does not exist is made only where `create` says so.

    Raises CommandError where it is a copy of another one, which a scheduler may serve under the same id. A
    command that `only_looks` says so and goes on; one that `adopts` it is what the others advise.

    The runs of a queue for several hosts lie where RUNNER_HOME says or, without it, where the hosts of the
    cluster see them: this host need not. Those of a queue that keeps them in a storage lie there, unless
    RUNNER_STORAGE names another one.
    """
    from runner import homes
    from runner.paths import home, recorded
    from runner.store import open_store

    place = home()
    with open_store(place, create=create) as store:
        known = place  # before a shared queue says where the hosts of the cluster see its folder
        if text := store.recorded_home():
            before = recorded(text)
            if place.shared and not os.environ.get("RUNNER_HOME"):
                place = replace(place, root=before.root)
            if not os.environ.get("RUNNER_STORAGE"):
                place = replace(place, storage=before.storage)
        if not adopts:
            _require_original(place, store, only_looks)
        if create and text is None and not any(store.counts().values()):
            _tell_of_a_new_home(known, store)
        if not only_looks:
            homes.note(known)
        yield Access(place, store)


def _tell_of_a_new_home(home: Home, store: Store) -> None:
    """Say where runs go now, if another home of this user has a scheduler that is up."""
    from runner import homes

    others = homes.others_up(home, store.now())
    if not others:
        return
    names = ", ".join(other.name for other in others)
    up = f"the scheduler of {names} is" if len(others) == 1 else f"the schedulers of {names} are"
    use = "it" if len(others) == 1 else f"one of them; `{PROGRAM} status --all` lists all homes"
    hint(f"runs go to {homes.of(home).name}, a new home; {up} up: set {others[0].setting} to use {use}")


def _require_original(home: Home, store: Store, only_looks: bool) -> None:
    """Raise CommandError where the queue is a copy; with `only_looks` print a hint instead."""
    if original := store.original():
        if not only_looks:
            raise CommandError(copied(home, original))
        hint(copied(home, original))
    elif not only_looks:
        store.note_place()


def copied(home: Home, original: str) -> str:
    """Return the line that says what to do in a copy of the queue `original`."""
    here = "this queue" if home.database_url else str(home.root)
    return (
        f"{here} is a copy of {original}: `{PROGRAM} adopt` makes it one of its own, which leaves the "
        "original as it is"
    )


def how_to_start(home: Home) -> str:
    """Return what to do where no scheduler serves the queue."""
    return f"`{PROGRAM} up` on a host of the cluster" if is_elsewhere(home) else f"`{PROGRAM} up`"


def is_elsewhere(home: Home) -> bool:
    """Return whether the runs of this queue run on a cluster that this host does not belong to."""
    return home.shared and not os.environ.get("RAY_ADDRESS")


def trains_here(home: Home) -> bool:
    """Return whether no other host than this one can train the runs of this queue."""
    from runner.service import is_served_elsewhere
    from runner.store import StoreError, open_store

    if home.shared or home.storage or os.environ.get("RAY_ADDRESS"):
        return False
    if not home.database.exists():
        return True
    try:
        with open_store(home) as store:
            return not is_served_elsewhere(store)
    except StoreError:  # a command that needs the queue says so
        return True


def require_folders(home: Home, what: str) -> None:
    """Raise CommandError where the runs' folders are not to be seen from here, before `what` is done."""
    if home.shared and not home.remote and not home.runs.is_dir():
        raise CommandError(
            f"{home.runs} with the runs' folders is not to be seen from this host: {what} on a host of the "
            "cluster, or mount it and name it in RUNNER_HOME"
        )
