"""SEAM"""

from __future__ import annotations

from pathlib import Path

from capsnet import config
from capsnet.images import Images


def load(root: Path, dataset: config.AffNIST) -> tuple[Images, Images]:
    raise NotImplementedError
