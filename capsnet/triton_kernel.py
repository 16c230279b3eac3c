"""Routing by agreement in Triton: what capsnet.agreement computes on a GPU, without its largest temporaries.

PyTorch's operations write and read [J, I·K, B] some 50 times in a training step of three iterations, and add
it up by products so thin that they keep few of a GPU's multiprocessors busy. Here it stays in registers.

Letters of shapes: I input capsules, K their dimension, J output capsules, D their dimension, B batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from capsnet import agreement
from capsnet.agreement import apart, softmax
from capsnet.capsules import ClassCapsules
from capsnet.native import NativeError
from capsnet.routing import squash
from capsnet.triton_agreement import Tiles, precision

log = logging.getLogger(__name__)

TOLERANCE = {"tf32x3": 1e-4, "tf32": 5e-2}  # of ‖a - b‖ / ‖b‖ beside PyTorch's operations
GAIN = 1.1  # the kernel is used if it is at least so many times as fast as these
ROUNDS, REPLAYS = 7, 10


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
        """Compute Σᵢ cᵢ ûᵢ [J, D, B] of capsules [I, K, B], weight [J, I·K, D], outputs [J, D, B]."""
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


def load(layer: ClassCapsules, batch: int, timed: bool) -> TritonKernel | None:
    """Load the kernel for batches of so many images in a layer on a GPU.

    Returns None where `timed` and the kernel is not faster than PyTorch's operations. Raises NativeError
    where the kernel fails, or gives other results than these.
    """
    kernel, trial = TritonKernel(), Trial(layer, batch)
    try:
        trial.verify(kernel)
        if not timed:
            return kernel
        usual, ours = _seconds([lambda: trial.run(None), lambda: trial.run(kernel)])
    except NativeError:
        raise
    except Exception as error:  # of Triton, of its compilers or of the driver: they share no class
        raise NativeError(f"{type(error).__name__}: {error}") from error
    log.info("compile: routing in Triton is %.2f times as fast as by PyTorch's operations", usual / ours)
    return kernel if usual >= GAIN * ours else None


class Trial:
    """Run of a layer's routing, forward and backward, on random capsules with couplings far from even."""

    def __init__(self, layer: ClassCapsules, batch: int) -> None:
        classes, rows, class_dim = layer.weight.shape
        generator = torch.Generator(layer.weight.device).manual_seed(0)

        def drawn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, device=layer.weight.device)

        self._route = layer.route
        capsules = squash(drawn(batch, rows // layer.capsule_dim, layer.capsule_dim))
        bias = [] if layer.bias is None else [drawn(classes, class_dim)]
        self._inputs = [capsules, drawn(classes, rows, class_dim), *bias]
        self._gradient = drawn(batch, classes, class_dim)

    def run(self, kernel: TritonKernel | None) -> list[torch.Tensor]:
        """Return the layer's outputs, and the gradients of the capsules, the weight and the bias."""
        inputs = [tensor.detach().requires_grad_() for tensor in self._inputs]
        capsules, weight, *rest = inputs
        with agreement.computed_by(kernel):
            outputs = self._route(capsules, weight, rest[0] if rest else None)
            return [outputs.detach(), *torch.autograd.grad(outputs, inputs, self._gradient)]

    def verify(self, kernel: TritonKernel) -> None:
        """Raise NativeError where the kernel gives other results than PyTorch's operations."""
        difference = apart(self.run(kernel), self.run(None))
        if not difference < TOLERANCE[precision()]:
            raise NativeError(f"its results are {difference:.1e} apart from those of PyTorch's operations")


def _seconds(runs: list[Callable[[], object]]) -> list[float]:
    """Time each run on the GPU, in seconds; graphs are replayed, so that the host's launches do not count."""
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graphs = [torch.cuda.CUDAGraph() for _ in runs]
    for graph, run in zip(graphs, runs, strict=True):
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            run()
    found: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for graph, seconds in zip(graphs, found, strict=True):
            began.record()
            for _ in range(REPLAYS):
                graph.replay()
            ended.record()
            ended.synchronize()
            seconds.append(began.elapsed_time(ended) / 1000 / REPLAYS)
    return [min(seconds) for seconds in found]
