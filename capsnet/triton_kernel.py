"""Routing by agreement in Triton: what capsnet.agreement computes on a GPU, without its largest temporaries.

PyTorch's operations write and read [J, I·K, B] some 30 times in a training step of three iterations, and add
it up by products so thin that they keep few of a GPU's multiprocessors busy. Here it lives in registers.

Letters of shapes: I input capsules, K their dimension, J output capsules, D their dimension, B batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from capsnet import agreement
from capsnet.agreement import softmax
from capsnet.native import NativeError
from capsnet.triton_agreement import Tiles, precision

log = logging.getLogger(__name__)

TOLERANCE = {"tf32x3": 1e-4, "tf32": 1e-2}  # of ‖a - b‖ / ‖b‖ beside PyTorch's operations
GAIN = 1.1  # times as fast as these it has to be to be taken
REPLAYS = 20


class TritonKernel:
    """`collect` and `collect_backward` of capsnet.agreement, for tensors that it `serves`."""

    forms_predictions = False

    def serves(self, capsules: torch.Tensor) -> bool:
        return capsules.device.type == "cuda" and capsules.dtype == torch.float32

    def collect(
        self,
        capsules: torch.Tensor,
        weight: torch.Tensor,
        outputs: torch.Tensor,
        none_of_the_above: bool,
        constant_couplings: bool,
    ) -> torch.Tensor:
        """Σᵢ cᵢ ûᵢ [J, D, B] of capsules [I, K, B], weight [J, I·K, D], outputs [J, D, B]."""
        tiles = Tiles(capsules.contiguous(), weight.contiguous())
        return tiles.gather(softmax(tiles.agree(outputs.contiguous()), none_of_the_above).contiguous())

    def collect_backward(
        self,
        gradient: torch.Tensor,
        capsules: torch.Tensor,
        weight: torch.Tensor,
        outputs: torch.Tensor,
        none_of_the_above: bool,
        constant_couplings: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The gradients of capsules, weight and outputs from that of what is collected."""
        tiles = Tiles(capsules.contiguous(), weight.contiguous())
        gradient, outputs = gradient.contiguous(), outputs.contiguous()
        coupling = softmax(tiles.agree(outputs), none_of_the_above).contiguous()
        if constant_couplings:
            of_logits, of_outputs = coupling, torch.zeros_like(outputs)
        else:
            of_coupling = tiles.agree(gradient)
            of_logits = coupling * (of_coupling - (coupling * of_coupling).sum(0))
            of_outputs = tiles.gather(of_logits)
        tensors = coupling, of_logits, gradient, outputs
        of_weight = tiles.of_weight(*tensors, constant=constant_couplings)
        return tiles.of_capsules(*tensors, constant=constant_couplings), of_weight, of_outputs


def load(weight: torch.Tensor, dim: int, batch: int) -> TritonKernel | None:
    """The kernel for batches of capsules of `dim` numbers and this weight [J, I·K, D], on its GPU.

    None where it is not faster than PyTorch's operations. Raises NativeError where it fails, or gives other
    results than these.
    """
    kernel, trial = TritonKernel(), Trial(weight, dim, batch)
    trial.verify(kernel)
    gain = _seconds(lambda: trial.run(agreement)) / _seconds(lambda: trial.run(kernel))
    log.info("compile: routing in Triton is %.2f times as fast as by PyTorch's operations", gain)
    return kernel if gain >= GAIN else None


class Trial:
    """An iteration of routing and its gradients, of random capsules."""

    def __init__(self, weight: torch.Tensor, dim: int, batch: int) -> None:
        self._weight = weight.detach()
        classes, rows, class_dim = weight.shape
        generator = torch.Generator(weight.device).manual_seed(0)

        def drawn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, device=weight.device)

        self._capsules = drawn(rows // dim, dim, batch) / dim
        self._outputs, self._gradient = (drawn(classes, class_dim, batch) for _ in range(2))

    def run(self, by: Any) -> tuple[torch.Tensor, ...]:
        """What is collected and its gradients; `by` has `collect` and `collect_backward`."""
        tensors, flags = (self._capsules, self._weight, self._outputs), (False, False)
        return by.collect(*tensors, *flags), *by.collect_backward(self._gradient, *tensors, *flags)

    def verify(self, kernel: TritonKernel) -> None:
        """Raises NativeError where the kernel fails, or gives other results than PyTorch's operations."""
        expected = self.run(agreement)
        try:
            found = self.run(kernel)
            apart = max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))
        except Exception as error:  # of Triton, of its compilers or of the driver: they share no class
            raise NativeError(f"{type(error).__name__}: {error}") from error
        if not apart < TOLERANCE[precision()]:
            raise NativeError(f"its results are {apart:.1e} apart from those of PyTorch's operations")


def _seconds(run: Callable[[], object]) -> float:
    """That the GPU takes; replayed from a graph, so that the host's launches do not count."""
    graph, began, ended = torch.cuda.CUDAGraph(), *(torch.cuda.Event(enable_timing=True) for _ in range(2))
    run()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        run()
    graph.replay()
    began.record()
    for _ in range(REPLAYS):
        graph.replay()
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended) / 1000 / REPLAYS
