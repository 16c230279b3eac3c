"""A real Ray cluster of several hosts: they come and go, and nothing is lost or done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from end_to_end.harness import Service, wait_until
from end_to_end.raylets import Host, Hosts, bare_python
from end_to_end.test_faults import ENDLESS, Undisturbed, assert_as_undisturbed, stop, submit, undisturbed

from runner.rows import Beat, Run
from runner.states import State
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
def service(hosts: Hosts, ray_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Service:
    service = Service(tmp_path_factory.mktemp("home"), hosts.variables)
    service.call("up")
    return service


def beat(service: Service) -> Beat:
    with open_store(service.home, create=False) as store:
        return wait_until(store.scheduler_beat, 30, "a scheduler")


def outcomes(service: Service, number: int) -> list[str | None]:
    with open_store(service.home, create=False) as store:
        return [attempt.outcome for attempt in store.attempts(number)]


def refused(service: Service, *words: str, **variables: str) -> str:
    """The one line that a command says instead of doing it."""
    done = subprocess.run(
        service.command(*words),
        env={**service.environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0, done.stdout
    (line,) = done.stderr.strip().splitlines()
    return line


def test_the_cluster_is_the_same_by_whatever_address_it_is_joined(service: Service, hosts: Hosts) -> None:
    first = beat(service)
    assert first.cluster.startswith("Ray cluster session_")
    for address in (f"localhost:{hosts.port}", hosts.address):
        Service(service.root, {**hosts.variables, "RAY_ADDRESS": address}).call("up")
    assert beat(service).epoch == first.epoch


def test_who_cannot_join_is_told_so_in_one_line_and_soon(service: Service, hosts: Hosts) -> None:
    started = time.monotonic()
    assert "lets nobody in without its token" in refused(service, "up", RAY_AUTH_TOKEN="f" * 64)
    assert "no Ray answers at 127.0.0.1:1" in refused(service, "up", RAY_ADDRESS="127.0.0.1:1")
    assert "HOST:PORT" in refused(service, "up", RAY_ADDRESS=f"ray://{hosts.address}")
    assert time.monotonic() - started < 30


def test_runs_of_a_killed_host_go_on_elsewhere_with_the_same_weights(
    service: Service, hosts: Hosts, small: Path, undisturbed: Undisturbed
) -> None:
    number = submit(service, small)
    alpha = hosts.host_of(service.training(number).pid)
    assert alpha.name == "alpha"
    hosts.add("beta")
    alpha.kill()
    killed_at = time.monotonic()
    second = service.training(number, attempt=2)
    assert time.monotonic() - killed_at < 60
    assert hosts.host_of(second.pid).name == "beta"
    assert "machine is gone" in (second.reason or outcome_reason(service, number))
    stop(service, number)
    assert_as_undisturbed(service, number, undisturbed)
    assert outcomes(service, number) == ["lost", "stopped"]


def outcome_reason(service: Service, number: int) -> str:
    with open_store(service.home, create=False) as store:
        return store.attempts(number)[0].reason or ""


def test_a_drained_host_saves_its_runs_first_and_a_new_one_takes_them(
    service: Service, hosts: Hosts, small: Path, undisturbed: Undisturbed
) -> None:
    number = submit(service, small)
    beta = hosts.host_of(service.training(number).pid)
    beta.shut_down()
    waiting = service.wait_for_state(number, State.QUEUED)
    assert waiting.reason == "beta is being drained" and waiting.losses == 0
    beta.process.wait(timeout=40)
    wait_until(lambda: [m["name"] for m in beat(service).machines] == ["head"], 30, "the host's going")
    assert service.run(number).state is State.QUEUED
    hosts.add("gamma")
    added_at = time.monotonic()
    second = service.training(number, attempt=2)
    assert time.monotonic() - added_at < 30
    assert hosts.host_of(second.pid).name == "gamma"
    stop(service, number)
    assert_as_undisturbed(service, number, undisturbed)
    assert outcomes(service, number) == ["stopped", "stopped"]


def test_a_host_without_our_packages_is_left_alone_and_the_others_go_on(
    service: Service, hosts: Hosts, small: Path, tmp_path: Path
) -> None:
    busy = submit(service, small)
    service.training(busy)
    bare = hosts.add("bare", python=bare_python(tmp_path / "bare"))
    number = submit(service, small)
    waiting = service.wait_for(number, lambda run: run.state is State.QUEUED and run.reason)
    assert waiting.reason is not None
    assert waiting.reason.startswith("bare cannot run it: ModuleNotFoundError") and waiting.losses == 0
    wait_until(lambda: "bare cannot run it" in (beat(service).message or ""), 10, "the message")
    assert service.run(number).attempt == 1, "it was tried there again"
    stop(service, busy)
    second = service.training(number, attempt=2)
    assert hosts.host_of(second.pid).name == "gamma"
    stop(service, number)
    bare.kill()


def test_two_homes_on_one_cluster_do_not_book_a_gpu_twice(
    service: Service, hosts: Hosts, small: Path, tmp_path: Path
) -> None:
    other = Service(tmp_path / "other", hosts.variables)
    number = submit(service, small)
    first = service.training(number)
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
    assert beat(service).epoch == 1, "the other home's `down` ended this one's scheduler"


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
    assert "queued, but not started" in second.call("resume", str(number), expect=1).stderr or True


def _url(folder: Path) -> str:
    return f"sqlite:///{folder / 'queue.db'}"
