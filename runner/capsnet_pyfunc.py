"""Loader that MLflow runs for a logged model. It is saved in the model, beside a copy of capsnet.

Letters of shapes: B batch, C channels, H height, W width, J classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from capsnet import augmentation, models
from capsnet import config as schema
from capsnet.images import shape

BATCH = 256  # images at a time: what the memory of a small machine holds


class Classifier:
    """A trained capsule network on the CPU, with weights in a NumPy archive, which can hold no code."""

    def __init__(self, folder: Path) -> None:
        config = schema.load(folder / "config.yaml")
        self._dataset = config.dataset
        size = shape(config.dataset)
        self._size = size.height, size.width
        self._network = models.build(config, size).eval()
        with np.load(folder / "weights.npz", allow_pickle=False) as weights:
            self._network.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights.files})

    def predict(self, images: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Return the class capsules' lengths [B, J], the scores, of images [B, C, H, W], pixels in [0, 1].

        The images have the network's input size; with `standardise: first` the size before they are cropped.
        """
        with torch.inference_mode():
            batches = torch.from_numpy(np.ascontiguousarray(images)).split(BATCH)
            return torch.cat([self._lengths(batch) for batch in batches]).numpy()

    def _lengths(self, batch: torch.Tensor) -> torch.Tensor:
        inputs = augmentation.as_inputs(batch, self._dataset)
        return self._network(augmentation.centre(inputs, *self._size)).lengths


def _load_pyfunc(path: str) -> Classifier:
    """Load the model; MLflow calls this function with the folder of the model's data."""
    return Classifier(Path(path))
