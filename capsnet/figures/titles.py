"""The run, model, data set and epoch of a picture, in the words of its heading. Imports no PyTorch."""

from __future__ import annotations

from pathlib import Path

from capsnet.config import (
    AttentionRouting,
    CapsNetModel,
    Config,
    Folder,
    MatrixCapsNetModel,
    SelfRouting,
)

BETWEEN = " · "


def origin(config: Config, label: str | None = None, epoch: int | None = None, best: bool = False) -> str:
    """Run, model, data set and, where it is given, the epoch of the weights.

    `label`: what the run is called, if not by its name. `best`: validation chose that epoch.
    """
    parts = [label or config.name, model(config), dataset(config)]
    if epoch is not None:
        parts.append(f"epoch {epoch}{', best on validation' if best else ''}")
    return BETWEEN.join(parts)


def model(config: Config) -> str:
    """The network and its routing."""
    name = config.model.name
    match config.model:
        case CapsNetModel(routing=SelfRouting()):
            return f"{name}, self-routing"
        case CapsNetModel(routing=AttentionRouting()):
            return f"{name}, attention routing"
        case CapsNetModel():
            return f"{name}, {_iterations(config, 'routing')}"
        case MatrixCapsNetModel():
            return f"{name}, {_iterations(config, 'EM')}"
        case _:
            return name


def _iterations(config: Config, of: str) -> str:
    return f"{config.route_iters} {of} iteration{'' if config.route_iters == 1 else 's'}"


def dataset(config: Config) -> str:
    """The data set; of one's own images the folder's name, too."""
    data = config.dataset
    return f"{data.name} {Path(data.root).name}" if isinstance(data, Folder) else data.name
