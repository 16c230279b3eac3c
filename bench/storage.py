"""Costs of a checkpoint to an object store and back: seconds, and the time that training loses by it.

    python bench/storage.py                        # to moto's S3 server, a process on this machine
    RUNNER_STORAGE=s3://bucket/prefix python bench/storage.py

Rounds of the same steps, by turns with nothing to save and with a checkpoint that a thread saves and uploads
meanwhile: what the latter take longer is what one saving costs. A server on the same machine takes its own
part of that, so the processor time of both processes is given separately.
"""

from __future__ import annotations

import measure  # isort: skip - before PyTorch

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import s3
import torch

from capsnet import checkpoint, training
from capsnet.config import Config, load
from capsnet.images import Images, Splits
from capsnet.saving import Writer
from capsnet.training import Progress
from runner import remote_checkpoint
from runner.object_storage import attempt_key
from runner.objects import Objects

MEGABYTE = 1e6
IMAGES = 50_000  # enough for any number of steps within the first epoch
EXPERIMENT = Path(__file__).parents[1] / "experiments" / "mnist_3iter.yaml"


@dataclass
class Found:
    """Seconds of every round."""

    bytes: int = 0  # of the checkpoint
    file: list[float] = field(default_factory=list)  # written to this host's disk
    upload: list[float] = field(default_factory=list)  # hashed and uploaded, pointer included
    download: list[float] = field(default_factory=list)  # fetched and verified
    own_cpu: list[float] = field(default_factory=list)  # processor time of file and upload, this process's
    server_cpu: list[float] = field(default_factory=list)  # the server's, where it is on this machine
    idle_step: list[float] = field(default_factory=list)  # a step with nothing to save
    lost: list[float] = field(default_factory=list)  # training's, by one saving that went on beside it

    def medians(self) -> dict[str, float]:
        lists = {name: values for name, values in vars(self).items() if isinstance(values, list) and values}
        return {name: statistics.median(values) for name, values in lists.items()}


