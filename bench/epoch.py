"""Time of whole epochs by part: data, training, evaluation, checkpoint and TensorBoard.

    python bench/epoch.py experiments/quickstart.yaml
    CAPSNET_DATA=... python bench/epoch.py experiments/mnist_3iter.yaml --epochs 2 --set batch_size=256
    python bench/epoch.py experiments/mnist_small.yaml --set precision=bfloat16 --json

A run as `python -m capsnet train` makes it, of the YAML file given, in a folder that is removed afterwards;
only the pictures of the finished run are not drawn. The parts of an epoch add up to all of its time. The
first epoch, in which TensorBoard is imported and memory is first taken, is left out of the medians. What it
takes to pick and augment the batches is measured by itself at the end; it is a part of training.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from measure import Parser, machine, peak_bytes, run, said, wait, whole

from capsnet import batches, config, datasets, execution
from capsnet.config import Config
from capsnet.images import Splits
from capsnet.keeper import Keeper
from capsnet.progressbar import Numbers
from capsnet.training import Progress, train


@dataclass(frozen=True)
class Epoch:
    """Seconds of an epoch by part; they add up to all of its time."""

    training: float  # picking and augmenting included
    evaluation: float
    keeping: float  # TensorBoard, and the copy of the state that is saved

    @property
    def seconds(self) -> float:
        return self.training + self.evaluation + self.keeping


PARTS = [part.name for part in fields(Epoch)]


@dataclass(frozen=True)
class Once:
    """Seconds of the parts of a run that are done once."""

    data: float  # from files to tensors
    around: float  # network and optimizer made, and whatever else is in no epoch
    saving: float  # waiting, at the end, until the last checkpoint is on disk
    batches: float  # picking and augmenting those of one epoch, by themselves


@dataclass
class Kept:
    """Seconds spent on keeping (`Keeper`) in one epoch so far."""

    between_steps: float = 0.0
    before_the_end: float = 0.0  # of the epoch, those between its steps among them

    def add(self, progress: Progress, seconds: float) -> None:
        self.before_the_end += seconds
        # What follows the last step counts as evaluation where the epoch's speed is measured.
        if progress.phase == "train" and progress.step < progress.steps_per_epoch:
            self.between_steps += seconds


class Unseen:
    """A view that shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def show(self, numbers: Numbers) -> None: ...

    def line(self, text: str) -> None: ...


def measured(settings: Config, folder: Path) -> tuple[list[Epoch], Once]:
    """Train by `settings`, leave checkpoint and curves in `folder`, and return the times."""
    began = time.monotonic()
    splits = datasets.load(settings.dataset, settings.seed)
    loaded = time.monotonic()
    epochs: list[Epoch] = []
    kept = Kept()
    with Keeper(settings, folder / "checkpoint.pt", folder / "tensorboard", None, Unseen()) as keeper:
        for progress in train(settings, splits=splits):
            seen = time.monotonic()
            keeper.see(progress, last=False)
            seconds = time.monotonic() - seen
            if progress.metrics is None:
                kept.add(progress, seconds)
            else:
                epochs.append(epoch_of(progress, len(splits.train), kept, seconds))
                kept = Kept()
        trained = time.monotonic()
        keeper.settle()
        saved = time.monotonic()
    around = trained - loaded - sum(epoch.seconds for epoch in epochs)
    return epochs, Once(loaded - began, around, saved - trained, of_batches(settings, splits))


def epoch_of(progress: Progress, images: int, kept: Kept, at_the_end: float) -> Epoch:
    """Return the times of a finished epoch of so many images, whose end took `at_the_end` seconds to keep."""
    assert progress.metrics is not None
    steps = images / progress.metrics["images_per_second"]  # seconds, from the first to the last one's end
    evaluation = progress.metrics["epoch_seconds"] - steps - (kept.before_the_end - kept.between_steps)
    return Epoch(steps - kept.between_steps, evaluation, kept.before_the_end + at_the_end)


def of_batches(settings: Config, splits: Splits) -> float:
    """Measure the seconds to pick and augment the batches of one epoch."""
    device = execution.resolve(settings).device
    images = splits.train if settings.dataloader.num_workers else splits.train.to(device)
    one_epoch = settings.model_copy(update={"num_epochs": 1})
    wait(device)
    began = time.monotonic()
    for _ in batches.batches(one_epoch, images, device, start=(1, 0)):
        pass
    wait(device)
    return time.monotonic() - began


def median(epochs: list[Epoch], part: str) -> float:
    return statistics.median(getattr(epoch, part) for epoch in epochs)


def lines(epochs: list[Epoch], once: Once) -> list[str]:
    """Return a table: a row for each part, its median after the first epoch, its share, and its range."""
    later = epochs[1:]
    total = sum(epoch.seconds for epoch in later)
    rows = [f"{'seconds an epoch':<24}{'median':>10}{'range':>20}{'share':>8}{'first':>10}"]
    for part in [*PARTS, "seconds"]:
        values = [getattr(epoch, part) for epoch in later]
        spread = f"{min(values):.2f} – {max(values):.2f}"
        rows.append(
            f"{'all' if part == 'seconds' else part:<24}{median(later, part):>10.2f}{spread:>20}"
            f"{sum(values) / total:>8.1%}{getattr(epochs[0], part):>10.2f}"
        )
    of_training = once.batches / median(later, "training")
    rows.append(f"{'batches by themselves':<24}{once.batches:>10.2f}{f'{of_training:.1%} of training':>28}")
    rows += [f"once: {part:<18}{getattr(once, part):>10.2f}" for part in ("data", "around", "saving")]
    return rows


def report(epochs: list[Epoch], once: Once) -> dict[str, Any]:
    """Return the times for JSON."""
    return {
        "epochs": [asdict(epoch) for epoch in epochs],
        "median_seconds": {part: median(epochs[1:], part) for part in [*PARTS, "seconds"]},
        "once": asdict(once),
    }


def main() -> None:
    parser = Parser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", help="a run's YAML")
    parser.add_argument("--epochs", type=whole(2), default=3, help="the first of them does not count")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in a run's YAML")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    settings = config.load(given.file, [*given.set, f"num_epochs={given.epochs}"])
    with tempfile.TemporaryDirectory() as folder:
        epochs, once = measured(settings, Path(folder))
    facts = machine(execution.resolve(settings).device) | {"epochs": given.epochs}
    facts["peak MiB"] = peak_bytes() // 2**20  # of the process
    if given.json:
        print(json.dumps({"machine": facts, **report(epochs, once)}))
    else:
        print(said(facts), *lines(epochs, once), sep="\n")


if __name__ == "__main__":
    run(main)
