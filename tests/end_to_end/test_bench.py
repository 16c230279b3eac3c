"""The bench script of the cluster's numbers, on sizes that say nothing but that it works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "cluster.py"
CLUSTERS = ("RAY_ADDRESS", "RUNNER_DATABASE_URL", "RUNNER_HOME")


def bench(*words: str) -> str:
    plain = {name: value for name, value in os.environ.items() if name not in CLUSTERS}
    command = [sys.executable, str(SCRIPT), *words]
    done = subprocess.run(command, env=plain, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def median(said: str, label: str) -> float:
    found = re.search(rf"^{re.escape(label)} +median (-?[\d.]+)", said, re.MULTILINE)
    assert found, said
    return float(found[1])


@pytest.mark.rehearsal
def test_a_long_queue_is_measured_from_outside_and_tick_by_tick() -> None:
    said = bench("queue", "--runs", "20", "--repeats", "1")
    assert median(said, "runner queue, whole process") > 0
    assert median(said, "a tick of the scheduler, its worker asked") > 0
    assert re.search(r"the scheduler process +\d+ MB proportional", said)


@pytest.mark.rehearsal
def test_idle_time_is_that_between_runs_and_start_up_is_counted_apart() -> None:
    said = bench("idle", "--gpus", "2", "--runs", "4", "--epochs", "1")
    assert re.search(r"^finished +4 of 4, in 4 attempts$", said, re.MULTILINE)
    assert 0 <= median(said, "GPUs without a run, each of 2") < 100
    start_up = median(said, "of that, from the claim to the first answer")
    assert 0 < start_up <= median(said, "held by a run")


@pytest.mark.slow
def test_without_a_cluster_the_latency_of_one_machine_is_measured_and_the_rest_said() -> None:
    said = bench("latency", "--repeats", "1")
    assert median(said, "submit to start, one machine") > 0
    assert "no cluster: RAY_ADDRESS, RUNNER_DATABASE_URL, RUNNER_HOME are not all set" in said
