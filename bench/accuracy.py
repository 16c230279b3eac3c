"""Test errors with error bars: a run with several seeds, as it is and with keys varied.

    python bench/accuracy.py experiments/quickstart.yaml --seeds 5
    python bench/accuracy.py experiments/mnist_small.yaml --vary precision=float32 --vary precision=bfloat16
    CAPSNET_DATA=... python bench/accuracy.py experiments/mnist_3iter.yaml --set num_epochs=20 \\
        --vary precision=float32 --vary precision=bfloat16 --output histories

Each variant is trained once with each seed from 0 on, in turn, and every result is that of its last epoch:
none is chosen by the test set. The spread is the standard deviation over the seeds (n - 1 below the root).
`--output`: a folder for the metric histories, a CSV file for each run.
"""

from __future__ import annotations

import json
import statistics
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
    """What one run came to."""

    seed: int
    test_error: float  # share of the test images, after the last epoch
    seconds: float  # of all epochs, evaluation included


@dataclass(frozen=True)
class Results:
    """Those of a variant, one for each seed."""

    variant: str
    runs: tuple[Result, ...]

    @property
    def mean(self) -> float:
        """Of the test errors."""
        return statistics.mean(result.test_error for result in self.runs)

    @property
    def deviation(self) -> float:
        return statistics.stdev(result.test_error for result in self.runs)

    @property
    def seconds(self) -> float:
        """The median of a run."""
        return statistics.median(result.seconds for result in self.runs)

    def __str__(self) -> str:
        errors = ", ".join(f"{result.test_error:.2%}" for result in self.runs)
        return f"{self.variant:<40}{self.mean:>8.3%} ± {self.deviation:.3%}{self.seconds:>12,.1f}  {errors}"


HEADER = f"{'':<40}{'test error ± sd':>17}{'seconds':>13}  of each seed"


def trained(settings: Config, splits: Splits, history: Path | None) -> Result:
    """Train as `settings` say."""
    [last] = deque(train(settings, splits=splits), maxlen=1)
    wait(last.execution.device)
    rows = last.snapshot()["history"]
    if history is not None:
        write_history(rows, history)
    seconds = sum(row["epoch_seconds"] for row in rows)
    return Result(settings.seed, rows[-1]["test/error"], seconds)


def measured(
    file: str, variants: Iterable[str], keys: list[str], seeds: int, folder: Path | None
) -> list[Results]:
    """Raises ConfigError where a variant cannot be."""
    chosen = {name: [*keys, *([] if name == AS_IT_IS else [name])] for name in variants}
    for overrides in chosen.values():
        config.load(file, overrides)
    found: dict[str, list[Result]] = {name: [] for name in chosen}
    for seed in range(seeds):
        for name, overrides in chosen.items():
            settings = config.load(file, [*overrides, f"seed={seed}"])
            history = folder and folder / f"{name.replace('=', '-').replace(' ', '_')}-seed{seed}.csv"
            found[name].append(trained(settings, datasets.load(settings.dataset, seed), history))
    return [Results(name, tuple(results)) for name, results in found.items()]


def report(found: list[Results]) -> list[dict[str, Any]]:
    """For JSON."""
    return [{**asdict(each), "mean": each.mean, "deviation": each.deviation} for each in found]


def main() -> None:
    parser = Parser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", help="a run's YAML")
    parser.add_argument("--seeds", type=whole(2), default=3, help="how many; they count from 0")
    parser.add_argument("--vary", action="append", metavar="KEY=VALUE", help="a variant; any number of them")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of all variants")
    parser.add_argument("--output", type=Path, help="a folder for the histories")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.output is not None:
        given.output.mkdir(parents=True, exist_ok=True)
    found = measured(given.file, given.vary or [AS_IT_IS], given.set, given.seeds, given.output)
    facts = machine(execution.resolve(config.load(given.file, given.set)).device)
    if given.json:
        print(json.dumps({"machine": facts, "results": report(found)}))
    else:
        print(said(facts), HEADER, *found, sep="\n")


if __name__ == "__main__":
    run(main)
