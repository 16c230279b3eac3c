"""How a training step is carried out: operation by operation, compiled, replayed. The only module that knows.

A compiled step is fused for batches of one size; the last batch of an epoch, where it is smaller, is not
worth another compilation and goes operation by operation. Which steps are compiled depends on their number
alone, so that a run which is broken off and resumed computes the same bits.

A network with dropout is not recorded as a CUDA graph: its draws are the host's, anew for every step.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch

from capsnet import agreement, kernel, objective
from capsnet.augmentation import Batch
from capsnet.config import Config
from capsnet.execution import Execution
from capsnet.graphs import Recorder
from capsnet.kernel import Kernel
from capsnet.layers import Dropout
from capsnet.native import NativeError
from capsnet.network import Network
from capsnet.objective import Measured

log = logging.getLogger(__name__)

Measure = Callable[..., Measured]  # objective.measure, or what it was compiled to

COST = (
    "compile: the first step is compiled, which takes some 20 s on two cores, and 3 s where this machine has "
    "compiled the same before"
)


class Stepper:
    """Takes training steps: measures a batch, and changes the weights by the gradients of its loss."""

    def __init__(
        self,
        network: Network,
        optimizer: torch.optim.Optimizer,
        config: Config,
        execution: Execution,
        images: int,
    ) -> None:
        """`images`: of an epoch."""
        self.network = network
        self.optimizer = optimizer
        self.config = config
        self.execution = execution  # as it turned out: what cannot be compiled is not
        self._size = min(config.batch_size, images)
        self._compiled: Measure | None = None
        self._kernel = self._loaded() if execution.native_routing else None
        if execution.cuda_graph and any(isinstance(module, Dropout) for module in network.modules()):
            warnings.warn(
                "cuda_graph: a network with dropout cannot be recorded, and goes without", stacklevel=2
            )
            self.execution = replace(execution, cuda_graph=False)
        self._recorder = Recorder(self._take) if self.execution.cuda_graph else None
        if execution.compile:
            log.info(COST)

    def step(self, batch: Batch, margin: float | None) -> torch.Tensor:
        """Train on one batch; the sums of objective.MEASURES over it, float64 [4], stay on the device.

        `margin`: of objective.rising_margin.
        """
        width = None if margin is None else torch.full((), margin, device=batch.inputs.device)
        return self._take(batch, width) if self._recorder is None else self._recorder.step(batch, width)

    def _take(self, batch: Batch, margin: torch.Tensor | None) -> torch.Tensor:
        measured = self._differentiated(batch, margin)
        self.optimizer.step()
        return measured.sums()

    def _differentiated(self, batch: Batch, margin: torch.Tensor | None) -> Measured:
        """Measure a batch and leave the gradients of its mean loss at the weights."""
        if not self.execution.compile or len(batch) != self._size:
            return self._backward(objective.measure, batch, margin)
        if self._compiled is not None:
            return self._backward(self._compiled, batch, margin, self._kernel)
        return self._first(batch, margin)

    def _first(self, batch: Batch, margin: torch.Tensor | None) -> Measured:
        """Compile; where that fails, do without, as if it had never been tried."""
        buffers = [buffer.clone() for buffer in self.network.buffers()]  # the statistics of batch norm
        try:
            # As one graph or not at all: a graph that breaks would be slow, and nobody would hear of it.
            compiled = torch.compile(objective.measure, fullgraph=True, dynamic=False)
            measured = self._backward(compiled, batch, margin, self._kernel)
        except compiler_errors() as error:
            page = " ".join(f"{type(error).__name__}: {error}".split())
            reason = page.partition(" Hint:")[0][:200]
            warnings.warn(f"compile: the step cannot be compiled, and goes without: {reason}", stacklevel=2)
            self.execution = replace(self.execution, compile=False, native_routing=False)
            for buffer, before in zip(self.network.buffers(), buffers, strict=True):
                buffer.copy_(before)
            return self._backward(objective.measure, batch, margin)
        self._compiled = compiled
        return measured

    def _loaded(self) -> Kernel | None:
        """The kernel of routing; without one the compiled step calls PyTorch's operations."""
        try:
            return kernel.load()
        except NativeError as error:
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"compile: routing in C cannot be had, and goes without: {reason}", stacklevel=3)
            self.execution = replace(self.execution, native_routing=False)
            return None

    def _backward(
        self, measure: Measure, batch: Batch, margin: torch.Tensor | None, routing: Kernel | None = None
    ) -> Measured:
        self.optimizer.zero_grad()
        with agreement.computed_by(routing):
            with self.execution.autocast():
                measured = measure(self.network, batch, self.config, training=True, margin=margin)
            measured.loss.mean().backward()
        return measured


def compiler_errors() -> tuple[type[Exception], ...]:
    """What is raised where something cannot be compiled."""
    from torch._dynamo import exc  # imported by whoever compiles, and by nobody else: it takes a second

    return exc.TorchDynamoException, exc.FailOnRecompileLimitHit
