"""Paths of the files of a run that is started from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from capsnet import checkpoint
from capsnet.config import Config
from capsnet.figures import output
from capsnet.files import CHECKPOINT
from capsnet.overwriting import require_checkpoint, require_history
from capsnet.state import State

FOLDER = Path("out")  # in the working directory, for what the YAML does not place


@dataclass(frozen=True)
class Places:
    """The checkpoint's file and TensorBoard's folder."""

    checkpoint: Path
    tensorboard: Path


def places(config: Config) -> Places:
    """Return the paths that the YAML names, otherwise out/<name>/checkpoint.pt and out/<name>/tensorboard.

    Raises CheckpointError where something else lies in the place of the checkpoint.
    """
    folder, named = FOLDER / config.name, config.checkpoint
    file = checkpoint.locate(named.model_path or folder / CHECKPOINT)
    require_checkpoint(file)
    return Places(
        checkpoint=file.resolve() if file.is_symlink() else file,  # else it would replace the link
        tensorboard=Path(named.log_dir or folder / "tensorboard"),
    )


def require_own(path: Path) -> None:
    """Raise CheckpointError where a checkpoint and what lies beside it would replace files of others."""
    require_checkpoint(path)
    for file in checkpoint.files_of(path):
        (require_history if file == checkpoint.history_path(path) else require_checkpoint)(file)


def save(state: State, path: Path) -> None:
    """Save a state at the path that the user has named."""
    require_own(path)
    checkpoint.save(state, path)


def move_aside(places: Places) -> Path | None:
    """Move an earlier run's files into folders beside them, "earlier-1" and so on.

    Returns the folder of the checkpoint's files; None where there was nothing to move.
    """
    files, pictures = checkpoint.files_of(places.checkpoint), output.folder_of(places.checkpoint)
    if files and pictures.exists():  # without a checkpoint they are not a run's
        files.append(pictures)
    target = _move(files, places.checkpoint.parent)
    if target is not None:
        _move(sorted(places.tensorboard.glob("events.out.tfevents.*")), places.tensorboard)
    return target


def _move(files: list[Path], folder: Path) -> Path | None:
    if not files:
        return None
    number = 1
    while (target := folder / f"earlier-{number}").exists():
        number += 1
    target.mkdir()
    for file in files:
        file.rename(target / file.name)
    return target
