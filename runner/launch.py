"""A short-lived process that joins Ray, starts or ends this queue's actors, and leaves.

    python -P -m runner.launch up|down ADDRESS CLUSTER HOME

Exit status: 0 done, 1 not done; the last line on stderr says why.
"""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path

from runner import cluster, publisher_actor, scheduler_actor
from runner.cluster import Answer, ClusterError
from runner.paths import Home
from runner.scheduler_actor import SchedulerActor
from runner.store import Store, open_store

START_SECONDS = 50.0
HUNG_SECONDS = 10.0  # after which a scheduler that was there and does not beat is ended, and so started anew


def main(arguments: list[str]) -> int:
    action, address, cluster_name, root = arguments
    home = Home(Path(root))
    with open_store(home, create=False) as store:
        try:
            cluster.connect(address, store.queue_id)
        except ClusterError as error:
            print(error, file=sys.stderr)
            return 1
        return _up(store, home, cluster_name) if action == "up" else _down(store.queue_id)


def _up(store: Store, home: Home, cluster_name: str) -> int:
    """Start the scheduler where none lives, and wait for its beat."""
    asked_at, deadline = time.time(), time.monotonic() + START_SECONDS
    hung_at = time.monotonic() + HUNG_SECONDS if cluster.find(scheduler_actor.NAME) else math.inf
    tracking = {key: value for key, value in os.environ.items() if key.startswith("MLFLOW_")}
    arguments = [str(home.root), cluster_name, tracking]
    member = cluster.start(scheduler_actor.NAME, SchedulerActor, arguments, restart=True)
    said = "it does not answer"
    while time.monotonic() < deadline:
        beat = store.scheduler_beat()
        if beat is not None and beat.cluster == cluster_name and beat.at >= asked_at:
            return 0
        answer = cluster.poll([member], timeout=0.2)[member.name]
        if isinstance(answer, Answer):
            said = answer.status
        if time.monotonic() > hung_at:
            cluster.restart(member)
            hung_at = math.inf
        time.sleep(0.1)
    print(said, file=sys.stderr)
    return 1


def _down(queue: str) -> int:
    """End the scheduler and the publisher; print how many actors of other queues there are."""
    for name in (scheduler_actor.NAME, publisher_actor.NAME):
        if (member := cluster.find(name)) is not None:
            cluster.kill(member)
    print(sum(namespace != queue for namespace, _ in cluster.actor_names()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
