"""SEAM"""

from __future__ import annotations

from capsnet.config import MatrixCapsNetModel
from capsnet.images import ImageShape
from capsnet.network import Network


def build(model: MatrixCapsNetModel, iterations: int, shape: ImageShape) -> Network:
    raise NotImplementedError
