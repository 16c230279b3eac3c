"""Gain of our own kernel of routing over PyTorch's operations: in C on a CPU, in Triton on a GPU.

    python bench/routing.py                                   # the paper's network, three iterations
    python bench/routing.py --precision tf32 --set batch_size=512 --set route_iters=5 --json

All iterations of routing, forward and backward, on capsules of random images; on a GPU as a CUDA graph. Both
ways are timed in turn. `apart` is ‖a - b‖ / ‖b‖ of what they give, the largest of outputs and gradients.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from measure import Measured, Parser, costs, described, machine, run, said, timed, whole
from roofline import Part, layer, recorded
from torch import nn
from variants import STEPS, Variant, mistake, noise, resolved

from capsnet import agreement, batches, datasets, kernel, models
from capsnet.agreement import RoutingKernel
from capsnet.capsule_network import CapsNet
from capsnet.capsules import ClassCapsules
from capsnet.config import CapsNetModel, DynamicRouting
from capsnet.execution import Device
from capsnet.native import NativeError

OPERATIONS = "PyTorch's operations"
KERNELS: dict[Device, str] = {"cpu": "kernel in C", "cuda": "kernel in Triton"}


def loaded(device: Device, classes: ClassCapsules, batch: int) -> RoutingKernel:
    """Load the kernel for a device, whether or not it is faster; ConfigError where none works."""
    try:
        if device == "cpu":
            return kernel.load()
        from capsnet import triton_kernel  # only builds of PyTorch for GPUs bring Triton

        found = triton_kernel.load(classes, batch, timed=False)
    except (NativeError, ImportError) as error:
        raise mistake(f"there is no {KERNELS[device]} here: {error}") from error
    assert found is not None, "it was not timed"
    return found


def by(part: Part, routing: RoutingKernel | None) -> Part:
    """Return the same part, computed by a kernel or, with None, by PyTorch's operations."""

    def step() -> None:
        with agreement.computed_by(routing):
            part.step()

    return replace(part, step=step)


def results(classes: nn.Module, capsules: torch.Tensor, routing: RoutingKernel | None) -> list[torch.Tensor]:
    """Return the outputs, and the gradients of the capsules and the weights."""
    capsules = capsules.detach().requires_grad_()
    with agreement.computed_by(routing):
        outputs = classes(capsules)
        return [outputs.detach(), *torch.autograd.grad(outputs.sum(), [capsules, *classes.parameters()])]


def main() -> None:
    parser = Parser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--precision", choices=["float32", "tf32"], default="float32")
    parser.add_argument("--rounds", type=whole(2), default=11, help="each measures both once")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in a run's YAML")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    settings, how = resolved(Variant("capsnet", given.precision, overrides=tuple(given.set)))
    way = settings.model.routing if isinstance(settings.model, CapsNetModel) else None
    if not isinstance(way, DynamicRouting) or settings.route_iters < 2:
        raise mistake("--set: routing by agreement in at least 2 iterations is measured")
    network = models.build(settings, datasets.shape(settings.dataset))
    assert isinstance(network, CapsNet)
    network.to(how.device).to(memory_format=how.torch_memory_format)
    classes = network.classes
    assert isinstance(classes, ClassCapsules), "routed by agreement"
    routing = loaded(how.device, classes, settings.batch_size)
    inputs = next(batches.batches(settings, noise(settings).to(how.device), how.device, start=(1, 0))).inputs
    with torch.no_grad():
        capsules = network.primary(F.relu(network.conv(inputs)))
    ways = {OPERATIONS: None, KERNELS[how.device]: routing}
    expected, found = (results(classes, capsules, way) for way in ways.values())
    apart = agreement.apart(found, expected)
    measured: dict[str, Measured] = {
        name: recorded(by(layer(name, how, classes, capsules), way)) for name, way in ways.items()
    }
    cost = costs(measured, given.rounds, STEPS[how.device])
    gain = cost[OPERATIONS].beside(cost[KERNELS[how.device]])
    facts = {**machine(how.device), "precision": given.precision, "rounds": given.rounds}
    if given.json:
        rows: dict[str, Any] = {name: described(each) for name, each in cost.items()}
        print(json.dumps({"machine": facts, "ways": rows, "times_as_fast": gain, "apart": apart}))
        return
    print(said(facts), f"{'':<24}{'ms':>10}{'quartiles':>20}", sep="\n")
    for name, each in cost.items():
        print(f"{name:<24}{timed(each)}")
    print(f"times as fast {gain:.2f}, apart {apart:.1e}")


if __name__ == "__main__":
    run(main)
