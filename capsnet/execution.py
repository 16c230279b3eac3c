"""Execution of the arithmetic: everything besides the configuration that decides its last bits.

1 and 2 threads give different bits, so do channels_last and contiguous tensors. So this is resolved
once, stored in the checkpoint, and used again by every later attempt of the same run.
"""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from capsnet.caches import secure_compilers
from capsnet.config import CapsNetModel, Config, DynamicRouting, MatrixCapsNetModel
from capsnet.cpus import available_cpus
from capsnet.group import ALONE, Group

log = logging.getLogger(__name__)

Device = Literal["cpu", "cuda"]
Precision = Literal["float32", "tf32", "bfloat16"]
NAMES: dict[Device, str] = {"cpu": "this CPU", "cuda": "this GPU"}


@dataclass(frozen=True)
class Execution:
    """Device, precision and other settings by which a run computes."""

    device: Device
    precision: Precision  # float32 is never rounded, also on CUDA; tf32, TensorFloat-32, is on CUDA only
    threads: int  # of the CPU
    memory_format: Literal["channels_last", "contiguous"]
    deterministic: bool  # on CUDA
    # Checkpoints of version 0.1 do not say:
    compile: bool = False
    cuda_graph: bool = False
    native_routing: bool = False  # in compiled steps, by capsnet.kernel or capsnet.triton_kernel
    workers: int = 1  # processes that share each batch

    @property
    def torch_memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.memory_format == "channels_last" else torch.contiguous_format

    def autocast(self) -> torch.autocast:
        """Return a context in which convolutions and matrix products are computed in `precision`."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bfloat16")

    @property
    def summary(self) -> str:
        """Description in a few words, for people."""
        where = "the GPU" if self.device == "cuda" else "the CPU"
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}" if self.device == "cpu" else ""
        steps = "steps compiled" if self.compile else "steps not compiled"
        recorded = ", recorded as a CUDA graph" if self.cuda_graph else ""
        return f"{self.precision} on {where}{threads}, {steps}{recorded}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def resolve(
    config: Config,
    stored: dict[str, Any] | None = None,
    stored_config: Config | None = None,
    group: Group = ALONE,
) -> Execution:
    """Decide what `config` leaves open, for this machine; as `stored` in a checkpoint where there is one.

    The outcome of a setting that the checkpoint's `stored_config` has too is kept: neither the choice of
    `auto` nor a fallback changes when a run goes on, unless this machine cannot do it. Warns when the
    checkpoint's execution cannot or shall not be repeated: the run goes on, but no longer bit for bit as it
    would have without the interruption.
    """
    device = device_of(config)
    before = Execution(**stored) if stored else None
    followed = before if before is not None and before.device == device else None
    fresh = Execution(
        device=device,
        precision=_precision(config, device, followed, stored_config),
        threads=config.threads or max(1, available_cpus() // group.neighbours),
        memory_format="channels_last",
        deterministic=config.deterministic,
        compile=_compile(config, followed, stored_config),
        cuda_graph=_cuda_graph(config, device),
        native_routing=_native_routing(config, followed, stored_config),
        workers=group.size,
    )
    if before is None:
        return fresh
    if followed is not None:
        fresh = replace(fresh, memory_format=followed.memory_format)
        if followed.workers == group.size and config.threads is None:
            fresh = replace(fresh, threads=followed.threads)
    if config.threads is None and fresh.threads > (cpus := available_cpus()):
        warnings.warn(
            f"the run goes on with the {fresh.threads} threads that it began with, on {cpus} CPUs, "
            f"which can be very slow: unless the last bits matter, set threads to {cpus}",
            stacklevel=2,
        )
    if fresh != before:
        changes = [
            f"{key} {old} -> {new}"
            for key, old in before.as_dict().items()
            if (new := getattr(fresh, key)) != old
        ]
        warnings.warn(
            f"the checkpoint was made otherwise ({', '.join(changes)}): the last bits may differ",
            stacklevel=2,
        )
    return fresh


def device_of(config: Config) -> Device:
    """Return the device on which a run computes on this machine."""
    return "cuda" if config.use_cuda and torch.cuda.is_available() else "cpu"


def _precision(
    config: Config, device: Device, before: Execution | None, stored_config: Config | None
) -> Precision:
    wish = config.precision
    if before is not None and stored_config is not None and wish == stored_config.precision:
        wish = before.precision
    if wish == "auto":
        picked, reason = _fastest(config, device)
        log.info("precision: auto is %s here: %s", picked, reason)
        return picked
    if (wish == "bfloat16" and not can_bfloat16(device)) or (wish == "tf32" and not can_tf32(device)):
        warnings.warn(
            f"precision: {NAMES[device]} has no {wish} that is worth using; it is float32", stacklevel=3
        )
        return "float32"
    return wish


def _compile(config: Config, before: Execution | None, stored_config: Config | None) -> bool:
    if before is not None and stored_config is not None and config.compile == stored_config.compile:
        return before.compile
    return config.compile


def _native_routing(config: Config, before: Execution | None, stored_config: Config | None) -> bool:
    if before is not None and stored_config is not None and config.compile == stored_config.compile:
        return before.native_routing
    agrees = isinstance(config.model, CapsNetModel) and isinstance(config.model.routing, DynamicRouting)
    return config.compile and agrees and config.route_iters > 1


def _fastest(config: Config, device: Device) -> tuple[Precision, str]:
    """Return the fastest precision that keeps accuracy, by docs/performance.md, and the reason."""
    if isinstance(config.model, MatrixCapsNetModel):
        return "float32", "matrix capsules gain nothing by less"
    if not has_fast_bfloat16(device):
        return "float32", f"{NAMES[device]} is not known to be faster in bfloat16"
    return "bfloat16", f"{NAMES[device]} has instructions for it"


def _cuda_graph(config: Config, device: Device) -> bool:
    """Return whether steps are recorded: on CUDA, where the configuration asks for it."""
    if not config.cuda_graph or device != "cuda":
        return False
    if config.deterministic:
        warnings.warn("cuda_graph: not with deterministic: true, where every step is launched", stacklevel=3)
        return False
    return True


def can_tf32(device: Device) -> bool:
    """Return whether float32 factors can be rounded to TensorFloat-32: GPUs from compute capability 8.0."""
    return device == "cuda" and torch.cuda.get_device_capability()[0] >= 8


def can_bfloat16(device: Device) -> bool:
    """Return whether the device has bfloat16 that is not emulated number by number."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def has_fast_bfloat16(device: Device) -> bool:
    """Return whether there are bfloat16 instructions; without them a CPU is slower in it than in float32."""
    if device == "cuda" or not can_bfloat16(device):
        return can_bfloat16(device)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def apply(execution: Execution) -> None:
    """Set up this process's PyTorch accordingly."""
    torch.set_num_threads(execution.threads)
    if execution.compile:
        with suppress(OSError):  # capsnet.stepping tries again, and then does not compile
            secure_compilers()
    if execution.device == "cuda":
        # Without this variable PyTorch refuses deterministic products; PyTorch reads it once, at the first
        # product of the process, which may be that of an earlier run without `deterministic`.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # By PyTorch's default convolutions round their inputs to TensorFloat-32's 10 bits, products do not.
        torch.backends.cudnn.allow_tf32 = execution.precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = execution.precision == "tf32"
        torch.use_deterministic_algorithms(execution.deterministic)
        torch.backends.cudnn.benchmark = not execution.deterministic
        torch.backends.cudnn.deterministic = execution.deterministic
