"""The number of CPUs that this process may use, which can be fewer than the machine has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC = Path("/proc/self")


def available_cpus(proc: Path = PROC) -> int:
    """The smallest of what the machine has, the affinity (`taskset`, SLURM) and the cgroups' quotas allow.

    A quota of 2.5 CPUs, as containers have it, counts as 2: a third thread would have all of them wait at
    the end of every period. `proc`: in which files the kernel describes this process.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # there is none on macOS
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min([allowed, *(max(1, int(quota)) for quota in quotas(proc))])


def quotas(proc: Path = PROC) -> Iterator[float]:
    """The quotas, in CPUs, of the process's cgroups (version 1 and 2) and of all those around them."""
    for folder in _folders(proc):
        try:
            yield _quota(folder)
        except (OSError, ValueError, ZeroDivisionError):  # no such file, or no limit
            continue


def _quota(folder: Path) -> float:
    """Raises OSError or ValueError where a cgroup sets no limit."""
    v2 = folder / "cpu.max"
    if v2.exists():
        quota, period = v2.read_text().split()  # "max 100000": no limit, and no number either
    else:
        quota, period = ((folder / f"cpu.cfs_{part}_us").read_text() for part in ("quota", "period"))
    if int(quota) <= 0:
        raise ValueError("no limit")
    return int(quota) / int(period)


def _folders(proc: Path) -> Iterator[Path]:
    """The folders of the process's cgroups that may limit CPU time, and of those that contain them."""
    try:
        of_process, mounts = (proc / "cgroup").read_text(), (proc / "mountinfo").read_text()
    except OSError:  # not Linux
        return
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        root, place = before.split()[3:5]
        kind, _, options = after.split(maxsplit=2)
        if kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split(",")):
            path = _path(of_process, unified=kind == "cgroup2")
            yield from _upward(Path(place), PurePosixPath(root), path)


def _path(of_process: str, unified: bool) -> PurePosixPath:
    """The process's cgroup in the hierarchy of version 2, or in that of version 1 that counts CPU time."""
    for line in of_process.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" if unified else "cpu" in controllers.split(","):
            return PurePosixPath(path)
    return PurePosixPath("/")


def _upward(place: Path, root: PurePosixPath, path: PurePosixPath) -> Iterator[Path]:
    """The folder of a cgroup and those above it, as far as they are mounted: a container sees its own."""
    inside = path.relative_to(root) if path.is_relative_to(root) else PurePosixPath("")
    folder = place / inside if ".." not in inside.parts else place
    yield folder
    yield from (parent for parent in folder.parents if parent.is_relative_to(place))
