"""A short-lived process that joins Ray, starts or ends this queue's actors, and leaves.

    python -P -m runner.launch up|down|name ADDRESS CLUSTER HOME

CLUSTER is what a local Ray is called; empty: what Ray calls the cluster, which `name` prints. The database's
URL comes by environment, for it may hold a password. Exit status: 0 done, 1 not done; the last line on
stderr says why.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from runner import cluster, publisher_actor, scheduler_actor, settings, source
from runner.cluster import Answer, ClusterError, Fault, Lack
from runner.paths import Home
from runner.rows import Beat
from runner.scheduler_actor import SchedulerActor
from runner.source import SourceError
from runner.store import Store, StoreError, open_store

START_SECONDS = 120.0  # within which a scheduler that was started must beat
HUNG_SECONDS = 10.0  # after which a scheduler that was there and does not beat is ended, and so started anew


def main(arguments: list[str]) -> int:
    action, address, cluster_name, root = arguments
    storage = os.environ.get(settings.STORAGE) or None
    home = Home(Path(root), os.environ.get("RUNNER_DATABASE_URL") or None, storage)
    try:
        with open_store(home, create=False) as store:
            cluster.connect(address, store.queue_id)
            local = bool(cluster_name)
            cluster_name = cluster_name or cluster.identity()
            if action == "up":
                given = settings.given(home, os.environ, local)
                return _up(store, home, cluster_name, given)
            if action == "down":
                return _down(store)
            print(cluster_name)
    except (ClusterError, SourceError, StoreError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _up(store: Store, home: Home, cluster_name: str, given: Mapping[str, str]) -> int:
    """Start the scheduler where none lives, and wait for its beat."""
    trouble = (
        scheduler_actor.elsewhere(store, home)
        or _of_another_queue(store)
        or _served_elsewhere(store, cluster_name)
        or _started(store, home, cluster_name, given)
    )
    if trouble:
        print(trouble, file=sys.stderr)
    return 1 if trouble else 0


def _of_another_queue(store: Store) -> str | None:
    """Return why the scheduler under this queue's id is left alone, in one line: the queue was copied."""
    member = cluster.find(scheduler_actor.NAME)
    place = None if member is None else cluster.ask(member, "place")
    if place is None or (original := store.original(place)) is None:
        return None
    return (
        f"the scheduler serves {original}, of which this queue is a copy: `runner adopt` makes it another one"
    )


def _served_elsewhere(store: Store, cluster_name: str) -> str | None:
    """Return which other cluster serves this queue, in one line; wait until it beats or falls silent."""
    first = beat = store.scheduler_beat()
    while first and beat and _is_foreign(beat, cluster_name, store.now()):
        if beat.at != first.at:
            return (
                f"this queue is served by {beat.cluster} (host {beat.host}): use that one, or `runner down` "
                "there first"
            )
        time.sleep(0.2)
        beat = store.scheduler_beat()
    return None


def _is_foreign(beat: Beat, cluster_name: str, now: float) -> bool:
    return beat.cluster != cluster_name and now - beat.at < scheduler_actor.STALE_SECONDS


def _started(store: Store, home: Home, cluster_name: str, given: Mapping[str, str]) -> str | None:
    """Start the scheduler where none lives and wait for its beat; return why there is none, in one line."""
    asked_at, deadline = store.now(), time.monotonic() + START_SECONDS
    hung_at = time.monotonic() + HUNG_SECONDS if cluster.find(scheduler_actor.NAME) else math.inf
    arguments = [str(home.root), home.database_url, cluster_name, given]
    here = cluster.own_node()
    code = source.here().archive
    member = cluster.start(scheduler_actor.NAME, SchedulerActor, arguments, code, prefers=here, restart=True)
    said = "it does not answer"
    while time.monotonic() < deadline:
        beat = store.scheduler_beat()
        if beat is not None and beat.cluster == cluster_name and beat.at >= asked_at:
            return None
        match cluster.poll([member], timeout=0.2)[member.name]:
            case Answer(said) | Lack(said) | Fault(said):
                pass
        if time.monotonic() > hung_at:
            cluster.restart(member)
            hung_at = math.inf
        time.sleep(0.1)
    return said


def _down(store: Store) -> int:
    """End the scheduler and the publisher; print how many actors of other queues there are."""
    if trouble := _of_another_queue(store):
        print(trouble, file=sys.stderr)
        return 1
    for name in (scheduler_actor.NAME, publisher_actor.NAME):
        if (member := cluster.find(name)) is not None:
            cluster.kill(member)
    print(sum(namespace != store.queue_id for namespace, _ in cluster.actor_names()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
