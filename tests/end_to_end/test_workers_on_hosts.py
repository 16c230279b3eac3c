"""One run on two hosts, as none of them has enough GPUs: started, lost and started again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from end_to_end.harness import Service
from end_to_end.raylets import Hosts
from end_to_end.test_workers import ENDLESS, follower_pid
from patience import wait_until

from runner.states import State
from runner.store import open_store

pytestmark = pytest.mark.slow


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """A head without GPUs, and two more hosts with one each."""
    cluster = Hosts()
    try:
        cluster.start_head()
        cluster.add("alpha")
        cluster.add("beta")
        yield cluster
    finally:
        cluster.end()


NODE_OF = """
import sys
from runner import cluster
address, namespace, name = sys.argv[1:]
cluster.connect(address, namespace)
print(cluster.node_of(cluster.find(name)))
"""


def node_of_follower(service: Service, hosts: Hosts) -> str:
    """Return the node of the worker of rank 1, asked of Ray as a new scheduler asks."""
    with open_store(service.home) as store:
        words = hosts.address, store.queue_id, "run-1-1-rank-1"
    command = [sys.executable, "-c", NODE_OF, *words]
    done = subprocess.run(command, env=service.environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_run_larger_than_every_host_spans_two_and_outlives_one_of_them(
    hosts: Hosts, tmp_path: Path, small: Path
) -> None:
    service = Service(tmp_path / "home", hosts.variables)
    number = service.submit(small, ENDLESS, "threads=1", "runner.gpus=2", "runner.cpus=2")
    run = service.training(number)
    first, second = hosts.host_of(run.pid), hosts.host_of(follower_pid(service, run))
    assert {first.name, second.name} == {"alpha", "beta"}
    assert run.devices == ("0", "0")
    assert node_of_follower(service, hosts) == second.node_id

    second.kill()
    service.wait_for(number, lambda run: run.state is State.QUEUED and run.attempt == 1)
    waits = "needs 2 GPUs, the cluster has 1: can never start"
    wait_until(lambda: waits in service.call("queue").stdout, waits)

    hosts.add("gamma")
    run = service.training(number, attempt=2)
    assert {hosts.host_of(run.pid).name, hosts.host_of(follower_pid(service, run)).name} == {
        first.name,
        "gamma",
    }
    assert "from epoch" in service.log(number)
    service.call("interrupt", str(number))
    service.wait_for_state(number, State.INTERRUPTED)
    service.call("down", "--force")
