"""One iteration of routing by agreement, block by block: the predictions û = W u are never all in memory.

Letters of shapes: I input capsules, K their dimension, J output capsules, D their dimension, B batch.

What a block of input capsules needs in between, [J, I, K, B], stays in the processor's cache, and the
backward pass computes it again instead of keeping it: most of the time of routing on a CPU went into waiting
for memory. (FlashAttention, Dao et al. 2022, does so for attention.) Both uses of û are linear,
Σᵢ cᵢ ûᵢ = (c ⊙ u) W and û·v = u·(W v), so that [J, I, K, B] does for what would be [J, I, D, B].

An operator of its own: torch.compile takes it as it is, as fusing across it would undo the blocks. The batch
goes last, where the numbers that are added or multiplied together lie side by side. Within `computed_by`
a kernel computes it instead: in C on a CPU (capsnet.kernel), in Triton on a GPU (capsnet.triton_kernel).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

# Of one temporary on a CPU. From half of it to four times as much the time is the same within 10%.
BLOCK_BYTES = 2**20


class RoutingKernel(Protocol):
    """Kernel that computes `collect` and its gradients for the tensors for which `serves` is true."""

    @property
    def forms_predictions(self) -> bool:
        """Whether the kernel computes û once, by one product, and uses it everywhere."""
        ...

    def serves(self, capsules: torch.Tensor) -> bool: ...

    def collect(
        self,
        capsules: torch.Tensor,
        weight: torch.Tensor,
        outputs: torch.Tensor,
        none_of_the_above: bool,
        constant_couplings: bool,
    ) -> torch.Tensor: ...

    def collect_backward(
        self,
        gradient: torch.Tensor,
        capsules: torch.Tensor,
        weight: torch.Tensor,
        outputs: torch.Tensor,
        none_of_the_above: bool,
        constant_couplings: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]: ...


# No ContextVar: on a GPU gradients are computed in a thread of autograd's own.
_kernel: RoutingKernel | None = None


@contextmanager
def computed_by(kernel: RoutingKernel | None) -> Iterator[None]:
    """Let `kernel`, if any, compute all iterations and gradients that it serves, within the `with` block."""
    global _kernel
    before, _kernel = _kernel, kernel
    try:
        yield
    finally:
        _kernel = before


def forms_predictions() -> bool:
    """Return whether the kernel in use computes û once, by one product, and uses it everywhere."""
    return _kernel is not None and _kernel.forms_predictions


@torch.library.custom_op("capsnet::collect", mutates_args=())
def collect(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    outputs: torch.Tensor,
    none_of_the_above: bool,
    constant_couplings: bool,
) -> torch.Tensor:
    """Compute Σᵢ cᵢ ûᵢ [J, D, B] with the couplings c = softmax over J of û·v (Procedure 1, lines 4 and 5).

    Capsules u [I, K, B], contiguous; weight [J, I·K, D]; outputs v [J, D, B], whose agreement with û makes
    the logits. `none_of_the_above`: the softmax has one more logit, always 0. `constant_couplings`: no
    gradient flows through them, and so none to `outputs`. There are no second derivatives.
    """
    if _kernel is not None and _kernel.serves(capsules):
        return _kernel.collect(capsules, weight, outputs, none_of_the_above, constant_couplings)
    collected = torch.zeros_like(outputs)
    products, scratch = _temporaries(2, capsules, weight)
    for block in _blocks(capsules, weight):
        seen = torch.bmm(block.weight, outputs, out=block.of(products))
        coupling = _couplings(block, seen, scratch, none_of_the_above)
        torch.mul(coupling[:, :, None], block.capsules, out=block.split(products))
        collected.baddbmm_(block.weight.transpose(1, 2), block.of(products))
    return collected


@collect.register_fake
def _(capsules: Any, weight: Any, outputs: Any, *_: bool) -> torch.Tensor:
    return torch.empty_like(outputs)


@torch.library.custom_op("capsnet::collect_backward", mutates_args=())
def collect_backward(
    gradient: torch.Tensor,
    capsules: torch.Tensor,
    weight: torch.Tensor,
    outputs: torch.Tensor,
    none_of_the_above: bool,
    constant_couplings: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of `collect`'s capsules, weight and outputs from that of its result [J, D, B]."""
    if _kernel is not None and _kernel.serves(capsules):
        flags = none_of_the_above, constant_couplings
        return _kernel.collect_backward(gradient, capsules, weight, outputs, *flags)
    of_capsules, of_weight = torch.empty_like(capsules), torch.empty_like(weight)
    of_outputs = torch.zeros_like(outputs)
    seeing, backward, scratch = _temporaries(3, capsules, weight)
    for block in _blocks(capsules, weight):
        # û·v = u·seen makes the couplings c; what is collected is (c ⊙ u) W, whose gradient is c ⊙ back.
        seen = torch.bmm(block.weight, outputs, out=block.of(seeing))
        back = torch.bmm(block.weight, gradient, out=block.of(backward))
        coupling = _couplings(block, seen, scratch, none_of_the_above)
        of_coupling = torch.mul(block.split(back), block.capsules, out=block.split(scratch)).sum(2)
        weighted = torch.mul(coupling[:, :, None], block.capsules, out=block.split(scratch)).flatten(1, 2)
        of_rows = torch.bmm(weighted, gradient.transpose(1, 2))
        of_inputs = block.split(back).mul_(coupling[:, :, None])
        if not constant_couplings:
            of_logits = coupling * (of_coupling - (coupling * of_coupling).sum(0))
            of_inputs.addcmul_(block.split(seen), of_logits[:, :, None])
            agreeing = torch.mul(of_logits[:, :, None], block.capsules, out=block.split(seen)).flatten(1, 2)
            of_rows.baddbmm_(agreeing, outputs.transpose(1, 2))
            of_outputs.baddbmm_(block.weight.transpose(1, 2), agreeing)
        torch.sum(of_inputs, 0, out=of_capsules[block.range])
        of_weight[:, block.rows] = of_rows
    return of_capsules, of_weight, of_outputs


