"""SEAM"""

from __future__ import annotations

from pathlib import Path

from capsnet import config
from capsnet.images import Images


def load(root: Path, dataset: config.MultiMNIST) -> tuple[Images, Images]:
    raise NotImplementedError


def pairs(digits: Images, count: int, pixels: int, seed: int) -> Images:
    raise NotImplementedError
