"""State that changes in training: the weights, the optimizer, the position, and the measurements.

Letters of shapes: S steps of an epoch.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import torch

import capsnet
from capsnet import objective, optimizers, randomness, stopping
from capsnet.augmentation import Batch
from capsnet.config import Config
from capsnet.execution import Execution
from capsnet.group import ALONE, Group, Part
from capsnet.images import ImageShape
from capsnet.layers import BatchNorm, Dropout
from capsnet.models import build
from capsnet.objective import MEASURES
from capsnet.schedules import learning_rate
from capsnet.snapshot import Snapshot, on_cpu, require_finite_losses
from capsnet.state import FORMAT, State
from capsnet.stepping import Stepper


class Learner:
    """A network in training: `step` trains on a batch, `snapshot` returns the complete state."""

    def __init__(
        self,
        config: Config,
        execution: Execution,
        shape: ImageShape,
        images: int,
        state: State | None,
        group: Group = ALONE,
    ) -> None:
        self.config = config
        self.group = group
        self.images_per_epoch = images
        self.steps_per_epoch = -(-images // config.batch_size)
        self.network = build(config, shape).to(execution.device)
        self.network.to(memory_format=execution.torch_memory_format)
        self.optimizer = optimizers.optimizer(config.optim, self.network.parameters(), execution.device)
        begun = state is not None
        self._stepper = Stepper(self.network, self.optimizer, config, execution, images, group, begun)
        # One row a step and no running sum: the host need not look to know which step was the first bad one.
        rows = self.steps_per_epoch, len(MEASURES)
        self.sums = torch.zeros(rows, dtype=torch.float64, device=execution.device)
        self._norms = [module for module in self.network.modules() if isinstance(module, BatchNorm)]
        self._dropouts = [module for module in self.network.modules() if isinstance(module, Dropout)]
        self.epoch = 0  # finished epochs
        self.steps = 0  # finished steps of the epoch after them
        self.seconds = 0.0  # spent on it
        self.best: dict[str, Any] | None = None
        self.history: list[dict[str, float]] = []
        if state is not None:
            self._restore(state)

    def _restore(self, state: State) -> None:
        self.network.load_state_dict(state["model"])
        optimizers.restore(self.optimizer, on_cpu(state["optimizer"]))  # it would train on the given tensors
        self.epoch, self.steps, self.seconds = state["epoch"], state["step"], state["seconds"]
        self.sums[: self.steps] = state["sums"]
        self.best = state["best"]
        self.history = [dict(row) for row in state["history"]]

    @property
    def execution(self) -> Execution:
        """Execution of the steps, as far as it is known by now."""
        return self._stepper.execution

    @property
    def is_over(self) -> bool:
        """Whether the run has no epoch left to train."""
        allowed = self.config.stop_after_epochs_without_gain
        return stopping.is_over(self.history, self.config.num_epochs, allowed)

    @property
    def images_seen(self) -> int:
        """Number of images trained on in the unfinished epoch; the last batch of an epoch may be smaller."""
        return min(self.steps * self.config.batch_size, self.images_per_epoch)

    @property
    def last_learning_rate(self) -> float:
        """Learning rate of the last step."""
        return self._learning_rate(self.epoch * self.steps_per_epoch + self.steps - 1)

    def _learning_rate(self, step: int) -> float:
        return learning_rate(self.config.optim, step, self.steps_per_epoch, self.config.num_epochs)

    def step(self, batch: Batch) -> None:
        """Train on this process's part of a batch; the losses and hits of all parts stay on the device."""
        part = self.group.part(min(self.config.batch_size, self.images_per_epoch - self.images_seen))
        done = self.epoch * self.steps_per_epoch + self.steps
        optimizers.set_rate(self.optimizer, self._learning_rate(done))
        self.network.train()
        self._prepare(part)
        margin = objective.rising_margin(self.config.loss, done / self.steps_per_epoch)
        self.sums[self.steps] = self._stepper.step(batch, margin, part)
        self.steps += 1

    def wait(self) -> None:
        """Wait until the steps are computed: a GPU may be behind."""
        if self.execution.device == "cuda":
            torch.cuda.synchronize()

    def _prepare(self, part: Part) -> None:
        """Set the part of the batch in the layers that depend on all of the batch: batch norm and dropout.

        Dropout gets generators that are seeded by the step, so that it resumes bit for bit.
        """
        for norm in self._norms:
            norm.part = part
        for number, layer in enumerate(self._dropouts):
            layer.part = part
            layer.generator = randomness.generator(
                self.config.seed, "dropout", self.epoch + 1, self.steps, number
            )

    def total(self) -> torch.Tensor:
        """The sums over the epoch's steps so far, [4] on the CPU; TrainingError if one was not finite."""
        total = self.sums[: self.steps].sum(0).cpu()
        if not total.isfinite().all():
            require_finite_losses(self.sums[: self.steps], self.epoch)
        return total

    def finish_epoch(self, row: dict[str, float]) -> None:
        """Close the epoch with the row of its metrics; the validation split's accuracy decides the best."""
        self.epoch += 1
        self.steps = 0
        self.seconds = 0.0
        self.history.append(row)
        score = row.get("validation/accuracy")
        if not self.group.leads or score is None:  # only rank 0 saves them
            return
        if self.best is None or score > self.best["score"]:
            self.best = {"epoch": self.epoch, "score": score, "model": on_cpu(self.network.state_dict())}

    def snapshot(self) -> Snapshot:
        """Return the complete state at this moment."""
        state = {
            "format": FORMAT,
            "config": self.config.model_dump(mode="json"),
            "execution": self.execution.as_dict(),
            "versions": versions(),
            "images": self.images_per_epoch,
            "epoch": self.epoch,
            "step": self.steps,
            "seconds": self.seconds,
            "sums": self.sums[: self.steps],
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "history": [dict(row) for row in self.history],
        }
        return Snapshot(state, self.execution.device)


def versions() -> dict[str, str]:
    """Return the versions that, besides the state, decide the bits of the results."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # its own class is none that a checkpoint may hold
        "numpy": np.__version__,
        "capsnet": capsnet.__version__,
    }
