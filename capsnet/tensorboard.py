"""A run in TensorBoard: metrics by epoch, reconstructions beside their targets, pictures, hyperparameters."""

from __future__ import annotations

import functools
import io
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from capsnet.yamltext import flat

if TYPE_CHECKING:
    from capsnet.config import Config

# Figures of the epoch that validation chose, by name in capsnet.history.results. TensorBoard begins with the
# first group in the alphabet, so a single point has its place in a group of curves.
BEST = {
    "best/epoch": "validation/best_epoch",
    "best/validation/accuracy": "validation/accuracy_at_best_epoch",
    "best/test/accuracy": "test/accuracy_at_best_epoch",
}


class Board:
    """TensorBoard's event file in `folder`.

    `purge_step`, the first epoch that is still to come, hides what an attempt that crashed has
    written about that epoch and later ones, so that no point is shown twice.
    """

    def __init__(self, folder: str | Path, purge_step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second or more

        _keep_its_thread_quiet()
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def epoch(self, epoch: int, metrics: Mapping[str, float], at: float | None = None) -> None:
        """Log the metrics of an epoch, measured `at` unix seconds (None: now).

        They are handed to the operating system at once: a checkpoint that is saved after this call
        never has an epoch that TensorBoard's log lacks.
        """
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch, walltime=at)
        self._writer.flush()

    def images(self, epoch: int, targets: torch.Tensor, reconstructions: torch.Tensor) -> None:
        """Log images [N, C, H, W] with values in [0, 1], each above its reconstruction.

        One channel is grey, three are colours; of any other number, such as two cameras, the first is shown.
        """
        rows = [torch.cat(list(_shown(images)), dim=2) for images in (targets, reconstructions)]
        self._writer.add_image("reconstructions", torch.cat(rows, dim=1), epoch)

    def picture(self, epoch: int, name: str, png: bytes) -> None:
        """Log a picture that is a PNG file."""
        from PIL import Image

        with Image.open(io.BytesIO(png)) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(f"figures/{name}", pixels, epoch, dataformats="HWC")

    def hparams(self, config: Config, figures: Mapping[str, float], epoch: int) -> None:
        """Log the hyperparameters beside the figures that were reached (capsnet.history.results)."""
        from torch.utils.tensorboard.summary import hparams

        best = {BEST[name]: value for name, value in figures.items() if name in BEST}
        last = {name: value for name, value in figures.items() if not name.startswith("best/")}
        for name, value in best.items():  # those of the last epoch are logged by epoch
            self._writer.add_scalar(name, value, epoch)
        chosen = {name: _plain(value) for name, value in flat(config.model_dump(mode="json")).items()}
        file = self._writer.file_writer
        assert file is not None  # only a closed writer has none
        for summary in hparams(chosen, last | best):
            file.add_summary(summary, epoch)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


@functools.cache  # once a process
def _keep_its_thread_quiet() -> None:
    """Print no traceback when TensorBoard's own thread meets a full disk: its next call raises the error."""
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        is_its = type(failed.thread).__module__.startswith("tensorboard.")
        if not (is_its and isinstance(failed.exc_value, OSError)):
            before(failed)

    threading.excepthook = hook


def _shown(images: torch.Tensor) -> torch.Tensor:
    return images if images.shape[1] in (1, 3) else images[:, :1]


def _plain(value: object) -> bool | str | float | int:
    """Return a value that TensorBoard accepts for a hyperparameter: text where it accepts no other."""
    return value if isinstance(value, bool | str | float | int) else str(value)
