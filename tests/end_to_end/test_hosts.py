"""Hosts with a network between them: the services of compose.yaml, and each of their faults once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import postgres
import pytest
from end_to_end import hosts, rehearsal
from end_to_end.hosts import Lan
from end_to_end.rehearsal import CANCELLED, EPOCHS, INTERRUPTED, RUNS, Found
from end_to_end.transcript import Transcript
from patience import wait_until

pytestmark = pytest.mark.rehearsal

REASON = hosts.missing() or postgres.missing()
needs_hosts = pytest.mark.skipif(REASON is not None, reason=f"no hosts to rehearse on: {REASON}")
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    with Lan(tmp_path, {"one": ["first"], "two": []}).up() as lan:
        yield lan


@needs_hosts
def test_a_host_has_a_name_and_processes_of_its_own_and_reaches_the_others(lan: Lan) -> None:
    one, two = lan.host("one"), lan.host("two")
    assert one.run(["hostname"], ENVIRONMENT).stdout == "one\n"
    listening = 'exec 3<>"/dev/tcp/first/4711"'  # by another name of it
    server = "import socket; s = socket.create_server(('', 4711)); open('/tmp/up', 'w'); s.accept()"
    one.start("server", [shutil.which("python3") or "python3", "-c", server], ENVIRONMENT)
    wait_until((one.folder / "tmp" / "up").exists)
    assert two.run(["ls", "/tmp"], ENVIRONMENT).stdout == ""
    assert two.run(["bash", "-c", listening], ENVIRONMENT).returncode == 0


@needs_hosts
def test_a_host_that_is_killed_takes_all_its_processes_along_and_can_be_started_again(lan: Lan) -> None:
    one, two = lan.host("one"), lan.host("two")
    running = [host.start("sleep", ["sh", "-c", "sleep 600 & wait"], ENVIRONMENT) for host in (one, two)]
    wait_until(lambda: len(running[0].processes()) == 2)
    below = running[0].processes()
    one.kill()
    assert not any(process.is_running() for process in below)
    assert running[1].alive
    assert lan.host("one").run(["hostname"], ENVIRONMENT).stdout == "one\n"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """The rehearsal, once for all tests of this file: about three minutes on two cores."""
    return rehearsal.rehearse(tmp_path_factory.mktemp("rehearsal"), Transcript())


@needs_hosts
@pytest.mark.timeout(900)
def test_all_runs_of_a_cluster_finish_whatever_died_meanwhile(found: Found) -> None:
    assert [run["id"] for run in found.runs] == list(range(1, len(RUNS) + 2))
    assert {run["state"] for run in found.runs} == {"FINISHED"}
    assert {run["durable_epoch"] for run in found.runs} == {EPOCHS}


@needs_hosts
@pytest.mark.timeout(900)
def test_a_run_whose_host_died_is_queued_again_and_goes_on_elsewhere(found: Found) -> None:
    assert found.attempts[found.disturbed] > found.attempts[found.undisturbed] == 1
    assert found.requeued_after < 120  # Ray's noticing, and the scheduler's; a few seconds on an idle machine
    assert found.attempts[INTERRUPTED] >= 2


@needs_hosts
@pytest.mark.timeout(900)
def test_a_worker_that_is_stopped_lets_its_run_save_first_and_that_is_no_loss(found: Found) -> None:
    assert found.drained["outcome"] == "stopped"
    assert "drained" in found.drained["reason"]


@needs_hosts
@pytest.mark.timeout(900)
def test_the_weights_of_a_disturbed_run_are_those_of_one_that_was_left_alone(found: Found) -> None:
    assert found.weights_equal
    assert found.tensors > 4


@needs_hosts
@pytest.mark.timeout(900)
def test_every_epoch_of_every_run_is_in_mlflow_once_although_its_server_was_killed(found: Found) -> None:
    assert 0 < found.published_before < EPOCHS
    assert set(found.points) == {f"{run['id']}-{run['name']}" for run in found.runs}
    for name, metrics in found.points.items():
        of_epochs = {key: steps for key, steps in metrics.items() if key.startswith(("train/", "test/"))}
        assert {"train/loss", "test/accuracy"} <= set(of_epochs)
        for key, steps in of_epochs.items():
            assert sorted(steps) == list(range(1, EPOCHS + 1)), f"{name}: {key}"


@needs_hosts
@pytest.mark.timeout(900)
def test_a_laptop_follows_a_run_to_its_end_and_keeps_nothing_of_it(found: Found) -> None:
    assert f"/{EPOCHS} epochs, loss" in found.followed
    assert found.files_of_laptop == sorted(f"{name}.yaml" for name in RUNS)
    assert CANCELLED in found.attempts
