"""Routing in Triton in its interpreter, which computes on a CPU: for tests on machines without a GPU.

    TRITON_INTERPRET=1 python -m triton_agreeing

Prints as JSON how far its results are from those in float64, and the error for each faulty kernel.
A process of its own, since Triton looks at that variable when it is imported.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import torch
from agreeing import FLAGS, formed, layer, with_gradients

from capsnet import agreement, triton_kernel
from capsnet.agreement import collect
from capsnet.capsules import ClassCapsules
from capsnet.native import NativeError
from capsnet.routing import dynamic
from capsnet.triton_kernel import TritonKernel

# Input capsules, their dimension, classes, theirs, batch: several tiles of each, and parts of one.
SIZES = [(36, 8, 3, 16, 40), (9, 3, 5, 7, 5), (3, 70, 2, 33, 20), (1, 1, 1, 1, 1)]


class Interpreted(TritonKernel):
    def serves(self, capsules: torch.Tensor) -> bool:
        return capsules.dtype == torch.float32


class Wrong(Interpreted):
    def collect(self, *arguments: Any, **_: Any) -> torch.Tensor:
        return super().collect(*arguments) * 1.01


class Undefined(Interpreted):
    def collect_backward(self, gradient: Any, *rest: Any, **_: Any) -> Any:
        of_capsules, of_weight, of_outputs = super().collect_backward(gradient, *rest)
        return of_capsules, of_weight * torch.nan, of_outputs


class Failing(Interpreted):
    def collect_backward(self, gradient: Any, *rest: Any, **_: Any) -> Any:
        raise RuntimeError("out of resource: shared memory")


def computed(tensors: list[torch.Tensor], flags: tuple[bool, bool]) -> tuple[torch.Tensor, ...]:
    single = [tensor.detach().float().requires_grad_() for tensor in tensors]
    with agreement.computed_by(Interpreted()):
        return with_gradients(collect, single, flags)


def apart(sizes: tuple[int, ...], flags: tuple[bool, bool]) -> list[float]:
    """Return ‖a - b‖ / ‖b‖ of the collected sums and of their gradients; ‖b‖ counts as √n at least."""
    inputs, dim, classes, class_dim, batch = sizes
    tensors = layer(inputs, dim, classes, class_dim, batch)
    found, expected = computed(tensors, flags), with_gradients(formed, tensors, flags)
    return [
        float((one.detach() - other.detach()).norm() / other.detach().norm().clamp(min=other.numel() ** 0.5))
        for one, other in zip(found, expected, strict=True)
    ]


def spoilt() -> dict[str, list[int]]:
    """Set a capsule of image 17 to NaN; return, for each result, the images whose values are not finite."""
    tensors = layer(36, 8, 3, 16, 40)
    with torch.no_grad():
        tensors[0][2, 1, 17] = torch.nan
    collected, of_capsules, _, of_outputs = computed(tensors, (False, False))
    named = {"collected": collected, "of_capsules": of_capsules, "of_outputs": of_outputs}
    return {
        name: torch.nonzero(~tensor.isfinite().flatten(0, 1).all(0)).flatten().tolist()
        for name, tensor in named.items()
    }


def verdict(kernel: type[TritonKernel]) -> str | None:
    """Return the error of `triton_kernel.load`'s trial of a kernel, or None if it passes."""
    route = partial(dynamic, iterations=3, none_of_the_above=True)
    layer = ClassCapsules(36, 8, 3, 16, bias=True, route=route)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_kernel, "TritonKernel", kernel)
        try:
            triton_kernel.load(layer, batch=40, timed=False)
        except NativeError as error:
            return str(error)
    return None


def main() -> None:
    errors = [
        {"sizes": sizes, "flags": flags, "apart": apart(sizes, flags)} for sizes in SIZES for flags in FLAGS
    ]
    verdicts = {kernel.__name__: verdict(kernel) for kernel in (Interpreted, Wrong, Undefined, Failing)}
    print(json.dumps({"errors": errors, "spoilt": spoilt(), "verdicts": verdicts}))


if __name__ == "__main__":
    main()
