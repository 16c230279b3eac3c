"""SEAM"""

from __future__ import annotations

from pathlib import Path

from capsnet.images import Images


def load(root: Path, size: int) -> tuple[Images, Images]:
    raise NotImplementedError
