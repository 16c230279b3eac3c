"""The processes of a group that trains small networks, and the cases in which tests compare groups.

    python -m group_member SIZE HOST:PORT FOLDER CASE...

A case is one of CASES or ACTS. Rank 0 goes on from FOLDER/CASE.begun.pt where that is there, and leaves the
states in the middle of each of CASES in FOLDER/CASE.middle.pt and at its end in FOLDER/CASE.pt.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from patience import PATIENCE

from capsnet.checkpoint import load
from capsnet.config import Config
from capsnet.group import ALONE, Group, GroupError, meeting
from capsnet.images import Images, Splits
from capsnet.state import State
from capsnet.training import TrainingError, train

SIDE = 12
EPOCHS = 3
MIDDLE = ("train", 2, 3)
CAPSULES: dict[str, Any] = {"conv_channels": 8, "kernel_size": 5, "primary_types": 3}
EFFICIENT: dict[str, Any] = {"name": "efficient_capsnet", "conv_channels": [6, 8], "primary_dim": 4}
CNN: dict[str, Any] = {
    "name": "cnn",
    "conv_channels": [4, 5],
    "kernel_sizes": [3, 3],
    "pool": 2,
    "hidden": [12],
}
# Batches of 16, and at last one of two images: fewer than four workers.
CASES: dict[str, dict[str, Any]] = {
    "capsules": {"model": CAPSULES | {"decoder": {"hidden": [16]}}, "dataset": {"shift": 2}},
    "batch_norm": {"model": EFFICIENT | {"decoder": {"hidden": [8], "batch_norm": True}}},
    "dropout": {"model": CNN},
    "odd": {"model": CAPSULES | {"decoder": {"name": "none"}}, "batch_size": 15},
    "clipped": {
        "model": CAPSULES | {"decoder": {"name": "none"}},
        "optim": {"name": "sgd", "lr": 30.0, "clip_norm": 1e-3, "weight_decay": 1e-4, "warmup_epochs": 1.5},
    },
    "early": {
        "model": CAPSULES | {"decoder": {"name": "none"}},
        "optim": {"lr": 1e-12},
        "dataset": {"validation": 20},
        "num_epochs": 9,
        "stop_after_epochs_without_gain": 1,
    },
    "loaded": {"model": CAPSULES | {"decoder": {"hidden": [16]}}, "dataloader": {"num_workers": 1}},
    "compiled": {"model": CAPSULES | {"decoder": {"hidden": [16]}}, "compile": True},
    "endless": {"model": CAPSULES | {"decoder": {"hidden": [16]}}, "num_epochs": 1_000_000},
}
CASES["stopped"] = CASES["endless"]
CASES["not_finite"] = CASES["capsules"] | {"optim": {"lr": 1e30}}


def config(case: str, **keys: Any) -> Config:
    settings = (
        {"num_epochs": EPOCHS, "batch_size": 16, "threads": 1, "use_cuda": False, "optim": {"lr": 0.01}}
        | CASES[case]
        | keys
    )
    settings["dataset"] = {"name": "digits", "size": SIDE, **CASES[case].get("dataset", {})}
    return Config.model_validate(settings)


def splits() -> Splits:
    """50 images to train on, 20 to validate, 21 to test: noise around one pattern for each class."""
    random = np.random.default_rng(3)
    patterns = random.integers(0, 200, (10, 1, SIDE, SIDE))

    def images(count: int) -> Images:
        labels = np.arange(count) % 10
        pixels = patterns[labels] + random.integers(0, 56, (count, 1, SIDE, SIDE))
        return Images(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels))

    return Splits(images(50), images(20), images(21))


def end(
    config: Config, state: State | None = None, group: Group = ALONE, stop_after: int | None = None
) -> tuple[State, State | None]:
    """Train a run; return its state at the end, and that in the middle if the run passes it (for rank 0)."""
    middle = progress = None
    for progress in train(config, state, splits(), group, interval_seconds=0.0):
        if (progress.phase, progress.epoch, progress.step) == MIDDLE:
            middle = progress.snapshot()
        print(f"epoch {progress.epoch}", flush=True)
        if progress.epoch == stop_after:
            break
    assert progress is not None
    return progress.snapshot(), middle


def fail_alone(group: Group, _: Path) -> None:
    """Let rank 1 add a tensor of a type that gloo cannot add, for which PyTorch raises a RuntimeError."""
    group.add(torch.ones(4))
    group.add(torch.ones(4, dtype=torch.int16 if group.rank else torch.float32))


def compile_late(group: Group, _: Path) -> None:
    """Compile a function only after the group has met."""
    group.add(torch.ones(4))
    assert int(torch.compile(lambda value: value + 1, backend="eager")(torch.ones(1))) == 2


def threads_that_talk() -> list[str]:
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return sorted(name for name in names if "gloo" in name)


def hang(group: Group, folder: Path) -> None:
    """Let rank 1 neither join the sum nor end while rank 0 waits for it."""
    given_up = folder / "given up"
    if group.leads:
        try:
            group.add(torch.ones(1))
        finally:
            given_up.touch()
    while not given_up.exists():
        time.sleep(0.05)


ACTS = {
    "own_error": fail_alone,
    "hanging": hang,
    "compiling": compile_late,
}  # cases in which nothing is trained


def member(rank: int, size: int, address: str, folder: Path, cases: Sequence[str]) -> int:
    """Train each case; the exit code."""
    try:
        timeout = PATIENCE  # one of them may compile for long while the others wait
        if "hanging" in cases:  # a short one would also be that to find each other: all come at once
            timeout = 2.0
            (folder / f"ready {rank}").touch()
            while len(list(folder.glob("ready *"))) < size:
                time.sleep(0.01)
        with meeting(rank, size, address, "cpu", timeout) as group:
            for case in cases:
                if case in ACTS:
                    ACTS[case](group, folder)
                elif group.leads:
                    begun = folder / f"{case}.begun.pt"
                    state = load(begun) if begun.exists() else None
                    last, middle = end(config(case), state, group, 2 if case == "stopped" else None)
                    torch.save(last, folder / f"{case}.pt")
                    torch.save(middle, folder / f"{case}.middle.pt")
                else:
                    assert list(train(config(case), None, splits(), group)) == []
            print(f"rank {rank} talks by {threads_that_talk()}", flush=True)
        print(f"rank {rank} leaves {threads_that_talk()}", flush=True)
    except GroupError as error:
        print(f"rank {rank}: {error}", flush=True)
        return 3
    except TrainingError as error:
        print(f"rank {rank}: {error}", flush=True)
        return 4
    except RuntimeError as error:
        print(f"rank {rank} by itself: {error}", flush=True)
        return 5
    return 0


def main(size: str, address: str, folder: str, *cases: str) -> None:
    members = {}
    for rank in range(int(size)):  # PyTorch is imported once, and nothing of it has been used yet
        if not (pid := os.fork()):
            os._exit(member(rank, int(size), address, Path(folder), cases))
        members[pid] = rank
        print(f"rank {rank} is pid {pid}", flush=True)
    for _ in range(int(size)):
        pid, status = os.wait()
        print(f"rank {members[pid]} ended with {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
