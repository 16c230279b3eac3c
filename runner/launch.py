"""A short-lived process that joins Ray, starts or ends this queue's actors, and leaves.

    python -P -m runner.launch up|down ADDRESS CLUSTER HOME

Exit status: 0 done, 1 the actors did not do as they were told, 3 no cluster answers at ADDRESS.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from runner import cluster, publisher_actor, scheduler_actor
from runner.cluster import Answer, ClusterError
from runner.paths import Home
from runner.scheduler_actor import SchedulerActor
from runner.service import NO_CLUSTER
from runner.store import open_store

START_SECONDS = 30.0
HUNG_SECONDS = 10.0  # after which a scheduler that does not answer is ended, and so started anew


def main(arguments: list[str]) -> int:
    action, address, cluster_name, root = arguments
    home = Home(Path(root))
    with open_store(home, create=False) as store:
        queue = store.queue_id
    try:
        cluster.connect(address, queue)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return NO_CLUSTER
    return _up(home, cluster_name) if action == "up" else _down(queue)


def _up(home: Home, cluster_name: str) -> int:
    """Start the scheduler where none lives, and wait until it serves."""
    tracking = {key: value for key, value in os.environ.items() if key.startswith("MLFLOW_")}
    arguments = [str(home.root), cluster_name, tracking]
    member = cluster.start(scheduler_actor.NAME, SchedulerActor, arguments, restart=True)
    deadline = time.monotonic() + START_SECONDS
    said = "it does not answer"
    while time.monotonic() < deadline:
        answer = cluster.poll([member], timeout=HUNG_SECONDS)[member.name]
        if isinstance(answer, Answer):
            said = answer.status
        elif not isinstance(answer, cluster.Death):
            cluster.restart(member)
        if said == "serving":
            return 0
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
