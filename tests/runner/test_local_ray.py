"""The local Ray: its record, its folder, and what is done about one that starts, lacks its node or has ended.

Processes stand for Ray's here; that Ray really starts and ends is seen in tests/end_to_end.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from other_user import as_another_user, needs_another_user, shared_folder
from patience import wait_until
from stand_in_ray import ADDRESS, ALLOWED, Starts, session

from capsnet.cpus import available_cpus
from runner import local_ray
from runner.local_ray import LONGEST, OWN, LocalRay, LocalRayError, StartFailed

pytestmark = ALLOWED


@pytest.fixture
def head() -> Iterator[subprocess.Popen[bytes]]:
    """A process that replaces the head of a local Ray."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def recorded(process: subprocess.Popen[bytes], temp: Path, address: str = ADDRESS) -> LocalRay:
    mark = local_ray._start_mark(process.pid) or ""
    ray = LocalRay(process.pid, mark, "t", str(temp), sys.executable, address)
    local_ray._write_record(ray)
    return ray


def test_the_record_is_private(ray_folder: Path, head: subprocess.Popen[bytes], tmp_path: Path) -> None:
    recorded(head, tmp_path / "temp")
    assert stat.S_IMODE(ray_folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((ray_folder / "ray.json").stat().st_mode) == 0o600


def test_a_ray_is_found_while_its_process_lives(
    ray_folder: Path, head: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    ray = recorded(head, tmp_path / "temp")
    assert local_ray.find() == ray
    head.kill()
    head.wait()
    assert local_ray.find() is None


def test_a_process_that_has_taken_over_the_pid_is_not_taken_for_ray(
    ray_folder: Path, head: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    ray = recorded(head, tmp_path / "temp")
    assert not replace(ray, started="another boot/12345").alive


def test_a_ray_that_is_still_starting_is_not_found_but_on_record(
    ray_folder: Path, head: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    ray = recorded(head, tmp_path / "temp", address="")
    assert local_ray.find() is None
    assert ray.alive


def test_a_ray_whose_log_says_that_it_has_started_is_waited_for_until_its_address_is_there(
    starts: Starts, ray_folder: Path
) -> None:
    go = starts(at_once=False)
    threading.Timer(0.2, go.touch).start()
    ray = local_ray.ensure()
    assert ray.address == ADDRESS
    assert local_ray.find() == ray
    assert len(ray.parts) == 2  # the raylet and its agent


def test_a_slow_start_is_waited_for_and_not_ended(starts: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    go = starts(at_once=False)
    monkeypatch.setattr(local_ray, "START_SECONDS", 0.2)
    with pytest.raises(LocalRayError, match=r"`runner up` goes on waiting for it, `runner down` ends it"):
        local_ray.ensure()
    starting = local_ray.recorded()
    assert starting is not None and starting.alive
    go.touch()
    monkeypatch.setattr(local_ray, "START_SECONDS", 60.0)
    assert local_ray.ensure().pid == starting.pid


def test_a_ray_that_gives_itself_up_is_started_once_more(
    ray_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = tmp_path / "tries"
    command = ["sh", "-c", f"echo >> {tries}", "sh"]
    monkeypatch.setattr(local_ray, "_options", lambda: command)
    with pytest.raises(StartFailed, match=r"Ray did not start; its output is in .*ray\.log"):
        local_ray.ensure()
    assert tries.read_text() == "\n\n"
    assert local_ray.recorded() is None and not list(ray_folder.glob("cr-*"))


@pytest.mark.parametrize("part", [0, 1], ids=["raylet", "agent"])
def test_a_ray_that_has_lost_its_node_is_dead_and_another_takes_its_place(starts: Starts, part: int) -> None:
    starts()
    ray = local_ray.ensure()
    os.kill(ray.parts[part][0], signal.SIGKILL)
    wait_until(lambda: not ray.serves, "the loss of a part")
    assert ray.alive and local_ray.find() is None
    other = local_ray.ensure()
    assert other.pid != ray.pid and other.serves
    assert not ray.alive and not session(ray.pid) and not Path(ray.temp).exists()


def test_what_is_left_of_a_ray_without_a_node_is_ended_and_one_that_serves_is_not(
    starts: Starts,
) -> None:
    starts()
    ray = local_ray.ensure()
    assert not local_ray.clear_away() and ray.serves
    os.kill(ray.parts[0][0], signal.SIGKILL)
    wait_until(lambda: not ray.serves, "the loss of the raylet")
    assert local_ray.clear_away()
    assert not session(ray.pid) and local_ray.recorded() is None
    assert not local_ray.clear_away()


def test_a_stopped_worker_that_survives_its_ray_is_ended_with_it(starts: Starts) -> None:
    """Only SIGKILL ends the stopped worker, and its command line does not name Ray's folder."""
    starts()
    ray = local_ray.ensure()
    (worker,) = (each for each in session(ray.pid) if each.cmdline()[-1:] == ["import time; time.sleep(600)"])
    worker.suspend()
    psutil.Process(ray.pid).kill()
    wait_until(lambda: not ray.alive)
    assert worker.is_running()
    local_ray.stop(ray)
    assert not session(ray.pid)


def test_a_session_that_has_only_the_number_of_a_ray_is_none_of_its_processes(
    ray_folder: Path, tmp_path: Path
) -> None:
    code = "import time; print(flush=True); time.sleep(600)"
    command = ["sh", "-c", f'{sys.executable} -c "{code}" & wait']
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE) as leader:
        assert leader.stdout is not None
        leader.stdout.readline()
        ray = LocalRay(leader.pid, "long ago", "t", str(tmp_path / "temp"), sys.executable, ADDRESS)
        leader.kill()
        leader.wait()
        (left,) = session(leader.pid)
        local_ray.stop(ray)
        assert left.is_running()
        left.kill()


def test_ending_a_ray_ends_its_processes_and_forgets_it(
    ray_folder: Path, head: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    (tmp_path / "temp").mkdir()
    ray = recorded(head, tmp_path / "temp")
    local_ray.stop(ray)
    assert not ray.alive
    assert not (tmp_path / "temp").exists() and not (ray_folder / "ray.json").exists()


def test_ending_an_old_ray_leaves_the_record_of_the_one_that_took_its_place(
    ray_folder: Path, head: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    new = recorded(head, tmp_path / "new")
    old = replace(new, pid=2**22 - 1, started="long ago", temp=str(tmp_path / "old"))
    local_ray.stop(old)
    assert local_ray.find() == new


def test_a_half_written_record_counts_as_none_and_one_of_a_later_version_does_not(
    ray_folder: Path, head: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    (ray_folder / "ray.json").write_text('{"pid": 1')
    assert local_ray.find() is None
    ray = recorded(head, tmp_path / "temp")
    written = (ray_folder / "ray.json").read_text()
    (ray_folder / "ray.json").write_text(written.replace("{", '{"new": 1, ', 1))
    assert local_ray.find() == ray


def test_nobody_listens_at_a_dead_address(
    ray_folder: Path, head: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert not recorded(head, tmp_path / "temp").answers


def test_an_address_of_another_machine_is_not_believed(starts: Starts, ray_folder: Path) -> None:
    """The token would be sent to that address."""
    starts("192.0.2.77:6379")
    with pytest.raises(LocalRayError, match="as its address, which is not of this machine"):
        local_ray.ensure()
    assert local_ray.recorded() is None and not list(ray_folder.glob("cr-*"))


@needs_another_user
def test_another_user_can_neither_look_into_rays_folder_nor_put_anything_there(
    starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts()
    with shared_folder() as shared:
        monkeypatch.setattr(tempfile, "tempdir", str(shared))
        monkeypatch.setenv("RUNNER_RAY_DIR", str(shared / "ray"))
        ray = local_ray.ensure()
        own = Path(ray.temp) / OWN
        assert stat.S_IMODE(own.stat().st_mode) == 0o777, "Ray opens its own folder"
        for attempt in ("ls $1", "cat $1/ray_current_cluster", "ln -s /etc/passwd $1/link", "echo > $1/new"):
            done = as_another_user(attempt, own)
            assert done.returncode != 0 and "denied" in done.stderr, attempt
        for attempt in ("cat $1/ray.json", "cat $1/ray.log", "echo > $1/ray.json", "flock -n $1/lock true"):
            assert as_another_user(attempt, shared / "ray").returncode != 0, attempt
        local_ray.stop(ray)


@needs_another_user
def test_an_address_in_a_file_of_another_user_is_not_believed() -> None:
    with shared_folder() as shared:
        ray = LocalRay(1, "", "t", str(shared), sys.executable)
        (shared / OWN).mkdir()
        (shared / OWN).chmod(0o777)
        file = shared / OWN / "ray_current_cluster"
        assert as_another_user("echo 127.0.0.1:5 > $1", file).returncode == 0
        assert local_ray._announced(ray) == ""
        file.unlink()
        (shared / "own").write_text("127.0.0.1:5")
        assert as_another_user("ln -s $1 $2", shared / "own", file).returncode == 0
        assert local_ray._announced(ray) == ""


@needs_another_user
def test_a_record_in_a_folder_of_another_user_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    with shared_folder() as shared:
        monkeypatch.setattr(tempfile, "tempdir", str(shared))
        monkeypatch.delenv("RUNNER_RAY_DIR", raising=False)
        place = shared / f"capsnet-runner-{os.getuid()}"
        assert as_another_user("mkdir -m 777 $1 && echo '{}' > $1/ray.json", place).returncode == 0
        with pytest.raises(LocalRayError, match=f"{place} belongs to another user: set RUNNER_RAY_DIR to a"):
            local_ray.find()


def long_path(parent: Path, length: int) -> Path:
    folder = parent / ("x" * (length - len(str(parent)) - 1))
    folder.mkdir()
    return folder


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="s-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def test_rays_folder_lies_where_its_sockets_fit(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder that the user names, else in the temporary directory, else in /tmp."""
    fits, too_long = (long_path(short, LONGEST + more) for more in (0, 1))
    places = []
    for named, temporary in [(fits, "/tmp"), (too_long, fits), (None, fits), (None, too_long)]:
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        monkeypatch.delenv("RUNNER_RAY_DIR", raising=False)
        if named is not None:
            monkeypatch.setenv("RUNNER_RAY_DIR", str(named))
        places.append(Path(local_ray._private_place()))
        assert stat.S_IMODE(places[-1].stat().st_mode) == 0o700
        places[-1].rmdir()
    assert [place.parent for place in places] == [fits, fits, fits, Path("/tmp")]


def test_where_no_place_fits_the_message_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_RAY_DIR", "/" + "x" * LONGEST)
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    monkeypatch.setattr(local_ray, "LAST_RESORT", Path("/sys"))
    with pytest.raises(
        LocalRayError, match="set RUNNER_RAY_DIR to a folder of your own whose path has at"
    ) as error:
        local_ray._private_place()
    assert f"has more than {LONGEST} bytes" in str(error.value) and "/proc: " in str(error.value)


@pytest.mark.parametrize(
    ("variable", "text"),
    [("RUNNER_CPUS", "0"), ("RUNNER_CPUS", "two"), ("RUNNER_CPUS", "-1"), ("RUNNER_GPUS", "1.5")],
)
def test_a_number_that_makes_no_sense_is_refused_before_ray_starts(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(LocalRayError, match=f"{variable}={text}: must be a whole number from"):
        local_ray._options()


def test_ray_gets_as_many_cores_as_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNNER_CPUS", raising=False)
    assert f"--num-cpus={available_cpus()}" in local_ray._options()
    monkeypatch.setenv("RUNNER_CPUS", "7")
    assert "--num-cpus=7" in local_ray._options()


def test_more_gpus_than_are_visible_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_GPUS", "2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "--num-gpus=2" in local_ray._options()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(LocalRayError, match="RUNNER_GPUS=2, but CUDA_VISIBLE_DEVICES=1 names 1"):
        local_ray._options()