@collect_backward.register_fake
def _(gradient: Any, capsules: Any, weight: Any, outputs: Any, *_: bool) -> tuple[torch.Tensor, ...]:
    return torch.empty_like(capsules), torch.empty_like(weight), torch.empty_like(outputs)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    *tensors, ctx.none_of_the_above, ctx.constant_couplings = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    flags = ctx.none_of_the_above, ctx.constant_couplings
    capsules, weight, outputs = collect_backward(gradient.contiguous(), *ctx.saved_tensors, *flags)
    return capsules, weight, None if ctx.constant_couplings else outputs, None, None


collect.register_autograd(_backward, setup_context=_keep)


def _couplings(
    block: _Block, seen: torch.Tensor, scratch: torch.Tensor, none_of_the_above: bool
) -> torch.Tensor:
    """The couplings [J, I, B] of a block from W v [J, I·K, B]; overwrites `scratch`."""
    return softmax(
        torch.mul(block.split(seen), block.capsules, out=block.split(scratch)).sum(2), none_of_the_above
    )


def apart(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """Return the largest ‖a - b‖ / ‖b‖ over pairs of a in `found` and b in `expected`; NaN if any is NaN."""
    pairs = zip(found, expected, strict=True)
    return float(torch.stack([(one - other).norm() / other.norm() for one, other in pairs]).max())


def softmax(logits: torch.Tensor, none_of_the_above: bool) -> torch.Tensor:
    """Couplings [J, ...] from logits [J, ...]; with one more logit, always 0, for none of the above."""
    if not none_of_the_above:
        return logits.softmax(0)
    return torch.cat([logits, torch.zeros_like(logits[:1])]).softmax(0)[:-1]


@dataclass(frozen=True)
class _Block:
    """A block of i input capsules, with methods that view a temporary in the block's shape."""

    range: slice  # the block's indices in I
    rows: slice  # and in I·K
    capsules: torch.Tensor  # [i, K, B]
    weight: torch.Tensor  # [J, i·K, D]

    def of(self, temporary: torch.Tensor) -> torch.Tensor:
        """View the temporary's part for this block as [J, i·K, B]."""
        return self.split(temporary).flatten(1, 2)

    def split(self, temporary: torch.Tensor) -> torch.Tensor:
        """View the temporary's part for this block as [J, i, K, B]."""
        shape = len(self.weight), *self.capsules.shape
        return temporary.flatten()[: len(self.weight) * self.capsules.numel()].view(shape)


def _blocks(capsules: torch.Tensor, weight: torch.Tensor) -> Iterator[_Block]:
    count, dim, _ = capsules.shape
    size = _block_size(capsules, weight)
    for start in range(0, count, size):
        stop = min(start + size, count)
        rows = slice(start * dim, stop * dim)
        yield _Block(slice(start, stop), rows, capsules[start:stop], weight[:, rows])


def _block_size(capsules: torch.Tensor, weight: torch.Tensor) -> int:
    """Return how many input capsules a block has: on a GPU all of them."""
    if capsules.device.type != "cpu":
        return len(capsules)
    return min(len(capsules), max(1, BLOCK_BYTES // max(1, capsules[0].nbytes * len(weight))))


def _temporaries(number: int, capsules: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Allocate buffers for [J, i·K, B] of a block, which all blocks reuse: new memory is slow at first."""
    size = len(weight) * _block_size(capsules, weight) * capsules[0].numel()
    return tuple(capsules.new_empty(size) for _ in range(number))
