"""Requirements of each kind of picture on a network and its data set. Imports no PyTorch."""

from __future__ import annotations

from capsnet.config import CapsNetModel, CNNModel, Config, DynamicRouting, SelfRouting
from capsnet.figures.kinds import FigureError
from capsnet.images import shape


def obstacle(kind: str, config: Config) -> str | None:
    """Return why the network of `config` gives no picture of this kind; None where it gives one."""
    if kind in ("perturb", "primary", "couplings") and isinstance(config.model, CNNModel):
        return "model.name: cnn has no capsules"
    if kind in ("primary", "couplings"):
        return _of_routing(kind, config)
    if kind in ("reconstruct", "perturb", "overlap") and config.decoder is None:
        return "this network was trained without a decoder, so there is nothing to reconstruct with"
    if kind == "overlap" and shape(config.dataset).labels < 2:
        return f"needs images of two digits, as of dataset.name: multi_mnist; this is {config.dataset.name}"
    return None


def _of_routing(kind: str, config: Config) -> str | None:
    model = config.model
    if not isinstance(model, CapsNetModel) or not isinstance(model.routing, DynamicRouting | SelfRouting):
        return "needs model.name: capsnet with model.routing.name: dynamic or self"
    if kind == "couplings" and isinstance(model.routing, DynamicRouting) and config.route_iters == 1:
        return "with route_iters: 1 all couplings are alike, and nothing sharpens"
    if kind == "primary" and shape(config.dataset).labels > 1:
        return f"needs images of one class each; those of {config.dataset.name} show several"
    return None


def require(kind: str, config: Config) -> None:
    """Raise FigureError where the network of `config` gives no picture of this kind."""
    if why := obstacle(kind, config):
        raise FigureError(f"no {kind} picture: {why}")
