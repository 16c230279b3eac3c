"""Samples of real processes. A stand-in replaces NVIDIA's driver, which test machines lack."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner import storage, system_metrics
from runner.system_metrics import CPU, MEMORY, Sampler


class NVMLError(Exception):
    pass


def nvml(**answers: Any) -> Any:
    """NVIDIA's library on a machine that knows `answers` only."""

    def refuse(_: object) -> None:
        raise NVMLError

    questions = ("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetPowerUsage")
    known = {name: (lambda _, name=name: answers[name]) if name in answers else refuse for name in questions}
    return SimpleNamespace(NVMLError=NVMLError, **known)


def test_a_process_that_computes_in_a_child_is_charged_for_it() -> None:
    """The child computes for a second of its own CPU time, however busy the machine is, then waits."""
    sampler = Sampler(os.getpid())
    work = "import time\nwhile time.process_time() < 1: pass\nprint('done', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "done\n"
        before = sampler._before
        row = sampler.sample(now=5.0)
        child.communicate("\n")
    seconds = row[CPU] / 100 * (sampler._before[0] - before[0])
    assert seconds >= 0.9
    assert row["time"] == 5.0
    assert row[MEMORY] > 10


def test_what_a_child_spent_still_counts_when_it_has_ended() -> None:
    sampler = Sampler(os.getpid())
    work = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", work], check=True)
    begin = sampler._before[0]
    row = sampler.sample(now=5.0)
    assert row[CPU] / 100 * (sampler._before[0] - begin) >= 0.45


def test_without_nvidias_driver_there_are_no_gpu_columns() -> None:
    if system_metrics._gpu_reader(0) is not None:
        pytest.skip("this machine has an NVIDIA GPU")
    assert set(Sampler(os.getpid(), ["0", "GPU-123"]).sample(now=5.0)) == {"time", CPU, MEMORY}


def test_a_gpu_says_load_memory_and_power() -> None:
    library = nvml(
        nvmlDeviceGetUtilizationRates=SimpleNamespace(gpu=87),
        nvmlDeviceGetMemoryInfo=SimpleNamespace(used=2 * 2**30, total=8 * 2**30),
        nvmlDeviceGetPowerUsage=250_000,
    )
    assert system_metrics._gpu_row(library, handle=None) == {
        "utilization_percentage": 87,
        "memory_usage_megabytes": 2048,
        "memory_usage_percentage": 25,
        "power_usage_watts": 250,
    }


def test_what_a_gpu_does_not_say_keeps_its_column() -> None:
    row = system_metrics._gpu_row(nvml(nvmlDeviceGetPowerUsage=9_000), handle=None)
    assert tuple(row) == system_metrics.GPU_COLUMNS
    assert row["power_usage_watts"] == 9
    assert math.isnan(row["utilization_percentage"])


def test_rows_are_read_from_where_one_stopped_and_a_half_written_one_is_left(tmp_path: Path) -> None:
    path = tmp_path / "system.csv"
    assert system_metrics.read(path) == ([], 0)
    storage.append_row(path, {"time": 1.5, "a": 2.0, "b": math.nan})
    rows, end = system_metrics.read(path)
    assert rows == [{"time": 1.5, "a": 2.0}]
    assert system_metrics.read(path, end) == ([], end)
    storage.append_row(path, {"time": 2.5, "a": 3.0, "b": 4.0})
    with path.open("a") as file:
        file.write("3.5,4.")
    rows, end = system_metrics.read(path, end)
    assert rows == [{"time": 2.5, "a": 3.0, "b": 4.0}]
    with path.open("a") as file:
        file.write("5,6.0\n")
    assert system_metrics.read(path, end)[0] == [{"time": 3.5, "a": 4.5, "b": 6.0}]


def test_a_half_written_header_is_left_too(tmp_path: Path) -> None:
    path = tmp_path / "system.csv"
    path.write_text("time,pro")
    rows, end = system_metrics.read(path)
    assert rows == []
    path.write_text("time,process\n1,2\n")
    assert system_metrics.read(path, end)[0] == [{"time": 1.0, "process": 2.0}]
