"""Gain of several workers that share each batch over one: images a second, and time of communication.

    python bench/workers.py                                   # 1 and 2 workers, of one core each
    python bench/workers.py 1 1x2 2 --rounds 5                # and one worker on two cores
    python bench/workers.py 1 2 4 8 --set batch_size=1024     # on GPUs, one each
    python bench/workers.py 1 2 --precision bfloat16 --json

`2x4` are two workers of four threads each; a number alone means one thread, or a GPU. The batch is that of
all workers together and stays the same, so that they compute the same: `efficiency` is how much faster they
are than the first entry, divided by how many times as many threads or GPUs they have. `talking`: the share
of a step in which rank 0 adds up the workers' results, waiting for the slower ones included. `sum`:
milliseconds that it takes to add up the gradients alone, which PyTorch does not do while it computes. All
are measured in turn, round by round; workers that are not measured wait without spinning.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import time
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

import torch
from measure import Parser, Times, machine, run, said, wait
from variants import MODELS, ORDINARY, STEPS, Steps, Variant, add_options, mistake, variants

from capsnet import execution
from capsnet.group import Group, host, meeting

TIMEOUT_SECONDS = 600.0
SUMS = 5  # of the gradients alone, in a round


@dataclass(frozen=True)
class Crew:
    """A number of workers, each with a number of threads of the CPU."""

    workers: int
    threads: int

    @classmethod
    def of(cls, text: str) -> Crew:
        found = re.fullmatch(r"([1-9]\d{0,3})(?:x([1-9]\d{0,3}))?", text)
        if found is None:
            raise argparse.ArgumentTypeError(f"must be a number of workers, as in 2, or 2x4 (got {text!r})")
        return cls(int(found[1]), int(found[2] or 1))

    def __str__(self) -> str:
        return f"{self.workers}" if self.threads == 1 else f"{self.workers}x{self.threads}"


@dataclass(frozen=True)
class Round:
    """Measurements of one worker: seconds of a step, of its communication, of adding up the gradients."""

    step: float
    talking: float
    sums: float


@dataclass(frozen=True)
class TimedGroup(Group):
    """A group that notes how long its sums take."""

    spent: tuple[list[float], str] = field(default=([], "cpu"), compare=False)  # seconds; the device

    def add(self, *tensors: torch.Tensor) -> None:
        seconds, device = self.spent
        wait(device)
        started = time.perf_counter()
        super().add(*tensors)
        wait(device)
        seconds.append(time.perf_counter() - started)


def work(rank: int, crew: Crew, port: int, variant: Variant, orders: Connection) -> None:
    """Run a worker: for each number of steps that it receives, it sends back a Round."""
    settings = variant.config().model_copy(update={"threads": crew.threads})
    device = execution.device_of(settings)
    if device == "cuda":
        torch.cuda.set_device(rank % torch.cuda.device_count())
    with meeting(rank, crew.workers, f"127.0.0.1:{port}", device, TIMEOUT_SECONDS) as group:
        how = execution.resolve(settings, group=group)
        execution.apply(how)
        seconds: list[float] = []
        timed = TimedGroup(group.rank, group.size, group.neighbours, (seconds, device))
        training = Steps(settings, how, timed)
        gradients = torch.zeros(sum(p.numel() for p in training.learner.network.parameters()), device=device)
        training.step()
        orders.send("ready")
        while (steps := orders.recv()) is not None:
            group.add(torch.zeros(1, device=device))  # all begin together
            orders.send(measured(training, timed, gradients, steps))


def measured(training: Steps, group: TimedGroup, gradients: torch.Tensor, steps: int) -> Round:
    """Measure one round of a worker."""
    seconds, device = group.spent
    seconds.clear()
    wait(device)
    started = time.perf_counter()
    for _ in range(steps):
        training.step()
    wait(device)
    passed, talking = time.perf_counter() - started, sum(seconds)
    seconds.clear()
    for _ in range(SUMS):
        group.add(gradients)
    return Round(passed / steps, talking / steps, sum(seconds) / SUMS)


class Processes:
    """Processes of a crew that train."""

    def __init__(self, crew: Crew, variant: Variant) -> None:
        context = multiprocessing.get_context("spawn")
        self._store = host("127.0.0.1")
        self._orders, self._processes = [], []
        for rank in range(crew.workers):
            here, there = context.Pipe()
            arguments = (rank, crew, self._store.port, variant, there)
            self._processes.append(context.Process(target=work, args=arguments, daemon=True))
            self._processes[-1].start()
            there.close()
            self._orders.append(here)
        for orders in self._orders:
            self._received(orders)  # it has taken its first step

    def round(self, steps: int) -> Round:
        """Let all workers measure a round, and return that of rank 0."""
        for orders in self._orders:
            orders.send(steps)
        first, *_ = [self._received(orders) for orders in self._orders]
        return first

    def close(self) -> None:
        for orders in self._orders:
            orders.send(None)
        for process in self._processes:
            process.join()

    @staticmethod
    def _received(orders: Connection) -> Any:
        try:
            return orders.recv()
        except EOFError:
            raise mistake("a worker has ended: what it says of it stands above") from None


@dataclass(frozen=True)
class Row:
    """A crew's figures."""

    variant: Variant
    crew: Crew
    rounds: tuple[Round, ...]
    times_first: float  # as fast as the first crew
    efficiency: float

    @property
    def times(self) -> Times:
        return Times(tuple(each.step for each in self.rounds))

    @property
    def images_per_second(self) -> float:
        return self.variant.config().batch_size / self.times.median

    @property
    def talking(self) -> float:
        return Times(tuple(each.talking / each.step for each in self.rounds)).median

    @property
    def sums(self) -> float:
        return Times(tuple(each.sums for each in self.rounds)).median

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.variant.name,
            "workers": self.crew.workers,
            "threads": self.crew.threads,
            "median_seconds": self.times.median,
            "quartiles_seconds": list(self.times.quartiles),
            "images_per_second": self.images_per_second,
            "times_first": self.times_first,
            "efficiency": self.efficiency,
            "talking_share": self.talking,
            "sum_seconds": self.sums,
        }

    def __str__(self) -> str:
        first, third = self.times.quartiles
        spread = f"{first * 1e3:,.1f} – {third * 1e3:,.1f}"
        return (
            f"{self.variant.name:<28}{self.crew!s:>8}{self.times.median * 1e3:>10,.1f}{spread:>20}"
            f"{self.images_per_second:>10,.0f}{self.times_first:>9.2f}{self.efficiency:>12.0%}"
            f"{self.talking:>9.1%}{self.sums * 1e3:>9.1f}"
        )