@dataclass
class Bench:
    """A training, a store, and a folder between the two."""

    objects: Objects
    server: psutil.Process | None
    folder: Path
    progresses: Iterator[Progress]

    def __post_init__(self) -> None:
        self.uploads = remote_checkpoint.Uploads(self.objects, attempt_key(1, "bench", 1))
        self.file = self.folder / "checkpoint.pt"

    def save(self, state: dict[str, object], path: Path) -> None:
        """Save a state to `path` and upload the file, as an attempt of a run does."""
        checkpoint.save(state, path)
        self.uploads.upload(path)

    def alone(self, found: Found) -> None:
        """Time one checkpoint to the store and back while nothing trains."""
        state = next(self.progresses).snapshot()
        own, server = psutil.Process(), self.server
        before = cpu_seconds(own), cpu_seconds(server)
        started = time.perf_counter()
        checkpoint.save(state, self.file)
        written = time.perf_counter()
        self.uploads.upload(self.file)
        uploaded = time.perf_counter()
        found.own_cpu.append(cpu_seconds(own) - before[0])
        if server is not None:
            found.server_cpu.append(cpu_seconds(server) - before[1])
        pointer = remote_checkpoint.read(self.objects, attempt_key(1, "bench", 1))
        assert pointer is not None
        fetching = time.perf_counter()
        copy = self.folder / "copy.pt"
        key = attempt_key(1, "bench", 1)
        assert remote_checkpoint.download(self.objects, key, pointer.newest, copy)
        found.download.append(time.perf_counter() - fetching)
        found.file.append(written - started)
        found.upload.append(uploaded - written)
        found.bytes = pointer.newest.bytes
        copy.unlink()

    def beside_training(self, found: Found, steps: int) -> None:
        """Time `steps` steps with nothing to save, then at least as many until one saving has ended."""
        found.idle_step.append(self.seconds(steps) / steps)
        writer = Writer(self.file, save=self.save)
        snapshot = next(self.progresses).start_snapshot()
        taken, started = 0, time.perf_counter()
        writer.submit(snapshot)
        while writer.durable is None or taken < steps:
            next(self.progresses)
            taken += 1
        with_saving = time.perf_counter() - started
        writer.close()
        found.lost.append(with_saving - taken * found.idle_step[-1])

    def seconds(self, steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            next(self.progresses)
        return time.perf_counter() - started


def cpu_seconds(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    times = process.cpu_times()
    return times.user + times.system


def progresses(config: Config) -> Iterator[Progress]:
    """Train on random images, which take as long as any others, and yield after each step."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (IMAGES, 1, 28, 28), generator=draw, dtype=torch.uint8)
    images = Images(pixels, torch.arange(IMAGES) % 10)
    return training.train(config, splits=Splits(images, None, images[:100]), interval_seconds=0)


@contextmanager
def store() -> Iterator[tuple[Objects, psutil.Process | None]]:
    """Open RUNNER_STORAGE, or a server of moto's; the bench's objects are deleted at the block's end."""
    with ExitStack() as stack:
        url, server = os.environ.get("RUNNER_STORAGE"), None
        if url is None:
            if reason := s3.missing():
                raise SystemExit(reason)
            # At the lowest priority, for it takes the place of a server on another machine.
            started = stack.enter_context(s3.server(niceness=19))
            os.environ.update(started.variables)
            assert started.process is not None
            url, server = started.new_url(), psutil.Process(started.process.pid)
        objects = Objects(url)
        stack.callback(lambda: objects.delete(objects.list("1-bench")))
        yield objects, server


def measured(config: Config, rounds: int, steps: int) -> Found:
    """Measure all numbers of a network, by turns."""
    found = Found()
    with store() as (objects, server), tempfile.TemporaryDirectory() as folder:
        bench = Bench(objects, server, Path(folder), progresses(config))
        bench.seconds(2)  # the first steps take longer
        for _ in range(rounds):
            bench.alone(found)
            bench.beside_training(found, steps)
    return found


def lines(found: Found, interval_seconds: float) -> list[str]:
    medians = found.medians()
    names = {
        "file": "to a file of this host",
        "upload": "from there to the store, hashed",
        "download": "back, and verified",
        "own_cpu": "processor time of this process to save once",
        "server_cpu": "processor time of the server on this machine",
        "idle_step": "a training step",
        "lost": "what training loses by one saving beside it",
    }
    said = [f"{found.bytes / MEGABYTE:.1f} MB a checkpoint, {len(found.file)} rounds"]
    for name, label in names.items():
        if values := getattr(found, name):
            said.append(f"{label:<46} median {medians[name]:.3f} s  ({min(values):.3f} to {max(values):.3f})")
    said += [f"{label:<46} {share:.2%}" for label, share in shares(found, interval_seconds).items()]
    return said


def shares(found: Found, interval_seconds: float) -> dict[str, float]:
    """Return the shares of training's time and of the cores where a checkpoint is saved each interval."""
    medians, cores = found.medians(), os.cpu_count() or 1
    return {
        f"share of training's time at {interval_seconds:g} s": medians["lost"] / interval_seconds,
        "of this machine's cores by this process": medians["own_cpu"] / cores / interval_seconds,
        "of this machine's cores by the server": medians.get("server_cpu", 0.0) / cores / interval_seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, default=EXPERIMENT, help="whose network it is")
    parser.add_argument("--rounds", type=measure.whole(1), default=5)
    parser.add_argument("--steps", type=measure.whole(1), default=10, help="in a round, at least")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    config = load(str(chosen.file), [])
    found, interval = measured(config, chosen.rounds, chosen.steps), config.checkpoint.interval_seconds
    if chosen.json:
        facts = {"machine": measure.machine("cpu"), "seconds": vars(found)}
        print(json.dumps({**facts, "shares": shares(found, interval)}))
        return
    print(measure.said(measure.machine("cpu")))
    print("\n".join(lines(found, interval)))


if __name__ == "__main__":
    measure.run(main)
