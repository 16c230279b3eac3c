"""SEAM"""

from __future__ import annotations

from pathlib import Path

from capsnet import config
from capsnet.images import Images


def load(root: Path, dataset: config.ShiftedMNIST) -> tuple[Images, Images]:
    raise NotImplementedError


def load_affine(root: Path, dataset: config.AffineMNIST) -> tuple[Images, Images]:
    raise NotImplementedError
