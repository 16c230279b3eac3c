"""SEAM"""

from __future__ import annotations

from capsnet.config import CNNModel
from capsnet.images import ImageShape
from capsnet.network import Network


def build(model: CNNModel, shape: ImageShape) -> Network:
    raise NotImplementedError
