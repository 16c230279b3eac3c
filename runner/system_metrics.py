"""Samples of a run's use of its machine: of its own processes and its own GPUs, not those of other runs.

The worker appends samples to its attempt's system.csv; the publisher reads them there. Names of the GPU
columns are MLflow's own, so that its page of system metrics shows them as it shows those of other tools.
"""

from __future__ import annotations

import contextlib
import csv
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

MEGABYTE = 2**20
CPU = "process_cpu_percentage"  # 100: one core busy
MEMORY = "process_memory_usage_megabytes"  # resident, DataLoader workers included
GPU_COLUMNS = (
    "utilization_percentage",
    "memory_usage_megabytes",
    "memory_usage_percentage",
    "power_usage_watts",
)


class Sampler:
    """Sampler of a process with its children, and of the GPUs that were given to it.

    `gpus` are CUDA_VISIBLE_DEVICES' own entries: an index or a UUID. Without NVIDIA's driver there are no
    GPU columns. Every sample has the same keys, as a table needs; what could not be read is NaN.
    """

    def __init__(self, pid: int, gpus: Sequence[int | str] = ()) -> None:
        self._process = psutil.Process(pid)
        self._gpus = [reader for gpu in gpus if (reader := _gpu_reader(gpu))]
        self._before = time.monotonic(), self._usage()[0]

    def sample(self, now: float) -> dict[str, float]:
        """The columns of one row of system.csv; `now` in unix seconds, CPU load since the last sample."""
        (before, spent_before), at = self._before, time.monotonic()
        spent, resident = self._usage()
        self._before = at, spent
        row = {
            "time": now,
            # Time of a child that ended and was not waited for drops out of the sum: never below zero.
            CPU: max(0.0, 100 * (spent - spent_before) / max(at - before, 1e-9)),
            MEMORY: resident / MEGABYTE,
        }
        for number, read in enumerate(self._gpus):
            row |= {f"gpu_{number}_{column}": value for column, value in read().items()}
        return {key: round(value, 3) for key, value in row.items()}

    def _usage(self) -> tuple[float, int]:
        """CPU seconds so far and resident bytes now, of the process and its children."""
        times = self._process.cpu_times()
        # A child that was waited for has left its time with its parent.
        spent = times.user + times.system + times.children_user + times.children_system
        resident = self._process.memory_info().rss
        for child in self._process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended while we looked
                times = child.cpu_times()
                spent += times.user + times.system
                resident += child.memory_info().rss
        return spent, resident


def visible_gpus() -> tuple[str, ...]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    return tuple(filter(None, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")))


def read(path: Path, start: int = 0) -> tuple[list[dict[str, float]], int]:
    """Return the rows of a system.csv from byte `start` on, and the byte after the last whole one.

    A line that its writer has not finished is left for the next time; NaN columns are left out.
    """
    try:
        with path.open("rb") as file:
            header = file.readline()
            start = max(start, len(header))
            file.seek(start)
            whole = file.read().rpartition(b"\n")[0]
    except FileNotFoundError:
        return [], start
    if not whole:
        return [], start
    columns = next(csv.reader([header.decode()]))
    return list(_rows(columns, whole.decode().splitlines())), start + len(whole) + 1


def _rows(columns: list[str], lines: list[str]) -> Iterator[dict[str, float]]:
    for values in csv.reader(lines):
        row = dict(zip(columns, map(float, values), strict=True))
        yield {key: value for key, value in row.items() if math.isfinite(value)}


def _gpu_reader(gpu: int | str) -> Callable[[], Mapping[str, float]] | None:
    """Return a function that reads one GPU, or None where NVIDIA's driver does not know it."""
    import pynvml as nvml

    try:
        nvml.nvmlInit()
        by_uuid = str(gpu).startswith(("GPU-", "MIG-"))
        handle = nvml.nvmlDeviceGetHandleByUUID(gpu) if by_uuid else nvml.nvmlDeviceGetHandleByIndex(int(gpu))
    except nvml.NVMLError:
        return None
    return lambda: _gpu_row(nvml, handle)


def _gpu_row(nvml: Any, handle: Any) -> dict[str, float]:
    def asked(question: Callable[[], float]) -> float:
        try:
            return question()
        except nvml.NVMLError:  # a MIG slice has no load of its own, a laptop's GPU no power reading
            return math.nan

    answers = (
        lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used / MEGABYTE,
        lambda: 100 * (memory := nvml.nvmlDeviceGetMemoryInfo(handle)).used / memory.total,
        lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
    )
    return dict(zip(GPU_COLUMNS, map(asked, answers), strict=True))
