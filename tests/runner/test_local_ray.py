"""The record of the local Ray; that Ray really starts and ends is seen in tests/end_to_end."""

from __future__ import annotations

import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runner import local_ray
from runner.local_ray import LocalRay


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNNER_RAY_DIR", str(tmp_path / "ray"))
    return local_ray.folder()


@pytest.fixture
def head() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for a Ray's head."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def recorded(process: subprocess.Popen[bytes], temp: Path, address: str = "127.0.0.1:1") -> LocalRay:
    ray = LocalRay(
        process.pid, local_ray._start_mark(process.pid) or "", "t", str(temp), sys.executable, address
    )
    local_ray._write_record(ray)
    return ray


def test_the_record_is_private(folder: Path, head: subprocess.Popen[bytes], tmp_path: Path) -> None:
    recorded(head, tmp_path / "temp")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "ray.json").stat().st_mode) == 0o600


def test_a_ray_is_found_while_its_process_lives(
    folder: Path, head: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    ray = recorded(head, tmp_path / "temp")
    assert local_ray.find() == ray
    head.kill()
    head.wait()
    assert local_ray.find() is None


def test_a_process_that_has_taken_over_the_pid_is_not_taken_for_ray(
    folder: Path, head: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    ray = recorded(head, tmp_path / "temp")
    assert not replace(ray, started="another boot/12345").alive


def test_a_ray_that_is_still_starting_is_not_found_but_on_record(
    folder: Path, head: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    ray = recorded(head, tmp_path / "temp", address="")
    assert local_ray.find() is None
    assert ray.alive


def test_a_ray_whose_log_says_that_it_has_started_is_waited_for_until_its_address_is_there(
    folder: Path, head: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    (folder / "ray.log").write_text("Ray runtime started.")
    address = tmp_path / "ray_current_cluster"
    threading.Timer(0.2, lambda: address.write_text("")).start()  # opened
    threading.Timer(0.4, lambda: address.write_text("127.0.0.1:5")).start()
    assert local_ray._awaited(recorded(head, tmp_path, address="")).address == "127.0.0.1:5"
    found = local_ray.find()
    assert found is not None and found.address == "127.0.0.1:5"


def test_ending_a_ray_ends_its_processes_and_forgets_it(
    folder: Path, head: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    (tmp_path / "temp").mkdir()
    ray = recorded(head, tmp_path / "temp")
    local_ray.stop(ray)
    assert not ray.alive
    assert not (tmp_path / "temp").exists() and not (folder / "ray.json").exists()


def test_ending_an_old_ray_leaves_the_record_of_the_one_that_took_its_place(
    folder: Path, head: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    new = recorded(head, tmp_path / "new")
    old = replace(new, pid=2**22 - 1, started="long ago", temp=str(tmp_path / "old"))
    local_ray.stop(old)
    assert local_ray.find() == new


def test_a_half_written_record_counts_as_none(folder: Path) -> None:
    (folder / "ray.json").write_text('{"pid": 1')
    assert local_ray.find() is None


def test_settings_of_another_ray_and_of_one_home_do_not_reach_it() -> None:
    kept = local_ray._without_settings({"RAY_ADDRESS": "x", "MLFLOW_TRACKING_URI": "y", "PATH": "z"})
    assert kept == {"PATH": "z"}
    assert local_ray.environment("secret", kept)["RAY_AUTH_MODE"] == "token"


def test_nobody_listens_at_a_dead_address(
    folder: Path, head: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert not recorded(head, tmp_path / "temp", address="127.0.0.1:1").answers
