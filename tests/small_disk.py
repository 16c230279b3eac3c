"""A run on a file system of 2 MiB that is full from its first epoch's end to its third's; prints what it saw.

unshare --user --map-root-user --mount python small_disk.py FOLDER < config.yaml
"""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
import time
from pathlib import Path

from capsnet import checkpoint, config, training
from capsnet.keeper import Keeper
from capsnet.patience import Trouble
from capsnet.progressbar import Lines

ALONE = ("unshare", "--user", "--map-root-user", "--mount")


def missing() -> str | None:
    """Return why no such file system can be made on this machine, or None if it can."""
    try:
        tried = subprocess.run([*ALONE, "true"], capture_output=True, text=True)
    except FileNotFoundError:
        return "a small file system needs the program unshare"
    return f"a small file system needs a user namespace: {tried.stderr.strip()}" if tried.returncode else None


def fill(file: Path) -> None:
    """Write to a file until the disk is full."""
    with file.open("wb", buffering=0) as ballast:
        try:
            while ballast.write(bytes(512)):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC


def main(folder: Path) -> dict[str, object]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    settings = config.parse(sys.stdin.read())
    place, ballast = folder / "checkpoint.pt", folder / "ballast"
    said, troubles, seen = io.StringIO(), list[Trouble | None](), dict[str, object]()
    deadline = time.monotonic() + 120
    with Keeper(settings, place, folder / "board", None, Lines(said), troubled=troubles.append) as keeper:
        for progress in training.train(settings, interval_seconds=0):
            keeper.see(progress, last=progress.metrics is not None)
            if progress.metrics is None:
                continue
            if progress.epoch == 1:
                keeper.settle()
                fill(ballast)
            while progress.epoch == 2 and not troubles and time.monotonic() < deadline:
                time.sleep(0.05)
                keeper.look()
            if progress.epoch == 3:
                seen["durable while full"] = keeper.durable
                seen["whole while full"] = checkpoint.load(place)["epoch"]
                ballast.unlink()
    files = [file.name for file in folder.iterdir() if file.is_file()]
    return seen | {
        "troubles": [trouble and trouble.reason for trouble in troubles],
        "durable": keeper.durable,
        "whole": checkpoint.load(place)["epoch"],
        "said": said.getvalue(),
        "files": sorted(files),
        "curve": curve(folder / "board"),
    }


def curve(folder: Path) -> list[int]:
    """The epochs whose test loss TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder))
    board.Reload()
    return [event.step for event in board.Scalars("test/loss")]


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
