"""How a training step is carried out: operation by operation, or compiled. The only module that knows.

A compiled step is fused for batches of one size; the last batch of an epoch, where it is smaller, is not
worth another compilation and goes operation by operation. Which steps are compiled depends on their number
alone, so that a run which is broken off and resumed computes the same bits.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch

from capsnet import objective
from capsnet.augmentation import Batch
from capsnet.config import Config
from capsnet.execution import Execution
from capsnet.network import Network
from capsnet.objective import Measured

log = logging.getLogger(__name__)

COST = (
    "compile: the first step is compiled, which takes up to a minute, and seconds where this machine has "
    "compiled the same before"
)


class Stepper:
    """Takes training steps: measures a batch, and changes the weights by the gradients of its loss."""

    def __init__(
        self, network: Network, optimizer: torch.optim.Optimizer, config: Config, execution: Execution
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.config = config
        self.execution = execution  # as it turned out: what cannot be compiled is not
        self._compiled = _compiled() if execution.compile else None

    def step(self, batch: Batch, margin: float | None) -> torch.Tensor:
        """Train on one batch; the sums of objective.MEASURES over it, float64 [4], stay on the device.

        `margin`: of objective.rising_margin.
        """
        width = None if margin is None else torch.full((), margin, device=batch.inputs.device)
        measured = self._differentiated(batch, width)
        self.optimizer.step()
        return measured.sums()

    def _differentiated(self, batch: Batch, margin: torch.Tensor | None) -> Measured:
        """Measure a batch and leave the gradients of its mean loss at the weights."""
        if self._compiled is None or len(batch) != self.config.batch_size:
            return self._backward(objective.measure, batch, margin)
        try:
            return self._backward(self._compiled, batch, margin)
        except _compiler_errors() as error:
            reason = " ".join(str(error).split())[:200]  # PyTorch writes a page
            warnings.warn(
                f"compile: the step cannot be compiled here, and goes without: {reason}", stacklevel=2
            )
            self._compiled = None
            self.execution = replace(self.execution, compile=False)
            return self._backward(objective.measure, batch, margin)

    def _backward(
        self, measure: Callable[..., Measured], batch: Batch, margin: torch.Tensor | None
    ) -> Measured:
        self.optimizer.zero_grad()
        with self.execution.autocast():
            measured = measure(self.network, batch, self.config, training=True, margin=margin)
        measured.loss.mean().backward()
        return measured


def _compiled() -> Callable[..., Measured]:
    """The measuring of a batch, compiled when it is first called for whatever it is called with."""
    log.info(COST)
    # As one graph or not at all: a graph that breaks would be slow, and nobody would hear of it.
    return torch.compile(objective.measure, fullgraph=True, dynamic=False)


def _compiler_errors() -> tuple[type[Exception], ...]:
    from torch._dynamo import exc  # imported by whoever compiles, and by nobody else: it takes a second

    return exc.TorchDynamoException, exc.FailOnRecompileLimitHit
