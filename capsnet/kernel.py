"""Routing by agreement in C: what capsnet.agreement computes on a CPU in float32, in a quarter to a
third of the time.

Letters of shapes: I input capsules, K their dimension, J output capsules, D their dimension, B batch,
P the batch filled up with zeros to whole strips, S images of a strip. See agreement.c.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F

from capsnet import native

SOURCE = Path(__file__).with_name("agreement.c")

# Of the gradients of the predictions of one input capsule, as far as the second cache of a core holds them.
ROOM = 2**18  # numbers: 1 MiB
# Fewer products are not worth another thread.
PRODUCTS_OF_A_THREAD = 2**20


class _Task(ctypes.Structure):
    """Arguments of the C function `run`: the struct of the same fields in agreement.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("capsules", "weight", "outputs", "gradient")),
        *((name, ctypes.c_void_p) for name in ("sums", "of_capsules", "of_weight", "room")),
        *((name, ctypes.c_long) for name in ("inputs", "dim", "classes", "class_dim", "strips", "slabs")),
        ("chunk", ctypes.c_long),
        *((name, ctypes.c_int) for name in ("none_of_the_above", "constant_couplings")),
    )


class Kernel:
    """`collect` and `collect_backward` of capsnet.agreement, for tensors that it `serves`."""

    forms_predictions = True

    def __init__(self, library: ctypes.CDLL) -> None:
        self._run = library.run
        self._run.argtypes = [ctypes.POINTER(_Task)]
        self._run.restype = None
        self._strip = ctypes.c_int.in_dll(library, "images_of_a_strip").value

    def serves(self, capsules: torch.Tensor) -> bool:
        return capsules.device.type == "cpu" and capsules.dtype == torch.float32

    def collect(
        self,
        capsules: torch.Tensor,
        weight: torch.Tensor,
        outputs: torch.Tensor,
        none_of_the_above: bool,
        constant_couplings: bool,
    ) -> torch.Tensor:
        """Σᵢ cᵢ ûᵢ [J, D, B] of capsules [I, K, B], weight [J, I·K, D], outputs [J, D, B]."""
        flags = none_of_the_above, constant_couplings
        collected, _, _ = self._computed(capsules, weight, outputs, None, flags)
        return collected

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
        flags = none_of_the_above, constant_couplings
        of_outputs, of_capsules, of_weight = self._computed(capsules, weight, outputs, gradient, flags)
        return of_capsules, of_weight, of_outputs

    def _computed(
        self,
        capsules: torch.Tensor,
        weight: torch.Tensor,
        outputs: torch.Tensor,
        gradient: torch.Tensor | None,
        flags: tuple[bool, bool],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        (inputs, dim, batch), (classes, _, class_dim) = capsules.shape, weight.shape
        capsules, weight = self._filled(capsules).contiguous(), weight.contiguous()
        strips = capsules.shape[2] // self._strip
        slabs = _slabs(inputs, weight.numel() * capsules.shape[2])
        size = classes * class_dim * self._strip
        chunk = max(1, min(strips, ROOM // max(1, size)))
        room = chunk * size + 2 * classes * self._strip + self._strip**2
        sums = capsules.new_empty(slabs, strips, classes, class_dim, self._strip)
        of_capsules, of_weight = torch.empty_like(capsules), torch.empty_like(weight)
        tensors = (
            capsules,
            weight,
            self._in_strips(outputs),
            None if gradient is None else self._in_strips(gradient),
            sums,
            of_capsules,
            of_weight,
            capsules.new_empty(slabs, room),
        )
        pointers = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
        numbers = inputs, dim, classes, class_dim, strips, slabs, chunk
        self._run(_Task(*pointers, *numbers, *flags))
        summed = sums.sum(0).permute(1, 2, 0, 3).flatten(2)
        return summed[..., :batch].contiguous(), of_capsules[..., :batch].contiguous(), of_weight

    def _filled(self, tensor: torch.Tensor) -> torch.Tensor:
        """Pad [..., B] with zeros to [..., P]; images of zeros change no sum."""
        missing = -tensor.shape[-1] % self._strip
        return F.pad(tensor, (0, missing)) if missing else tensor

    def _in_strips(self, tensor: torch.Tensor) -> torch.Tensor:
        """Pad [J, D, B] and cut it into strips [P / S, J, D, S]."""
        return self._filled(tensor).unflatten(2, (-1, self._strip)).permute(2, 0, 1, 3).contiguous()


@cache
def load() -> Kernel:
    """The kernel, compiled where this machine has not compiled it before; raises NativeError."""
    return Kernel(native.library(SOURCE))


def _slabs(inputs: int, products: int) -> int:
    """Return the number of parts of the input capsules: one for each thread, if all have enough to do."""
    return max(1, min(torch.get_num_threads(), inputs, products // PRODUCTS_OF_A_THREAD))
