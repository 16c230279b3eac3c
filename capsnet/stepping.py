"""Execution of training steps: operation by operation, compiled or replayed. Other modules need not know.

A compiled step is fused for batches of one size; the last batch of an epoch, where it is smaller, is not
worth another compilation and runs operation by operation. Which steps are compiled depends on their number
alone, so that a run which is broken off and resumed computes the same bits.

A network with dropout is not recorded as a CUDA graph: the host draws its random numbers for every step.

Where several processes share each batch, their gradients are added up between the backward pass and the
change of the weights. That is never compiled nor recorded, and neither is batch normalisation then, which
needs the other processes' statistics in the middle of a step.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch

from capsnet import agreement, caches, kernel, objective, optimizers
from capsnet.agreement import RoutingKernel
from capsnet.augmentation import Batch
from capsnet.capsules import ClassCapsules
from capsnet.config import Config
from capsnet.execution import Execution
from capsnet.graphs import Recorder
from capsnet.group import ALONE, Gradients, Group, Part
from capsnet.layers import BatchNorm, Dropout
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
        group: Group = ALONE,
        begun: bool = False,
    ) -> None:
        """`images`: of an epoch; `group`: processes that share each batch; `begun`: the run is resumed."""
        self.network = network
        self.optimizer = optimizer
        self.config = config
        self.execution = execution  # in effect: without compilation where it fails
        self._size = min(config.batch_size, images)
        self._compiled: Measure | None = None
        self._group = group
        self._gradients = Gradients(list(network.parameters())) if group.size > 1 else None
        layers = list(network.modules())
        if any(isinstance(layer, Dropout) for layer in layers):
            self._do_without("cuda_graph", "a network with dropout cannot be recorded")
        if group.size > 1 and any(isinstance(layer, BatchNorm) for layer in layers):
            for key in ("cuda_graph", "compile"):
                self._do_without(key, "batch normalisation over several workers cannot be fused into one")
        if self.execution.compile:
            try:
                caches.secure_compilers()
            except OSError as error:
                self._do_without("compile", f"what compilers make cannot be kept safely ({error})")
        if not self.execution.compile:
            self.execution = replace(self.execution, native_routing=False)
        self._kernel = self._loaded(begun) if self.execution.native_routing else None
        self._recorder = Recorder(self._take) if self.execution.cuda_graph else None
        if self.execution.compile:
            log.info(COST)

    def _do_without(self, key: str, reason: str) -> None:
        if getattr(self.execution, key):
            warnings.warn(f"{key}: {reason}, and goes without", stacklevel=3)
            self.execution = replace(self.execution, **{key: False})

    def step(self, batch: Batch, margin: float | None, part: Part | None = None) -> torch.Tensor:
        """Train on one batch; the sums of objective.MEASURES over it, float64 [4], stay on the device.

        `margin`: of objective.rising_margin; `part`: of all processes' batch, over which the sums go then.
        """
        part = part or ALONE.part(len(batch))
        width = None if margin is None else torch.full((), margin, device=batch.inputs.device)
        take = self._take if self._recorder is None else self._recorder.step
        sums = take(batch, width, part)
        if self._gradients is not None:
            self._group.add(sums, self._gradients.flat)
            self._change()
        return sums

    def _take(self, batch: Batch, margin: torch.Tensor | None, part: Part) -> torch.Tensor:
        """Take the part of a step that needs no other process; with one process, that is the whole step."""
        measured = self._differentiated(batch, margin, part)
        if self._gradients is None:
            self._change()
        return measured.sums() * part.weight

    def _change(self) -> None:
        """Update the weights by the gradients of the whole batch, which are in their `grad`."""
        optimizers.clip(self.network.parameters(), self.config.optim.clip_norm)
        self.optimizer.step()

    def _differentiated(self, batch: Batch, margin: torch.Tensor | None, part: Part) -> Measured:
        """Measure a part; leave in the weights' `grad` its share of the gradients of all parts' mean."""
        if not self.execution.compile or part.count != self._size:
            return self._backward(objective.measure, batch, margin, part)
        if self._compiled is not None:
            return self._backward(self._compiled, batch, margin, part, self._kernel)
        return self._first(batch, margin, part)

    def _first(self, batch: Batch, margin: torch.Tensor | None, part: Part) -> Measured:
        """Compile the step and take it; where that fails, take it without, as if it had never been tried."""
        buffers = [buffer.clone() for buffer in self.network.buffers()]  # the statistics of batch norm
        try:
            # As one graph or not at all: a graph that breaks would be slow without any warning.
            compiled = torch.compile(objective.measure, fullgraph=True, dynamic=False)
            with warnings.catch_warnings():
                # Some versions of PyTorch advise TensorFloat-32; `precision` has decided on that.
                warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
                measured = self._backward(compiled, batch, margin, part, self._kernel)
        except compiler_errors() as error:
            page = " ".join(f"{type(error).__name__}: {error}".split())
            reason = page.partition(" Hint:")[0][:200]
            warnings.warn(f"compile: the step cannot be compiled, and goes without: {reason}", stacklevel=2)
            self.execution = replace(self.execution, compile=False, native_routing=False)
            for buffer, before in zip(self.network.buffers(), buffers, strict=True):
                buffer.copy_(before)
            return self._backward(objective.measure, batch, margin, part)
        self._compiled = compiled
        return measured

    def _loaded(self, begun: bool) -> RoutingKernel | None:
        """Load the kernel of routing; if any process has none, compiled steps call PyTorch's operations."""
        language = "Triton" if self.execution.device == "cuda" else "C"
        try:
            found = kernel.load() if language == "C" else self._loaded_for_gpu(begun)
        except NativeError as error:
            reason = " ".join(str(error).split())[:200]
            said = f"compile: routing in {language} cannot be had, and goes without: {reason}"
            warnings.warn(said, stacklevel=3)
            found = None
        having = torch.tensor(found is not None, dtype=torch.float32)
        self._group.add(having)
        if having < self._group.size:
            found = None
            self.execution = replace(self.execution, native_routing=False)
        return found

    def _loaded_for_gpu(self, begun: bool) -> RoutingKernel | None:
        """Load the GPU's kernel; timed when a run begins, but not if `deterministic`, as timings vary."""
        try:
            from capsnet import triton_kernel  # comes with PyTorch's builds for GPUs, and with those alone
        except ImportError as error:
            raise NativeError(str(error)) from error
        [layer] = (layer for layer in self.network.modules() if isinstance(layer, ClassCapsules))
        timed = not (begun or self.execution.deterministic)
        return triton_kernel.load(layer, len(self._group.part(self._size)), timed)

    def _backward(
        self,
        measure: Measure,
        batch: Batch,
        margin: torch.Tensor | None,
        part: Part,
        routing: RoutingKernel | None = None,
    ) -> Measured:
        if self._gradients is None:
            self.optimizer.zero_grad()
        else:
            self._gradients.flat.zero_()
        with agreement.computed_by(routing):
            with self.execution.autocast():
                measured = measure(self.network, batch, self.config, training=True, margin=margin)
            (measured.loss.sum() * (part.weight / part.count)).backward()
        return measured


def compiler_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that are raised where something cannot be compiled."""
    from torch._dynamo import exc  # imported only where a step is compiled: it takes a second

    return exc.TorchDynamoException, exc.FailOnRecompileLimitHit
