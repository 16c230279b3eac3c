"""The complete state of a run, as a dictionary of plain values and CPU tensors:

format      number of this layout
images      how many there are to train on; absent in files of before it was noted
config      the configuration, as YAML would hold it
execution   how it was computed (capsnet.execution)
versions    of Python, PyTorch, NumPy and this package
epoch       finished epochs
step        finished training steps of the epoch after them
seconds     spent on that epoch
sums        float64 [step, 4], what those steps measured (capsnet.objective)
model       weights
optimizer   its state; None in a file that keeps the weights of one epoch
best        None, or the weights that did best on the validation split: {"epoch", "score", "model"}
history     one dictionary an epoch
run         the identity of the run, of one in the runner's queue
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from capsnet.config import Config, MultiMNIST
from capsnet.yamltext import flat

State = dict[str, Any]

FORMAT = 1
KEYS = {"format", "config", "execution", "versions", "epoch", "step", "seconds", "sums"}
KEYS |= {"model", "optimizer", "best", "history"}

# Keys whose values must be those of the time when the checkpoint was written. All else may change from one
# attempt to the next: the number of epochs, the learning rate, the files' folders, the device.
FIXED = (
    "seed",
    "batch_size",
    "route_iters",
    "dataset.name",
    "dataset.size",
    "dataset.pad",
    "dataset.crop",
    "dataset.resize",
    "dataset.standardise",
    "dataset.channels",
    "dataset.classes",
    "dataset.test_seed",
    "dataset.validation",
    "model",
    "loss.name",
    "loss.with_reconstruction",
    "optim.name",
)


class TrainingError(Exception):
    """Error in training that cannot be repaired, as a loss that is not a number; one line."""


class CheckpointError(Exception):
    """Error where a checkpoint cannot be used; one line names the file or the key, and says what to do."""


def checked(state: Any, path: Path) -> State:
    """Return `state`, read from `path`, if this version can use it as a state; else CheckpointError."""
    if not isinstance(state, dict) or not isinstance(state.get("format"), int):
        raise CheckpointError(f"{path} holds no state of a run, perhaps weights only: written elsewhere")
    if state["format"] > FORMAT:
        raise CheckpointError(
            f"{path} was written by a newer version (format {state['format']}, this one reads {FORMAT}): "
            "update this program"
        )
    if missing := sorted(KEYS - state.keys()):
        raise CheckpointError(f"{path} lacks {', '.join(missing)}: it was not written by this program")
    return state


def require_same_run(state: State, config: Config) -> None:
    """Raise CheckpointError unless training can go on from `state` under `config`, naming what differs."""
    if state["optimizer"] is None:
        raise CheckpointError("the checkpoint holds the weights of one epoch only: it cannot be trained on")
    stored, wanted = (flat(each.model_dump(mode="json")) for each in (config_of(state), config))
    shifted_in_test = ("dataset.shift",) if isinstance(config.dataset, MultiMNIST) else ()
    for key in sorted(stored.keys() | wanted.keys()):
        fixed = any(key == name or key.startswith(f"{name}.") for name in (*FIXED, *shifted_in_test))
        if fixed and stored.get(key) != wanted.get(key):
            raise CheckpointError(
                f"the checkpoint is of another run: {key} was {stored.get(key)!r} and is now "
                f"{wanted.get(key)!r}; set it back, or start anew without the checkpoint"
            )


def require_same_images(state: State, count: int) -> None:
    """Raise CheckpointError unless there are as many images to train on as `state` was trained on.

    The order of an epoch, and so where its unfinished one goes on, follows from how many there are.
    """
    before = state.get("images", count)
    if before != count:
        raise CheckpointError(
            f"the checkpoint was trained on {before} images, and now there are {count}: put back the images "
            "that it began with, or start anew without the checkpoint"
        )


def config_of(state: State) -> Config:
    """Return the configuration in a state; CheckpointError where this version does not know its keys."""
    try:
        return Config.model_validate(state["config"])
    except ValueError as error:
        cause = str(error).splitlines()[0]
        raise CheckpointError(f"the checkpoint's configuration is of another version: {cause}") from error


def from_best(state: State) -> State:
    """Return the state that goes on with the weights that did best on the validation split.

    The count of epochs and the history stay, as those epochs were trained. The optimizer's moments belong
    to other weights and begin anew, and so does an unfinished epoch.
    """
    if state["best"] is None:
        raise CheckpointError("the checkpoint has no best weights: they need dataset.validation above 0")
    return state | {
        "step": 0,
        "seconds": 0.0,
        "sums": state["sums"][:0],
        "model": state["best"]["model"],
        "optimizer": state["optimizer"] | {"state": {}},
    }


def is_kept(state: State) -> bool:
    """Return whether `checkpoint.keep_every` asks to keep the weights of this state."""
    every = state["config"]["checkpoint"]["keep_every"]
    return bool(every) and state["step"] == 0 and state["epoch"] > 0 and state["epoch"] % every == 0
