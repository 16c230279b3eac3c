"""How many CPUs a process may use: of the machine, by affinity, and by the quotas of its cgroups."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from patience import PATIENCE

from capsnet import cpus

COUNT = "from capsnet.cpus import available_cpus; print(available_cpus())"
Process = Callable[..., Path]


@pytest.fixture
def process(tmp_path: Path) -> Process:
    """Function that writes a process's `cgroup`, `mountinfo` and files of cgroups; returns their folder."""

    def made(cgroup: str, mounts: str, files: Mapping[str, str]) -> Path:
        (tmp_path / "cgroup").write_text(cgroup)
        (tmp_path / "mountinfo").write_text(mounts.replace("/sys", f"{tmp_path}/sys"))
        for name, content in files.items():
            path = tmp_path / "sys" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path

    return made


V2 = "31 23 0:28 / /sys rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = (
    "40 30 0:35 / /sys/cpuset rw - cgroup cgroup rw,cpuset\n"
    "41 30 0:36 {root} /sys/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
)


@pytest.mark.parametrize(
    ("cgroup", "mounts", "files", "expected"),
    [
        ("0::/\n", V2, {}, []),
        ("0::/\n", V2, {"cpu.max": "max 100000\n"}, []),
        ("0::/\n", V2, {"cpu.max": "250000 100000\n"}, [2.5]),
        ("0::/a/b\n", V2, {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, [1.5]),
        ("0::/../other\n", V2, {"cpu.max": "300000 100000"}, [3.0]),  # a container in the host's namespace
    ],
    ids=["none", "unlimited", "a container's", "the folder around it", "out of sight"],
)
def test_quotas_of_version_2(
    process: Process, cgroup: str, mounts: str, files: dict[str, str], expected: list[float]
) -> None:
    assert list(cpus.quotas(process(cgroup, mounts, files))) == expected


@pytest.mark.parametrize(
    ("cgroup", "root", "folder"),
    [
        ("4:cpuset:/x\n3:cpu,cpuacct:/jobs/7\n", "/", "cpu,cpuacct/jobs/7"),
        ("3:cpu,cpuacct:/docker/1f\n", "/docker/1f", "cpu,cpuacct"),
        ("3:cpu,cpuacct:/docker/1f\n", "/elsewhere", "cpu,cpuacct"),
    ],
    ids=["a job", "a container", "a container that shows another name"],
)
def test_quotas_of_version_1(process: Process, cgroup: str, root: str, folder: str) -> None:
    limits = {f"{folder}/cpu.cfs_quota_us": "400000\n", f"{folder}/cpu.cfs_period_us": "100000\n"}
    assert list(cpus.quotas(process(cgroup, V1.format(root=root), limits))) == [4.0]
    unlimited = limits | {f"{folder}/cpu.cfs_quota_us": "-1\n"}
    assert list(cpus.quotas(process(cgroup, V1.format(root=root), unlimited))) == []


def test_a_part_of_a_cpu_counts_as_one_and_a_system_without_cgroups_has_no_quota(
    process: Process, tmp_path: Path
) -> None:
    assert cpus.available_cpus(tmp_path / "nothing") == len(os.sched_getaffinity(0))
    assert cpus.available_cpus(process("0::/\n", V2, {"cpu.max": "50000 100000"})) == 1


def test_affinity_counts() -> None:
    first = min(os.sched_getaffinity(0))
    pinned = ["taskset", "-c", str(first), sys.executable, "-c", COUNT]
    assert subprocess.run(pinned, capture_output=True, text=True, timeout=PATIENCE).stdout == "1\n"


@pytest.fixture
def limited_cgroup() -> Iterator[Path]:
    """A real cgroup that may use one and a half CPUs."""
    kernel = Path("/sys/fs/cgroup")
    folder = (kernel / "cpu" if (kernel / "cpu").is_dir() else kernel) / f"capsnet-test-{os.getpid()}"
    try:
        folder.mkdir()
        if (folder / "cpu.max").exists():
            (folder / "cpu.max").write_text("150000 100000")
        else:
            (folder / "cpu.cfs_quota_us").write_text("150000")
    except OSError as error:
        if folder.exists():
            folder.rmdir()
        pytest.skip(f"no cgroup can be made here: {error}")
    yield folder
    folder.rmdir()


def test_a_real_quota_counts(limited_cgroup: Path) -> None:
    script = f'echo $$ > {limited_cgroup}/cgroup.procs && exec "$0" "$@"'
    command = ["sh", "-c", script, sys.executable, "-c", COUNT]
    assert subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE).stdout == "1\n"
