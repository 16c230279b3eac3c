"""Test errors with error bars: a run with several seeds, as it is and with keys varied.

    python bench/accuracy.py experiments/quickstart.yaml --seeds 5
    python bench/accuracy.py experiments/mnist_small.yaml --vary precision=float32 --vary precision=bfloat16
    CAPSNET_DATA=... python bench/accuracy.py experiments/mnist_3iter.yaml --set num_epochs=20 \\
        --vary precision=float32 --vary precision=bfloat16 --output histories

Each variant is trained once with each seed from 0 on, in turn, and every result is that of its last epoch:
none is chosen by the test set. The spread is the standard deviation over the seeds (n - 1 below the root).
`--output`: a folder for the metric histories, a CSV file for each run. Each run that ends is reported on
stderr. `--seconds`: where time is short, no run is begun that would end later if it took as long as its
variant's longest run so far; the very first run, which includes compilation, counts only where its variant
has no other.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measure import Parser, machine, run, said, wait, whole

from capsnet import config, datasets, execution
from capsnet.config import Config
from capsnet.history import write_history
from capsnet.images import Splits
from capsnet.training import train

AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Result:
    """Result of one run."""

    seed: int
    test_error: float  # share of the test images, after the last epoch
    seconds: float  # of all epochs, evaluation included


@dataclass(frozen=True)
class Results:
    """Results of a variant, one for each seed; at least one."""

    variant: str
    runs: tuple[Result, ...]

    @property
    def mean(self) -> float:
        """Mean of the test errors."""
        return statistics.mean(result.test_error for result in self.runs)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the test errors; None where there is only one run."""
        if len(self.runs) < 2:
            return None
        return statistics.stdev(result.test_error for result in self.runs)

    @property
    def seconds(self) -> float:
        """Median of the seconds of a run."""
        return statistics.median(result.seconds for result in self.runs)

    def __str__(self) -> str:
        errors = ", ".join(f"{result.test_error:.2%}" for result in self.runs)
        spread = "–" if self.deviation is None else f"{self.deviation:.3%}"
        return f"{self.variant:<40}{self.mean:>8.3%} ± {spread:<6}{self.seconds:>12,.1f}  {errors}"


HEADER = f"{'':<40}{'test error ± sd':>17}{'seconds':>13}  of each seed"


def trained(settings: Config, splits: Splits, history: Path | None) -> Result:
    """Train by `settings` and return the result."""
    [last] = deque(train(settings, splits=splits), maxlen=1)
    wait(last.execution.device)
    rows = last.snapshot()["history"]
    if history is not None:
        write_history(rows, history)
    seconds = sum(row["epoch_seconds"] for row in rows)
    return Result(settings.seed, rows[-1]["test/error"], seconds)


def measured(
    file: str, variants: Iterable[str], keys: list[str], seeds: int, folder: Path | None, seconds: float
) -> list[Results]:
    """Measure the results that there is time for; raises ConfigError where a variant is invalid."""
    ends = time.monotonic() + seconds
    chosen = {name: [*keys, *([] if name == AS_IT_IS else [name])] for name in variants}
    for overrides in chosen.values():
        config.load(file, overrides)
    found: dict[str, list[Result]] = {name: [] for name in chosen}
    spent: list[tuple[str, float]] = []
    for seed, name in itertools.product(range(seeds), chosen):
        began = time.monotonic()
        own = [needed for variant, needed in spent[1:] if variant == name]
        if began + max(own or [needed for _, needed in spent], default=0.0) > ends:
            tell(f"no time for {name}, seed {seed}, nor for what follows")
            break
        settings = config.load(file, [*chosen[name], f"seed={seed}"])
        history = folder and folder / f"{name.replace('=', '-').replace(' ', '_')}-seed{seed}.csv"
        result = trained(settings, datasets.load(settings.dataset, seed), history)
        found[name].append(result)
        tell(f"{name}, seed {seed}: {result.test_error:.2%} after {result.seconds:,.1f} s")
        spent.append((name, time.monotonic() - began))
    return [Results(name, tuple(results)) for name, results in found.items() if results]


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def report(found: list[Results]) -> list[dict[str, Any]]:
    """Return the results for JSON."""
    return [{**asdict(each), "mean": each.mean, "deviation": each.deviation} for each in found]


def main() -> None:
    parser = Parser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", help="a run's YAML")
    parser.add_argument("--seeds", type=whole(2), default=3, help="how many; they count from 0")
    parser.add_argument("--vary", action="append", metavar="KEY=VALUE", help="a variant; any number of them")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of all variants")
    parser.add_argument("--output", type=Path, help="a folder for the histories")
    parser.add_argument("--seconds", type=whole(1), default=math.inf, help="for all runs; by default any")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.output is not None:
        given.output.mkdir(parents=True, exist_ok=True)
    variants = given.vary or [AS_IT_IS]
    found = measured(given.file, variants, given.set, given.seeds, given.output, given.seconds)
    facts = machine(execution.resolve(config.load(given.file, given.set)).device)
    if given.json:
        print(json.dumps({"machine": facts, "results": report(found)}))
    else:
        print(said(facts), HEADER, *found, sep="\n")


if __name__ == "__main__":
    run(main)
