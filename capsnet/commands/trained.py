"""A trained network, ready for use, from the checkpoint that a command names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from capsnet import checkpoint, datasets, execution
from capsnet.config import Config, Dataset, StoredDataset
from capsnet.execution import Execution
from capsnet.images import DataError, Images, Splits
from capsnet.models import build
from capsnet.network import Network
from capsnet.state import CheckpointError, State, config_of, from_best


@dataclass(frozen=True)
class Trained:
    """A network as a run left it, and what it was trained on; the images are read when first asked for."""

    config: Config  # its data set lies in the folder that the command names, if any
    network: Network  # in test mode, on the device of `execution`
    execution: Execution  # for this machine, not the one that trained; applied already
    epoch: int  # finished epochs
    path: Path  # the checkpoint's file
    step: int  # finished training steps of the epoch after them

    def test(self) -> Images:
        """The test images as a network takes them, on the CPU. Raises DataError."""
        return self._splits.test

    def train(self) -> Images:
        """The training images as augmentation takes them, without those held back, on the CPU.

        Raises DataError.
        """
        return self._splits.train

    @cached_property
    def _splits(self) -> Splits:
        return datasets.load(self.config.dataset, self.config.seed)


def load_trained(path: str, *, best: bool = False, data: str | None = None) -> Trained:
    """The network in a checkpoint, `path` being its file or the folder of the run, for use on this machine.

    `best`: with the weights that did best on the validation split; `data`: the folder to look for the data
    set in. Raises CheckpointError, or DataError where the data set lies in no folder.
    """
    file = checkpoint.locate(path)
    config, state = _read(file, best)
    config = config.model_copy(update={"dataset": placed(config.dataset, data)})
    # In the precision that it was trained in, with all the threads that this process may use.
    same = {"threads": None, "precision": state["execution"]["precision"]}
    how = execution.resolve(config.model_copy(update=same))
    execution.apply(how)
    network = build(config, datasets.shape(config.dataset))
    if difference := _difference(network.state_dict(), state["model"]):
        raise CheckpointError(
            f"{file} holds other weights than those of the network that it describes ({difference}): "
            "it was altered, or written by another version"
        )
    network.load_state_dict(state["model"])
    network.to(how.device).eval()
    return Trained(config, network, how, state["epoch"], file, state["step"])


def placed(dataset: Dataset, root: str | None) -> Dataset:
    """Return the data set with its folder replaced by `root`; unchanged where `root` is None."""
    if root is None:
        return dataset
    if not isinstance(dataset, StoredDataset):
        raise DataError(f"--data {root}: the data set {dataset.name} lies in no folder: leave it out")
    return dataset.model_copy(update={"root": root})


def _read(file: Path, best: bool) -> tuple[Config, State]:
    """Return the configuration and state in a file; `best`: the best weights are the state's weights."""
    state = checkpoint.load(file)
    try:
        if best:
            state = from_best(state) | {"epoch": state["best"]["epoch"]}
        return config_of(state), state
    except CheckpointError as error:  # which does not name the file, and a command may have several
        raise CheckpointError(f"{file}: {error}") from error


def _difference(expected: dict[str, torch.Tensor], weights: Any) -> str | None:
    """Return the first difference of a checkpoint's weights from a network's, or None."""
    if not isinstance(weights, dict):
        return "no dictionary"
    for name, tensor in expected.items():
        found = weights.get(name)
        if not isinstance(found, torch.Tensor):
            return f"no {name}"
        if found.shape != tensor.shape:
            return f"{name} is {_size(found)}, not {_size(tensor)}"
    return next((f"{name} belongs to none of its layers" for name in weights if name not in expected), None)


def _size(tensor: torch.Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "one number"
