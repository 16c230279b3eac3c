"""The complete state of a moment of training, on its way from the device to the CPU.

On a GPU training does not wait for it. The state is cloned there at once, in the order of all that is
computed, which takes the time of a few kernels; a stream of its own then copies the clones into page-locked
memory, from which they are saved when they have arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from capsnet.state import State, TrainingError, is_kept


class Snapshot:
    """A copy of the state at the time when it was made; shares no memory with the state in training."""

    def __init__(self, state: State, device: str) -> None:
        """`state`: as training has it, tensors on `device`; `best` is on the CPU and never changes."""
        self.epoch: int = state["epoch"]  # finished epochs
        self.step: int = state["step"]  # finished steps of the epoch after them
        self.is_kept = is_kept(state)
        changing = {key: value for key, value in state.items() if key != "best"}
        copied, self._wait = _sent(changing) if device == "cuda" else (on_cpu(changing), _nothing)
        self._state = copied | {"best": state["best"]}

    def state(self) -> State:
        """Wait for the state to arrive, and return it; may be called in any thread.

        Raises TrainingError rather than hand out a state in which anything is not finite.
        """
        self._wait()
        require_finite_losses(self._state["sums"], self.epoch)
        # A gradient that overflows spoils the weights one step before the loss shows it.
        weights = tensors([self._state["model"], self._state["optimizer"]])
        if not all(tensor.isfinite().all() for tensor in weights):
            epoch, step = self._last_step()
            raise TrainingError(f"weights are not finite at epoch {epoch}, step {step}")
        return self._state

    def _last_step(self) -> tuple[int, int]:
        """Return the last step's epoch and its number in the epoch, both from 1."""
        if self.step:
            return self.epoch + 1, self.step
        return self.epoch, -(-self._state["images"] // self._state["config"]["batch_size"])


def require_finite_losses(sums: torch.Tensor, epoch: int) -> None:
    """Raise TrainingError if a step of the epoch after `epoch`, a row of `sums` [S, 4], was not finite."""
    if not sums.isfinite().all():
        losses = sums[:, 0].cpu()
        first = int(losses.isfinite().logical_not().nonzero()[0])
        raise TrainingError(f"loss is {losses[first]:g} at epoch {epoch + 1}, step {first + 1}")


def on_cpu(value: Any) -> Any:
    """Copy nested dictionaries and lists, with every tensor as a new one on the CPU."""
    return _mapped(lambda tensor: tensor.detach().to("cpu", copy=True), value)


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors in nested dictionaries and lists."""
    found: list[torch.Tensor] = []
    _mapped(found.append, value)
    return found


def _sent(value: Any) -> tuple[Any, Callable[[], None]]:
    """Start a copy to the CPU; return it, and a function that returns when the copy is complete."""
    clones = _mapped(lambda tensor: tensor.detach().clone(), value)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        copies = _mapped(_locked_copy, clones)
    arrived = stream.record_event()

    def wait() -> None:
        arrived.synchronize()
        clones.clear()  # whose memory must not be used again before

    return copies, wait


def _locked_copy(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def _nothing() -> None:
    """Return at once, where there is no copy to wait for."""


def _mapped(function: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """Return nested dictionaries and lists with each tensor replaced by the function's result for it."""
    match value:
        case torch.Tensor():
            return function(value)
        case dict():
            return {key: _mapped(function, entry) for key, entry in value.items()}
        case list():
            return [_mapped(function, entry) for entry in value]
    return value
