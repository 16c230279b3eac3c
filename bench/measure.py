"""Measuring for the benches of training: time in rounds, arithmetic, memory, and the machine."""

from __future__ import annotations

import capsnet  # isort: skip  # noqa: F401 - before PyTorch, whose threads it keeps from spinning

import argparse
import gc
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import torch
from operators import FORMULAS
from torch.utils.flop_counter import FlopCounterMode

from capsnet.config import ConfigError
from capsnet.cpus import available_cpus
from capsnet.exits import MISTAKE
from capsnet.graphs import WARM_UP
from capsnet.images import DataError
from capsnet.state import TrainingError

Key = TypeVar("Key")

# The first step allocates what stays, the second needs no more; with a graph, one records and one replays.
PEAK_STEPS = WARM_UP + 2


class Measured(Protocol):
    """Work that is the same at each `step`, on `device`."""

    device: str

    def step(self) -> None: ...


@dataclass(frozen=True)
class Times:
    """Seconds of one step, one number for each time that it was measured."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return first, third


@dataclass(frozen=True)
class Cost:
    """Cost of a step: time, and the operations of its convolutions and matrix products."""

    times: Times
    flop: int
    first_seconds: float  # of the very first step, compilation included

    @property
    def flop_per_second(self) -> float:
        return self.flop / self.times.median

    def beside(self, other: Cost) -> float:
        """Return how many times as long a step takes as one of `other`."""
        return self.times.median / other.times.median


def costs(measured: Mapping[Key, Measured], rounds: int, steps: int) -> dict[Key, Cost]:
    """Time all of `measured` in turn, `rounds` times, so that a disturbance affects all of them.

    Each time `steps` steps of one are timed together, to the end of their computation.
    """
    first, flop = {}, {}
    for name, each in measured.items():
        first[name] = _seconds(each, 1)
        flop[name] = operations(each)
    seconds: dict[Key, list[float]] = {name: [] for name in measured}
    for _ in range(rounds):
        for name, each in measured.items():
            seconds[name].append(_seconds(each, steps))
    return {name: Cost(Times(tuple(seconds[name])), flop[name], first[name]) for name in measured}


def operations(measured: Measured) -> int:
    """Count the floating-point operations of one step; a multiplication and an addition are two.

    Counted are convolutions and matrix products, forward and backward, as PyTorch dispatches them without
    compilation, which does not change them. Operations element by element are not counted; for the paper's
    network they are below one percent of the arithmetic.
    """
    operators = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    with torch.compiler.set_stance("force_eager"), operators as counter:
        measured.step()
    return counter.get_total_flops()


def _seconds(measured: Measured, steps: int) -> float:
    """Return the seconds of one step, the mean of `steps`."""
    wait(measured.device)
    started = time.perf_counter()
    for _ in range(steps):
        measured.step()
    wait(measured.device)
    return (time.perf_counter() - started) / steps


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def replayed(step: Callable[[], None]) -> Callable[[], None]:
    """Record a step as a CUDA graph and return its replay: one launch, so that the GPU does not wait."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        step()
    return graph.replay


def peak_of(build: Callable[..., Measured], device: str, *arguments: Any) -> int:
    """Return the peak of memory, in bytes, of some steps of what `build` returns.

    On a GPU the memory of tensors beyond that of those that are there already; on a CPU all resident memory
    of a process of its own, Python and PyTorch included.
    """
    if device == "cuda":
        gc.collect()  # garbage in cycles would be freed meanwhile
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        _taken(build, *arguments)
        return torch.cuda.max_memory_allocated() - before
    context = multiprocessing.get_context("spawn")  # a fork would begin with the memory of this process
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_peak, build, *arguments).result()


def _peak(build: Callable[..., Measured], *arguments: Any) -> int:
    _taken(build, *arguments)
    return peak_bytes()


def _taken(build: Callable[..., Measured], *arguments: Any) -> None:
    measured = build(*arguments)
    for _ in range(PEAK_STEPS):
        measured.step()


def peak_bytes() -> int:
    """Return the most bytes that this process has had resident since its start."""
    # Not by getrusage, which on Linux also counts the process that this one was forked from.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def described(cost: Cost) -> dict[str, Any]:
    """Return the cost for JSON."""
    first, third = cost.times.quartiles
    return {
        "median_seconds": cost.times.median,
        "quartiles_seconds": [first, third],
        "seconds": list(cost.times.seconds),
        "first_seconds": cost.first_seconds,
        "flop": cost.flop,
        "flop_per_second": cost.flop_per_second,
    }


def timed(cost: Cost) -> str:
    """Return the median and the quartiles in milliseconds, as text of 30 characters."""
    first, third = cost.times.quartiles
    spread = f"{first * 1e3:,.1f} – {third * 1e3:,.1f}"
    return f"{cost.times.median * 1e3:>10,.1f}{spread:>20}"


def machine(device: str) -> dict[str, str | float]:
    """Return facts about the machine and the versions that the figures are of."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _cpu(),
        "cores": available_cpus(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def said(facts: Mapping[str, str | float]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


class Parser(argparse.ArgumentParser):
    """Argument parser that reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE, f"{self.prog}: {message} (--help says more)\n")


def whole(least: int) -> Callable[[str], int]:
    """Return a parser of an argument that is a whole number from `least` on."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} (got {text!r})")
        return int(text)

    return number


def run(main: Callable[[], None]) -> None:
    """Run a bench as a program: an error that a user can mend is one line and no traceback."""
    try:
        main()
    except (ConfigError, DataError) as error:
        print(error, file=sys.stderr)
        sys.exit(MISTAKE)
    except TrainingError as error:
        sys.exit(f"failed: {error}")
    except BrokenProcessPool:
        sys.exit(
            "killed while memory was measured, most likely for want of it: take less, as in a smaller batch"
        )
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        sys.exit("not enough memory: take less, as in a smaller batch")
    except KeyboardInterrupt:
        sys.exit("stopped")
