"""Start of the service: once, however many commands start it, and beside any other Ray on the machine."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from end_to_end.harness import Service
from patience import PATIENCE, wait_until

from runner import local_ray, record
from runner.states import ENDED, State
from runner.store import open_store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # what MLflow does with SQLAlchemy
]


def schedulers() -> list[psutil.Process]:
    """The scheduler processes in the tests' own Ray."""
    ray = local_ray.find()
    ours = set(psutil.Process(ray.pid).children(recursive=True)) if ray else set()
    named = psutil.process_iter(["cmdline"])
    return [
        each for each in named if each in ours and "SchedulerActor" in " ".join(each.info["cmdline"] or ())
    ]


def test_two_first_submits_at_one_instant_start_one_ray_and_one_scheduler(
    service: Service, small: Path
) -> None:
    command = service.command("submit", small, "--set", "num_epochs=1")
    both = [
        subprocess.Popen(command, env=service.environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    numbers = sorted(int(each.communicate(timeout=PATIENCE)[0]) for each in both)
    assert numbers == [1, 2]
    assert [each.returncode for each in both] == [0, 0]
    for number in numbers:
        service.wait_for_state(number, State.FINISHED)
        assert service.run(number).attempt == 1
    assert len(schedulers()) == 1


def test_a_first_submit_killed_while_ray_starts_leaves_one_ray_for_the_next(
    service: Service, small: Path
) -> None:
    service.call("down")
    command = service.command("submit", small, "--set", "num_epochs=1")
    process = subprocess.Popen(command, env=service.environment, stdout=subprocess.DEVNULL)
    starting = wait_until(local_ray.recorded, "a Ray that starts")
    process.kill()
    process.wait()
    number = service.submit(small, "num_epochs=1")
    service.wait_for_state(number, State.FINISHED)
    ray = local_ray.find()
    assert ray is not None and ray.pid == starting.pid
    wait_until(lambda: all(run.state in ENDED for run in service.runs()), "the killed submit's run")


def test_a_submit_right_after_down_starts_a_scheduler_on_the_ray_that_another_home_keeps(
    service: Service, small: Path, tmp_path: Path
) -> None:
    other = Service(tmp_path / "other", service.variables)
    other.call("up")
    service.call("down")
    number = service.submit(small, "num_epochs=1")
    service.wait_for_state(number, State.FINISHED)
    other.call("down")
    assert local_ray.find() is not None


def test_a_submit_killed_at_any_moment_queues_its_runs_or_none(service: Service, small: Path) -> None:
    before = len(service.runs())
    moments = random.Random(0)
    for _ in range(8):
        command = service.command("submit", small, small, "--set", "num_epochs=1", "--set", "runner.cpus=999")
        process = subprocess.Popen(command, env=service.environment, stdout=subprocess.DEVNULL)
        time.sleep(moments.uniform(0.02, 0.5))
        process.kill()
        process.wait()
    added = service.runs()[before:]
    assert len(added) % 2 == 0, "half of a submit was queued"
    assert all(run.state is State.QUEUED for run in added)
    if added:
        service.call("cancel", *(str(run.id) for run in added))


@pytest.mark.rehearsal
def test_two_homes_share_the_gpus_without_booking_one_twice(
    service: Service, small: Path, tmp_path: Path
) -> None:
    other = Service(tmp_path / "other", service.variables)
    settings = ["--set", "num_epochs=2"]
    mine = [int(n) for n in service.call("submit", *[small] * 3, *settings).stdout.split()]
    theirs = [int(n) for n in other.call("submit", *[small] * 3, *settings).stdout.split()]

    def all_ended() -> bool:
        runs = [service.run(n) for n in mine] + [other.run(n) for n in theirs]
        held = [device for run in runs if run.state is State.RUNNING for device in run.devices]
        assert len(held) == len(set(held)), "both homes were given the same GPU"
        return all(run.state in ENDED for run in runs)

    wait_until(all_ended)
    assert {service.run(n).state for n in mine} | {other.run(n).state for n in theirs} == {State.FINISHED}
    other.call("down")
    assert local_ray.find() is not None, "the other home's `down` ended the Ray that this one uses"


@pytest.fixture
def unrelated_ray() -> Iterator[str]:
    """Another Ray of the same user, started the usual way; its address."""
    temp = tempfile.mkdtemp(prefix="ur-", dir="/tmp")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    options = ["--num-cpus=1", "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={temp}"]
    process = subprocess.Popen([*command, *options], env=environment, stdout=subprocess.DEVNULL)
    children: list[psutil.Process] = []
    try:
        address = f"127.0.0.1:{port}"
        wait_until((Path(temp) / "ray_current_cluster").exists, "the unrelated Ray")
        wait_until(lambda: _ask_ray(address, environment), "the unrelated Ray")
        yield address
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        for child in children:
            if child.is_running():
                child.kill()
        process.wait()


def _ask_ray(address: str, environment: dict[str, str]) -> bool:
    """Run a task on a Ray as its own user would."""
    code = f"import ray; ray.init('{address}', log_to_driver=False); print(ray.get(ray.put('alive')))"
    asked = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    return asked.stdout.strip() == "alive"


@pytest.mark.rehearsal
def test_an_unrelated_ray_is_neither_joined_nor_harmed(
    unrelated_ray: str, service: Service, small: Path
) -> None:
    ours = local_ray.find()
    if ours is not None:
        local_ray.stop(ours)
    number = service.submit(small, "num_epochs=1")
    service.wait_for_state(number, State.FINISHED)
    ours = local_ray.find()
    assert ours is not None and ours.address.split(":")[1] != unrelated_ray.split(":")[1]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    assert _ask_ray(unrelated_ray, environment)
    service.call("down")
    assert local_ray.find() is None
    assert _ask_ray(unrelated_ray, environment)


@pytest.mark.rehearsal
def test_a_tracking_server_that_is_away_holds_nothing_up_and_is_caught_up_later(
    service: Service, small: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    away = Service(tmp_path / "home", {**service.variables, "MLFLOW_TRACKING_URI": uri})
    number = away.submit(small, "num_epochs=3")
    finished = away.wait_for_state(number, State.FINISHED)
    assert finished.published_epoch is None
    troubled = away.wait_for(number, lambda run: run.publish_error)
    assert uri in (troubled.publish_error or "")
    server = _mlflow_server(tmp_path, port)
    try:
        published = away.wait_for(number, lambda run: run.published_state is State.FINISHED)
        assert (published.published_epoch, published.publish_error) == (3, None)
        client = MlflowClient(uri)
        assert published.mlflow_run_id is not None
        points = client.get_metric_history(published.mlflow_run_id, "test/accuracy")
        assert [point.step for point in points] == [1, 2, 3]
        assert client.get_run(published.mlflow_run_id).info.status == "FINISHED"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        away.call("down")


def _mlflow_server(folder: Path, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    store = [f"--backend-store-uri=sqlite:///{folder}/served.db", f"--artifacts-destination={folder}/served"]
    return subprocess.Popen(
        [*command, *store],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_a_run_resumed_again_and_again_is_one_mlflow_run_with_one_point_an_epoch(
    service: Service, small: Path
) -> None:
    from mlflow import MlflowClient

    number = service.submit(small, "num_epochs=100000")
    for attempt in (1, 2, 3):
        service.training(number, attempt)
        service.call("interrupt", str(number))
        service.wait_for_state(number, State.INTERRUPTED)
        if attempt < 3:
            service.call("resume", str(number))
    last = service.run(number).durable_epoch
    run = service.wait_for(
        number, lambda run: run.published_epoch == last and run.published_state is State.INTERRUPTED
    )
    client = MlflowClient(f"sqlite:///{service.home.mlflow_database}")
    assert run.mlflow_run_id is not None and last is not None
    for metric in ("train/loss", "test/accuracy", "learning_rate"):
        points = client.get_metric_history(run.mlflow_run_id, metric)
        assert sorted(point.step for point in points) == list(range(1, last + 1))
    with open_store(service.home, create=False) as store:
        identity = record.identity(store.queue_id, number)
    (experiment,) = client.search_experiments(filter_string="name = 'capsnet'")
    query = f"tags.`{record.IDENTITY}` = '{identity}'"
    assert len(client.search_runs([experiment.experiment_id], query)) == 1


def test_a_relative_tracking_store_is_that_of_the_directory_of_the_command(
    ray_folder: Path, tmp_path: Path, small: Path
) -> None:
    from mlflow import MlflowClient

    (directory := tmp_path / "here").mkdir()
    service = Service(tmp_path / "home", {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}, directory)
    number = service.submit(small, "num_epochs=1")
    run = service.wait_for(number, lambda run: run.published_state is State.FINISHED)
    service.call("down")
    assert run.mlflow_run_id is not None
    found = MlflowClient(f"sqlite:///{directory}/mlflow.db").get_run(run.mlflow_run_id)
    assert found.info.status == "FINISHED"
    assert not service.home.mlflow_database.exists()


def test_the_queue_survives_two_hundred_submits_in_a_row(service: Service, small: Path) -> None:
    before = len(service.runs())
    words = ["--set", "runner.cpus=999"]
    numbers = [int(service.call("submit", small, *words).stdout) for _ in range(10)]
    numbers += [int(n) for n in service.call("submit", *[small] * 190, *words).stdout.split()]
    assert len(set(numbers)) == 200 and len(service.runs()) == before + 200
    assert len(schedulers()) == 1
