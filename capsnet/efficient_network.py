"""SEAM"""

from __future__ import annotations

from capsnet.config import DeconvDecoder, EfficientCapsNetModel, FCDecoder
from capsnet.images import ImageShape
from capsnet.network import Network


def build(
    model: EfficientCapsNetModel, decoder: FCDecoder | DeconvDecoder | None, shape: ImageShape
) -> Network:
    raise NotImplementedError
