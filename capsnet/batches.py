"""The training batches of all epochs, in their order, from any step on.

The pixels lie on the training device and a batch is picked there, or worker processes pick it
(`dataloader.num_workers`); it is augmented on the device, so that both give the same bits.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from capsnet import augmentation, randomness
from capsnet.augmentation import Batch, Draws
from capsnet.config import Config, MultiMNIST
from capsnet.config import Dataset as DatasetSection
from capsnet.group import ALONE, Group
from capsnet.images import Images
from capsnet.pairing import partners
from capsnet.state import TrainingError

SHARED_MEMORY = Path("/dev/shm")  # where PyTorch's processes hand tensors to each other
WAYS_OUT = f"set dataloader.num_workers: 0, or enlarge {SHARED_MEMORY} (docker run --shm-size=2g)"
PREFETCHED = 2  # batches that each worker process has ready, as DataLoader has it
IN_USE = 3  # batches on their way and in this process


@dataclass(frozen=True)
class Course:
    """Order of the training images over all epochs: a function of the seed, cut into batches."""

    seed: int
    labels: torch.Tensor  # int64 [N], of the training images, on the CPU
    batch_size: int
    start: tuple[int, int]  # epoch, from 1, and finished steps of it
    num_epochs: int
    dataset: DatasetSection
    group: Group = ALONE  # the processes that share each batch

    def orders(self, device: str = "cpu") -> Iterator[torch.Tensor]:
        """Yield the indices of this process's images of each batch, int64 [B].

        Where two digits make an image, [B, 2]. The last batch of an epoch may be shorter.
        """
        for epoch, skipped in self._epochs():
            order = randomness.permutation(self.seed, len(self.labels), "order", epoch)
            if isinstance(self.dataset, MultiMNIST):
                drawn = randomness.generator(self.seed, "partners", epoch)
                order = torch.stack([order, partners(self.labels, order, drawn)], dim=1)
            for batch in order.to(device).split(self.batch_size)[skipped:]:
                yield batch[self.group.part(len(batch)).rows]

    def draws(self, device: str) -> Iterator[Draws]:
        """Yield the random numbers for this process's images of each batch."""
        for epoch, skipped in self._epochs():
            drawn = augmentation.draw(self.dataset, self.seed, epoch, len(self.labels))
            parts = {name: numbers.to(device).split(self.batch_size) for name, numbers in drawn.items()}
            for step in range(skipped, -(-len(self.labels) // self.batch_size)):
                left = len(self.labels) - step * self.batch_size
                rows = self.group.part(min(self.batch_size, left)).rows
                yield {name: numbers[step][rows] for name, numbers in parts.items()}

    def _epochs(self) -> Iterator[tuple[int, int]]:
        first, step = self.start
        for epoch in range(first, self.num_epochs + 1):
            yield epoch, step if epoch == first else 0


def batches(
    config: Config, images: Images, device: str, start: tuple[int, int], group: Group = ALONE
) -> Generator[Batch, None, None]:
    """Yield the batches from `start` = (epoch, finished steps of it) to the end, augmented, on `device`.

    Yields this process's part of each batch. Random numbers are drawn for the whole batch, so that they are
    the same for a group of any size.

    Without worker processes `images` must be on `device` already. Raises TrainingError where worker processes
    lack shared memory, or end.
    """
    labels = images.labels.cpu()
    course = Course(config.seed, labels, config.batch_size, start, config.num_epochs, config.dataset, group)
    if config.dataloader.num_workers:
        picked = _loaded(config, images, device, course)
    else:
        picked = (images[order] for order in course.orders(device))
    for batch, draws in zip(picked, course.draws(device), strict=True):
        yield augmentation.augment(batch, draws, config.dataset)


class _Batches(Dataset[Images]):
    """Picks whole batches in a worker process."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitems__(self, order: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch = self.images[order]
        return batch.images, batch.labels


class _Orders:
    """A sampler whose every iteration begins at the course's start."""

    def __init__(self, course: Course) -> None:
        self.course = course

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self.course.orders()


def _as_it_is(batch: Any) -> Any:
    return batch


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Block SIGINT in processes that are started within the `with` block, and in their children.

    A terminal sends SIGINT to every process of a command; if the workers died of it, training could not go
    on to its next save. Workers inherit the signal mask, so that it holds while they still import.
    """
    resource_tracker.ensure_running()  # starting it later would lift the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _loaded(config: Config, images: Images, device: str, course: Course) -> Iterator[Images]:
    _require_shared_memory(images, config)
    # A process that trains has threads; a fork of it can inherit a lock that is never released.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # PyTorch is imported once, not by each worker
    pin_memory = config.dataloader.pin_memory and device == "cuda"
    loader = DataLoader(
        _Batches(images),
        batch_sampler=_Orders(course),  # type: ignore[arg-type]  # any iterable serves
        num_workers=config.dataloader.num_workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        multiprocessing_context=context,
        generator=torch.Generator(),  # else it draws from, and so changes, the global one
    )
    with _one_line_errors(config), _deaf_to_ctrl_c():
        loaded = iter(loader)
    while True:
        with _one_line_errors(config):
            batch = next(loaded, None)
        if batch is None:
            return
        pixels, labels = batch
        yield Images(pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True))


def _require_shared_memory(images: Images, config: Config) -> None:
    """Raise TrainingError where shared memory has no room for the images and the batches under way.

    Without that room a worker drops a batch, and training waits for it, or the worker dies of a bus error.
    """
    in_batch = config.batch_size * (2 if isinstance(config.dataset, MultiMNIST) else 1)
    picked = (config.dataloader.num_workers * PREFETCHED + IN_USE) * in_batch
    needed = images.images.nbytes + images.labels.nbytes + picked * images.images[0].nbytes
    try:
        found = os.statvfs(SHARED_MEMORY)
    except FileNotFoundError:  # a system that has it elsewhere
        return
    if (free := found.f_bavail * found.f_frsize) < needed:
        has, needs = f"has {free / 1e6:.1f} MB free", f"needs {needed / 1e6:.1f} MB"
        raise TrainingError(f"{SHARED_MEMORY} {has}, and {_asked(config)} {needs}: {WAYS_OUT}")


@contextmanager
def _one_line_errors(config: Config) -> Iterator[None]:
    """Raise TrainingError where worker processes lack shared memory after all, or end."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        said = str(error).partition("\n")[0]
        if isinstance(error, OSError) or "shared memory" in said or "Bus error" in said:
            reason = f"{SHARED_MEMORY} has no room for {_asked(config)}"
        elif said.startswith("DataLoader worker"):
            reason = f"a process of {_asked(config)} has ended, perhaps for lack of memory"
        else:
            raise
        raise TrainingError(f"{reason} ({said}): {WAYS_OUT}") from error


def _asked(config: Config) -> str:
    return f"dataloader.num_workers: {config.dataloader.num_workers}"
