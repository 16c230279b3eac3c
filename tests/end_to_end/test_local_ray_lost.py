"""A local Ray that loses its node comes back or ends; variables of its runs; access to its files."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from end_to_end.harness import Service
from other_user import as_another_user, needs_another_user
from patience import PATIENCE, wait_until
from stand_in_ray import session

from runner import local_ray
from runner.local_ray import LONGEST, OWN, LocalRay
from runner.states import State

pytestmark = pytest.mark.slow

NOTEBOOK = "module://matplotlib_inline.backend_inline"  # as Jupyter sets it for every command


@pytest.fixture(scope="module")
def longest_folder() -> Iterator[Path]:
    """A folder whose path leaves just enough room for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))
    named = folder / ("x" * (LONGEST - len(str(folder)) - 1))
    before = os.environ.get("RUNNER_RAY_DIR")
    os.environ["RUNNER_RAY_DIR"] = str(named)
    try:
        yield named
    finally:
        if (ray := local_ray.recorded()) is not None:
            local_ray.stop(ray)
        if before is None:
            del os.environ["RUNNER_RAY_DIR"]
        else:
            os.environ["RUNNER_RAY_DIR"] = before
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def started_from_a_notebook(longest_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A service whose Ray was started on one core, with variables that were meant for something else."""
    broken = tmp_path_factory.mktemp("broken") / "tensorflow"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise TypeError('broken')")
    service = Service(tmp_path_factory.mktemp("home"))
    variables = {
        "MPLBACKEND": NOTEBOOK,
        "PYTHONPATH": str(broken.parent),
        "OMP_NUM_THREADS": "7",
        "CUDA_LAUNCH_BLOCKING": "1",
        "https_proxy": "http://127.0.0.1:9",
    }
    core = min(os.sched_getaffinity(0))
    subprocess.run(
        ["taskset", "-c", str(core), *service.command("up")],
        env=service.environment | variables,
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    return service


def running_ray() -> LocalRay:
    ray = local_ray.find()
    assert ray is not None
    return ray


def test_what_was_set_for_the_command_that_started_ray_does_not_reach_runs_and_its_cores_do(
    started_from_a_notebook: Service, small: Path
) -> None:
    service = started_from_a_notebook
    number = service.submit(small, "num_epochs=1")
    scheduler = service.scheduler_pid()
    assert scheduler is not None
    environment = psutil.Process(scheduler).environ()  # as a worker's, what Ray hands on
    kept = {"MPLBACKEND", "CUDA_LAUNCH_BLOCKING", "https_proxy", "RUNNER_HOME"} & environment.keys()
    assert not kept and environment.get("OMP_NUM_THREADS") != "7"
    assert "broken" not in environment.get("PYTHONPATH", "")
    assert json.loads(service.call("status", "--json").stdout)["cpus"] == 1
    run = service.wait_for_state(number, State.FINISHED)
    assert "1 thread" in (run.computes or "")
    assert list(service.home.run(number, "small").attempt(1).figures.glob("*.png")), "no picture was drawn"
    assert "not all figures were drawn" not in service.log(number)


@needs_another_user
def test_another_user_reaches_nothing_of_ray_by_its_files(started_from_a_notebook: Service) -> None:
    ray = running_ray()
    own = Path(ray.temp) / OWN
    assert own.stat().st_mode & 0o777 == 0o777, "Ray does not open its folder any more: is the parent needed?"
    for attempt in ("ls $1", "ls $1/session_latest/sockets", "ln -sf /etc/passwd $1/session_latest/logs/x"):
        assert as_another_user(attempt, own).returncode != 0, attempt
    assert as_another_user("cat $1/ray.json", local_ray.folder()).returncode != 0


def test_no_port_of_ray_says_anything_without_its_token(started_from_a_notebook: Service) -> None:
    """They listen on every interface."""
    ours = {process.pid for process in session(running_ray().pid)}
    listening = {
        (str(connection.laddr[0]), int(connection.laddr[1]))
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.pid in ours and connection.laddr
    }
    assert len(listening) > 5
    own = running_ray().address.rpartition(":")[0]
    for ip, port in listening:
        host = ip.removeprefix("::ffff:")
        asked = http.client.HTTPConnection(host if host[:4] == "127." else own, port, timeout=PATIENCE)
        try:
            asked.request("GET", "/")
            assert asked.getresponse().status == 401, (ip, port)
        except (http.client.HTTPException, ConnectionError):
            continue  # it speaks gRPC; Ray closes connections without its token
        finally:
            asked.close()


def test_a_submit_right_after_an_agent_was_killed_brings_up_another_ray(
    started_from_a_notebook: Service, small: Path
) -> None:
    service, ray = started_from_a_notebook, running_ray()
    (agent,) = (each for each in session(ray.pid) if each.cmdline()[:1] == ["ray::DashboardAgent"])
    agent.kill()
    number = service.submit(small, "num_epochs=1")
    service.wait_for_state(number, State.FINISHED)
    assert running_ray().pid != ray.pid and not session(ray.pid)


def test_down_ends_what_is_left_of_a_ray_whose_raylet_has_ended(
    started_from_a_notebook: Service, small: Path
) -> None:
    service = started_from_a_notebook
    number = service.submit(small, "num_epochs=100000")
    pid = service.training(number).pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    ray = running_ray()
    (raylet,) = (each for each in session(ray.pid) if each.name() == "raylet")
    raylet.terminate()
    wait_until(lambda: not ray.serves, "the end of the raylet")
    status = service.call("status").stdout
    assert "without a node" in status and "scheduler  down" in status
    service.call("down")
    assert not session(ray.pid) and local_ray.recorded() is None and not Path(ray.temp).exists()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
