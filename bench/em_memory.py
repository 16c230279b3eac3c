"""Costs of one training step of matrix capsules: the peak of resident memory, and seconds.

    python bench/em_memory.py                  # the paper's sizes, 64 images of 32×32 with two channels
    python bench/em_memory.py --batch 32 --iterations 2

On the CPU. The peak is that of the whole process, with PyTorch itself; the time is of the step after the
first, on a busy machine compare it only within one run.
"""

from __future__ import annotations

import capsnet  # isort: skip  # noqa: F401 - before PyTorch, whose threads it keeps from spinning

import argparse
import time

import torch
from measure import peak_bytes

from capsnet import execution
from capsnet.augmentation import Batch
from capsnet.config import Config
from capsnet.images import ImageShape
from capsnet.learner import Learner

SMALLNORB = ImageShape(channels=2, height=32, width=32, classes=5)


def learner(batch: int, iterations: int, precision: str, threads: int | None) -> Learner:
    keys = {
        "dataset": {"name": "smallnorb"},
        "model": {"name": "matrix_capsnet"},
        "batch_size": batch,
        "route_iters": iterations,
        "precision": precision,
        "threads": threads,
        "use_cuda": False,
    }
    config = Config.model_validate(keys)
    how = execution.resolve(config)
    execution.apply(how)
    return Learner(config, how, SMALLNORB, images=10 * batch, state=None)


def noise(count: int) -> Batch:
    images = torch.randn(count, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    return Batch(images, images, torch.arange(count) % SMALLNORB.classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batch", type=int, default=64, help="images of a step")
    parser.add_argument("--iterations", type=int, default=3, help="of routing")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, help="of the CPU; all by default")
    given = parser.parse_args()
    trained = learner(given.batch, given.iterations, given.precision, given.threads)
    before = peak_bytes()
    trained.step(noise(given.batch))
    started = time.perf_counter()
    trained.step(noise(given.batch))
    seconds = time.perf_counter() - started
    print(f"peak RSS {peak_bytes() / 2**30:.2f} GiB, {before / 2**30:.2f} GiB of it before the first step")
    print(f"{seconds:.1f} s a step of {given.batch} images, {trained.execution.threads} threads")


if __name__ == "__main__":
    main()
