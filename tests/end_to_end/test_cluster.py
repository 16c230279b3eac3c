"""A real Ray cluster of several hosts: they come and go, and nothing is lost or done twice."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import postgres
import psutil
import pytest
from end_to_end.harness import Service
from end_to_end.raylets import Host, Hosts, bare_python
from end_to_end.test_faults import ENDLESS, Undisturbed, assert_as_undisturbed, stop, undisturbed
from patience import PATIENCE, wait_until

from runner import exits
from runner.rows import Attempt, Beat
from runner.states import UNFINISHED, State
from runner.store import open_store

__all__ = ["undisturbed"]  # a fixture
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """A head without GPUs, and one more host with one."""
    cluster = Hosts()
    try:
        cluster.start_head()
        cluster.add("alpha")
        yield cluster
    finally:
        cluster.end()


@pytest.fixture(scope="module")
def database() -> Iterator[postgres.Server]:
    """A PostgreSQL of this module's own, which is stopped and started under it."""
    if (reason := postgres.missing()) is not None:
        pytest.skip(reason)
    with postgres.server() as server:
        yield server


@pytest.fixture(scope="module")
def service(
    hosts: Hosts, database: postgres.Server, ray_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Service:
    variables = {**hosts.variables, "RUNNER_DATABASE_URL": database.new_database()}
    service = Service(tmp_path_factory.mktemp("home"), variables)
    service.call("up")
    return service


@pytest.fixture(autouse=True)
def nothing_left(service: Service) -> Iterator[None]:
    """Cancel unfinished runs after each test, so that a failed test leaves the GPUs to the next one."""
    yield
    if left := [run.id for run in service.runs() if run.state in UNFINISHED]:
        service.call("cancel", *map(str, left), "--grace", "1")
        for number in left:
            service.wait_for_state(number, State.CANCELLED, State.FINISHED)


def submit(service: Service, small: Path) -> int:
    return service.submit(small, ENDLESS, "threads=1", "runner.gpus=1", "runner.cpus=1")


def beat(service: Service) -> Beat:
    with open_store(service.home, create=False) as store:
        return wait_until(store.scheduler_beat, "a scheduler")


def remove(service: Service, host: Host) -> None:
    """Kill a host and wait until the scheduler knows, so that the next run is not placed there."""
    host.kill()
    wait_until(lambda: host.name not in {machine["name"] for machine in beat(service).machines}, host.name)


def attempts(service: Service, number: int) -> list[Attempt]:
    with open_store(service.home, create=False) as store:
        return store.attempts(number)


def outcomes(service: Service, number: int) -> list[str | None]:
    return [attempt.outcome for attempt in attempts(service, number)]


def refused(service: Service, *words: str, **variables: str) -> str:
    """Run a command that is refused and return its one line of error, after the stages that it came to."""
    done = subprocess.run(
        service.command(*words),
        env={**service.environment, **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode != 0, done.stdout
    *stages, line = done.stderr.strip().splitlines()
    assert all(stage.startswith("starting ") for stage in stages)
    return line


def test_the_cluster_is_the_same_by_whatever_address_it_is_joined(service: Service, hosts: Hosts) -> None:
    first = beat(service)
    assert first.cluster.startswith("Ray cluster session_")
    for address in (f"localhost:{hosts.port}", hosts.address):
        Service(service.root, {**service.variables, "RAY_ADDRESS": address}).call("up")
    assert beat(service).epoch == first.epoch


def test_who_cannot_join_is_told_so_in_one_line(service: Service, hosts: Hosts) -> None:
    assert "lets nobody in without its token" in refused(service, "up", RAY_AUTH_TOKEN="f" * 64)
    assert "no Ray answers at 127.0.0.1:1" in refused(service, "up", RAY_ADDRESS="127.0.0.1:1")
    assert "HOST:PORT" in refused(service, "up", RAY_ADDRESS=f"ray://{hosts.address}")


def test_runs_of_a_killed_host_go_on_elsewhere_with_the_same_weights(
    service: Service, hosts: Hosts, small: Path, undisturbed: Undisturbed
) -> None:
    number = submit(service, small)
    first = hosts.host_of(service.training(number).pid)
    other = hosts.add("other")
    first.kill()
    second = service.training(number, attempt=2)
    assert hosts.host_of(second.pid) is other
    assert attempts(service, number)[0].reason == "its machine is gone"
    stop(service, number)
    assert_as_undisturbed(service, number, undisturbed)
    assert outcomes(service, number) == ["lost", "stopped"]


def test_a_drained_host_saves_its_runs_first_and_a_new_one_takes_them(
    service: Service, hosts: Hosts, small: Path, undisturbed: Undisturbed
) -> None:
    number = submit(service, small)
    first = hosts.host_of(service.training(number).pid)
    first.shut_down()
    waiting = service.wait_for_state(number, State.QUEUED)
    assert waiting.reason == f"{first.name} is being drained" and waiting.losses == 0
    first.process.wait(PATIENCE)
    wait_until(lambda: [m["name"] for m in beat(service).machines] == ["head"], "the host's going")
    assert service.run(number).state is State.QUEUED
    new = hosts.add("new")
    second = service.training(number, attempt=2)
    assert hosts.host_of(second.pid) is new
    stop(service, number)
    assert_as_undisturbed(service, number, undisturbed)
    assert outcomes(service, number) == ["stopped", "stopped"]


def test_a_host_without_our_packages_trains_with_those_that_the_run_brings(
    service: Service, hosts: Hosts, small: Path, tmp_path: Path
) -> None:
    busy = submit(service, small)
    service.training(busy)
    bare = hosts.add("bare", python=bare_python(tmp_path / "bare"))
    number = submit(service, small)
    assert hosts.host_of(service.training(number).pid) is bare
    stop(service, number)
    stop(service, busy)
    remove(service, bare)


def test_a_host_without_pytorch_is_left_alone_and_the_others_go_on(
    service: Service, hosts: Hosts, small: Path, tmp_path: Path
) -> None:
    busy = submit(service, small)
    able = hosts.host_of(service.training(busy).pid)
    bare = hosts.add("bare", python=bare_python(tmp_path / "bare", "torch"))
    number = submit(service, small)
    waiting = service.wait_for(number, lambda run: run.state is State.QUEUED and run.reason)
    assert waiting.reason is not None
    assert waiting.reason.startswith("bare cannot run it: ModuleNotFoundError") and waiting.losses == 0
    wait_until(lambda: "bare cannot run it" in (beat(service).message or ""), "the message")
    assert service.run(number).attempt == 1, "it was tried there again"
    stop(service, busy)
    second = service.training(number, attempt=2)
    assert hosts.host_of(second.pid) is able
    stop(service, number)
    remove(service, bare)


@pytest.mark.rehearsal
def test_two_homes_on_one_cluster_do_not_book_a_gpu_twice(
    service: Service, hosts: Hosts, small: Path, tmp_path: Path
) -> None:
    other = Service(tmp_path / "other", hosts.variables)
    number = submit(service, small)
    first = service.training(number)
    epoch = beat(service).epoch
    theirs = submit(other, small)
    other.wait_for(theirs, lambda run: run.state is State.QUEUED)
    assert [run.id for run in other.runs()] == [theirs]
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        assert other.run(theirs).state is State.QUEUED, "the GPU was booked twice"
    stop(service, number)
    assert other.training(theirs).devices == first.devices
    assert "down" in other.call("down").stderr
    assert other.run(theirs).state is State.QUEUED
    assert beat(service).epoch == epoch, "the other home's `down` ended this one's scheduler"


def test_a_home_that_does_not_hold_what_was_saved_is_refused(
    service: Service, hosts: Hosts, small: Path, tmp_path: Path
) -> None:
    first = Service(tmp_path / "first", {**hosts.variables, "RUNNER_DATABASE_URL": _url(tmp_path)})
    number = submit(first, small)
    first.training(number)
    first.call("down")
    second = Service(tmp_path / "second", first.variables)
    line = refused(second, "up")
    assert f"RUNNER_HOME={first.root}" in line and str(second.root) in line
    assert "queued, but not started" in second.call("submit", small, expect=exits.NOT_STARTED).stderr


@pytest.mark.rehearsal
def test_a_database_that_is_away_for_a_while_loses_nothing(
    service: Service, hosts: Hosts, database: postgres.Server, small: Path, undisturbed: Undisturbed
) -> None:
    number = submit(service, small)
    before = service.training(number)
    short = service.submit(small, "num_epochs=2", "runner.gpus=0", "runner.cpus=1")
    service.training(short)
    database.stop("immediate")
    ending = service.home.run(short, "small").attempt(1).outcome
    wait_until(ending.exists, "the end of a run while the database is away")
    database.start()
    after = service.wait_for(number, lambda run: (run.answered_at or 0) > (before.answered_at or 0))
    assert (after.attempt, after.pid) == (1, before.pid)
    assert service.wait_for_state(short, State.FINISHED).attempt == 1
    log = service.home.scheduler_log.read_text()
    assert log.count("waiting for the database") == 1 and postgres.PASSWORD not in log
    stop(service, number)
    assert_as_undisturbed(service, number, undisturbed)


@pytest.mark.rehearsal
def test_the_scheduler_leaves_a_drained_host_and_outlives_a_killed_one(
    service: Service, hosts: Hosts, small: Path
) -> None:
    first, epoch = hosts.host_of(beat(service).pid), beat(service).epoch
    hosts.add("delta")
    hosts.drain(first)
    wait_until(lambda: beat(service).epoch > epoch and beat(service).pid, "another scheduler")
    second = hosts.host_of(beat(service).pid)
    assert second is not first
    number = service.submit(small, ENDLESS)
    worker = service.training(number).pid
    epoch = beat(service).epoch
    hosts.add("epsilon")
    attempt = 2 if second.runs(worker) else 1
    second.kill()
    wait_until(lambda: beat(service).epoch > epoch and beat(service).pid, "a third scheduler")
    third = beat(service).at
    again = service.wait_for(number, lambda run: run.attempt == attempt and (run.answered_at or 0) > third)
    assert hosts.host_of(again.pid) is not second
    assert attempt == 2 or again.pid == worker
    stop(service, number)


@pytest.mark.rehearsal
def test_a_second_cluster_is_refused_until_the_first_falls_silent(
    service: Service, hosts: Hosts, small: Path
) -> None:
    first = beat(service)
    here = {key: value for key, value in service.variables.items() if not key.startswith("RAY_")}
    other = Service(service.root, {**here, "RUNNER_GPUS": "1"})
    line = refused(other, "up")
    assert first.cluster in line and "there first" in line
    assert "run `down` on a host of it" in refused(other, "down")
    scheduler = psutil.Process(beat(service).pid)
    scheduler.suspend()
    other.call("up")
    assert beat(service).cluster.startswith("local Ray")
    number = other.submit(small, "num_epochs=1")
    scheduler.resume()
    scheduler.wait(PATIENCE)
    assert other.wait_for_state(number, State.FINISHED).attempt == 1
    assert beat(service).cluster.startswith("local Ray")
    other.call("down")


def _url(folder: Path) -> str:
    return f"sqlite:///{folder / 'queue.db'}"