HEADER = (
    f"{'workers':>36}{'ms a step':>10}{'quartiles':>20}{'images/s':>10}{'× first':>9}{'efficiency':>12}"
    f"{'talking':>9}{'ms sum':>9}"
)


def rows(variant: Variant, crews: list[Crew], rounds: int, steps: int) -> list[Row]:
    """Measure every crew's figures, all in turn."""
    started: list[Processes] = []
    try:
        for crew in crews:
            started.append(Processes(crew, variant))
        found: list[list[Round]] = [[] for _ in crews]
        for _ in range(rounds):
            for processes, its in zip(started, found, strict=True):
                its.append(processes.round(steps))
    finally:
        for processes in started:
            processes.close()
    first = Row(variant, crews[0], tuple(found[0]), 1.0, 1.0)
    made = []
    for crew, its in zip(crews, found, strict=True):
        row = replace(first, crew=crew, rounds=tuple(its))
        faster = first.times.median / row.times.median
        many = crew.workers * crew.threads / (crews[0].workers * crews[0].threads)
        made.append(replace(row, times_first=faster, efficiency=faster / many))
    return made


def checked(crews: list[Crew], variant: Variant) -> list[Crew]:
    """Return `crews`. Raises ConfigError where a batch cannot be shared, or there are not as many GPUs."""
    most = max(crew.workers for crew in crews)
    settings = variant.config()
    if settings.batch_size < most:
        raise mistake(f"a batch of {settings.batch_size} images cannot be shared by {most} workers")
    if settings.threads is not None:
        raise mistake("threads: say them with the workers, as in 2x4")
    if execution.device_of(settings) == "cuda" and torch.cuda.device_count() < most:
        raise mistake(f"{most} workers: there are {torch.cuda.device_count()} GPUs, and each takes one")
    return crews


def main() -> None:
    parser = Parser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("crews", nargs="*", type=Crew.of, metavar="WORKERS", help="as in 2, or 2x4; 1 and 2")
    parser.add_argument("--model", choices=[name for name in MODELS if name != ORDINARY], default="capsnet")
    add_options(parser)
    given = parser.parse_args()
    crews = given.crews or [Crew(1, 1), Crew(2, 1)]
    chosen = variants([given.model], given.precision, given.mode, given.set)
    device = execution.device_of(chosen[0].config())
    steps = given.steps or STEPS[device]
    table = [row for variant in chosen for row in rows(variant, checked(crews, variant), given.rounds, steps)]
    facts = {**machine(device), "rounds": given.rounds, "steps": steps}
    if given.json:
        print(json.dumps({"machine": facts, "rows": [row.as_dict() for row in table]}))
        return
    print(said(facts), HEADER, *table, sep="\n")


if __name__ == "__main__":
    run(main)
