"""Numbers of runs, which belong to the experiment runner, given where a checkpoint is asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from capsnet import checkpoint
from capsnet.state import CheckpointError

ATTEMPTS = "attempts"  # the folder by which one of the runner's runs is told from another folder


def require_checkpoints(paths: Sequence[str], command: str) -> None:
    """Raise CheckpointError, with the command that works, where some paths are not checkpoints but runs.

    `command`: that of the runner, RUN in it standing for the runs.
    """
    runs = [number for number in map(run_of, paths) if number is not None]
    if runs:
        given = next(path for path in paths if run_of(path) is not None)
        works = command.replace("RUN", " ".join(runs))
        raise CheckpointError(f"there is no checkpoint {checkpoint.locate(given)}; of a run: `{works}`")


def run_of(path: str) -> str | None:
    """The number of the run that a path without a checkpoint stands for; None where it may be a checkpoint.

    A run's folder has none while its newest attempt has saved nothing yet.
    """
    file = checkpoint.locate(path)
    if file.exists() or checkpoint.previous_path(file).exists():
        return None
    if re.fullmatch(r"[0-9]+(-[0-9]+)?", path):
        return path
    folder = Path(path)
    found = re.match(r"([0-9]+)-", folder.name)
    return found[1] if found and (folder / ATTEMPTS).is_dir() else None
