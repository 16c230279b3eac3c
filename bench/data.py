"""Time of reading data sets, from their files to tensors that can be trained on.

    CAPSNET_DATA=... python bench/data.py [mnist cifar10 ...]

The first reading, which may have to wait for the disk, is left out; shown are median and range of the others.
"""

from __future__ import annotations

import statistics
import sys
import time

from capsnet import datasets
from capsnet.config import Config

REPEATS = 7


def seconds(name: str) -> float:
    dataset = Config.model_validate({"dataset": {"name": name}}).dataset
    started = time.perf_counter()
    datasets.load(dataset, seed=0)
    return time.perf_counter() - started


def main(names: list[str]) -> None:
    for name in names:
        _, *times = [seconds(name) for _ in range(1 + REPEATS)]
        print(
            f"{name:<16} median {statistics.median(times):.2f} s"
            f"  ({min(times):.2f} to {max(times):.2f}, n = {len(times)})"
        )


if __name__ == "__main__":
    main(sys.argv[1:] or ["mnist", "cifar10"])
