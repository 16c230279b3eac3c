"""How the arithmetic is carried out: everything besides the configuration that decides its last bits.

1 and 2 threads give different bits, so do channels_last and contiguous tensors. So this is resolved
once, stored in the checkpoint, and used again by every later attempt of the same run.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from capsnet.config import Config


@dataclass(frozen=True)
class Execution:
    """Where and how a run computes."""

    device: Literal["cpu", "cuda"]
    precision: Literal["float32", "bfloat16"]  # float32 is what it says, on CUDA too: no TensorFloat-32
    threads: int  # of the CPU
    memory_format: Literal["channels_last", "contiguous"]
    deterministic: bool  # on CUDA

    @property
    def torch_memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.memory_format == "channels_last" else torch.contiguous_format

    def autocast(self) -> torch.autocast:
        """Within it, convolutions and matrix products are computed in `precision`."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bfloat16")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def resolve(config: Config, stored: dict[str, Any] | None = None) -> Execution:
    """What `config` leaves open, decided for this machine; as `stored` in a checkpoint where there is one.

    Warns when the checkpoint's way cannot or shall not be followed: the run goes on, but no longer
    bit for bit as it would have without the interruption.
    """
    fresh = Execution(
        device="cuda" if config.use_cuda and torch.cuda.is_available() else "cpu",
        precision=config.precision,
        threads=config.threads or available_cpus(),
        memory_format="channels_last",
        deterministic=config.deterministic,
    )
    if stored is None:
        return fresh
    before = Execution(**stored)
    if before.device == fresh.device:
        fresh = replace(fresh, threads=config.threads or before.threads, memory_format=before.memory_format)
    if config.threads is None and fresh.threads > (cpus := available_cpus()):
        warnings.warn(
            f"the run goes on with the {fresh.threads} threads that it began with, on {cpus} CPUs, "
            f"which can be very slow: unless the last bits matter, set threads to {cpus}",
            stacklevel=2,
        )
    if fresh != before:
        changes = [
            f"{key} {old} -> {new}" for key, old in stored.items() if (new := getattr(fresh, key)) != old
        ]
        warnings.warn(f"the checkpoint was made otherwise ({', '.join(changes)})", stacklevel=2)
    return fresh


def available_cpus() -> int:
    """The number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def apply(execution: Execution) -> None:
    """Set up this process's PyTorch accordingly."""
    torch.set_num_threads(execution.threads)
    if execution.device == "cuda":
        if execution.deterministic:
            # cuBLAS reads it when it is first used; without it PyTorch refuses to multiply.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # By PyTorch's default convolutions round their inputs to TensorFloat-32's 10 bits.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.use_deterministic_algorithms(execution.deterministic)
        torch.backends.cudnn.benchmark = not execution.deterministic
        torch.backends.cudnn.deterministic = execution.deterministic
