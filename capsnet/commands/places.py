"""Where a run of the command line keeps its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from capsnet import checkpoint
from capsnet.config import Config
from capsnet.figures import output
from capsnet.files import CHECKPOINT

FOLDER = Path("out")  # in the working directory, for what the YAML does not place


@dataclass(frozen=True)
class Places:
    """The checkpoint's file and TensorBoard's folder."""

    checkpoint: Path
    tensorboard: Path


def places(config: Config) -> Places:
    """As the YAML says, otherwise out/<name>/checkpoint.pt and out/<name>/tensorboard."""
    folder, named = FOLDER / config.name, config.checkpoint
    return Places(
        checkpoint=checkpoint.locate(named.model_path or folder / CHECKPOINT),
        tensorboard=Path(named.log_dir or folder / "tensorboard"),
    )


def move_aside(places: Places) -> Path | None:
    """Put what an earlier run left there into a folder of its own, "earlier-1" and so on; where to."""
    files, pictures = checkpoint.files_of(places.checkpoint), output.folder_of(places.checkpoint)
    target = _move([*files, pictures] if pictures.exists() else files, places.checkpoint.parent)
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
