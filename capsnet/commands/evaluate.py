"""`evaluate`: measure saved networks, one alone or several as an ensemble, on a test set.

An ensemble adds the lengths that its networks give to the classes.

Letters of shapes: N images, L labels of an image, J classes.
"""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import torch

from capsnet import datasets, evaluation, objective
from capsnet.commands.run_numbers import require_checkpoints
from capsnet.commands.tested_images import require_same_images, tested_on
from capsnet.commands.trained import Trained, load_trained
from capsnet.config import Dataset
from capsnet.images import Images
from capsnet.objective import CLASS_LOSSES, MEASURES
from capsnet.printable import say
from capsnet.streams import terminal_width

LABEL_WIDTH = 4  # characters before a row of the matrix
MATRIX_CLASSES = 30  # at most: the counts of more fit on no line of a terminal


def run(arguments: Namespace) -> int:
    """Print the figures of the networks in one or more checkpoints; return the exit code."""
    named, data = arguments.dataset, arguments.data
    require_checkpoints(arguments.checkpoint, "python -m runner evaluate RUN")
    # Where another data set is asked for, --data is the folder of that one.
    networks = [
        load_trained(path, best=arguments.best, data=None if named else data) for path in arguments.checkpoint
    ]
    sets = [tested_on(trained, named, data) for trained in networks]
    require_same_images(networks, sets)
    test = _test_images(sets[0])
    found: dict[str, Any] = {"dataset": sets[0].name}
    origins = list(map(_origin, arguments.checkpoint, networks))
    if len(networks) == 1:
        found = origins[0] | found | figures(networks[0], test)
    else:
        found |= ensemble(networks, test)
        found["members"] = [origin | member for origin, member in zip(origins, found["members"], strict=True)]
    if arguments.json:
        say(json.dumps(found, indent=2))
    else:
        say(_table(found, datasets.shape(sets[0]).labels, terminal_width()))
    return 0


def _test_images(dataset: Dataset) -> Images:
    everything = dataset.model_copy(update={"validation": 0})  # of the training images, which are not wanted
    return datasets.load(everything, seed=0).test


def figures(trained: Trained, test: Images) -> dict[str, Any]:
    """The test metrics of a network, and the confusion matrix: rows true, columns predicted."""
    config = trained.config
    classes = datasets.shape(config.dataset).classes
    sums = torch.zeros(len(MEASURES), dtype=torch.float64)
    predictions = []
    for _, measured in evaluation.evaluate(trained.network, test, config, trained.execution):
        sums += measured.sums().cpu()
        predictions.append(measured.predictions)
    means = objective.means(sums, len(test), config)
    confusion = evaluation.confusion(test.labels.cpu(), torch.cat(predictions).cpu(), classes)
    return {
        "images": len(test),
        **means,
        "error": 1 - means["accuracy"],
        "confusion": confusion.tolist(),
    }


def ensemble(networks: Sequence[Trained], test: Images) -> dict[str, Any]:
    """Return the figures of an ensemble, which adds the lengths of its networks, and each one's accuracy."""
    lengths = [
        evaluation.lengths(trained.network, test, trained.config, trained.execution) for trained in networks
    ]
    together = torch.stack(lengths).sum(0)
    predictions = objective.predicted(together, test.labels)
    confusion = evaluation.confusion(test.labels, predictions, together.shape[1])
    return {
        "images": len(test),
        **_accuracy(together, test.labels),
        "members": [_accuracy(each, test.labels) for each in lengths],
        "confusion": confusion.tolist(),
    }


def _accuracy(lengths: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Return accuracy and error of lengths [N, J] for labels [N] or [N, L]: of L labels all must be right."""
    correct = (objective.predicted(lengths, labels) == labels).view(len(labels), -1).all(1)
    accuracy = correct.double().mean().item()
    return {"accuracy": accuracy, "error": 1 - accuracy}


def _origin(checkpoint: str, trained: Trained) -> dict[str, Any]:
    return {"checkpoint": checkpoint, "epoch": trained.epoch, "step": trained.step}


def _after(found: dict[str, Any]) -> str:
    """Name the checkpoint, and after how many epochs and steps its weights were saved."""
    steps = f" and {found['step']} steps" if found["step"] else ""
    epochs = "1 epoch" if found["epoch"] == 1 else f"{found['epoch']} epochs"
    return f"{found['checkpoint']}, after {epochs}{steps}"


def _table(found: dict[str, Any], labels: int, width: int | None = None) -> str:
    """Return the figures as text for people; `width`: of the terminal, in cells."""
    members = found.get("members")
    whose = f"{len(members)} networks, the lengths they give added" if members else _after(found)
    lines = [
        f"{whose}, on {found['images']} test images of {found['dataset']}",
        f"  accuracy             {found['accuracy']:.2%}",
        f"  error                {found['error']:.2%}",
        *(_each(members) if members else _losses(found)),
        *_matrix(found["confusion"], labels, math.inf if width is None else width),
    ]
    return "\n".join(lines)


def _each(members: list[dict[str, Any]]) -> list[str]:
    lines = [f"  accuracy             {member['accuracy']:.2%}  {_after(member)}" for member in members]
    return ["each by itself", *lines]


def _losses(found: dict[str, Any]) -> list[str]:
    class_loss = next(name for name in CLASS_LOSSES.values() if name in found)
    lines = [f"  {class_loss.replace('_', ' '):<20} {found[class_loss]:.5f}"]
    if "reconstruction_loss" in found:
        lines.append(f"  reconstruction loss  {found['reconstruction_loss']:.3f}  (summed squared error)")
    return lines


def _matrix(confusion: list[list[int]], labels: int, terminal: float = math.inf) -> list[str]:
    """Return the lines of the confusion matrix; `terminal`: its width in cells.

    Where an image shows several classes each of them counts, so that the rows sum to more than the images.
    A recognised class of an image counts on the diagonal, a mistake in the row of a class that was missed.
    """
    width = max(len(str(count)) for row in confusion for count in row) + 2
    if len(confusion) > MATRIX_CLASSES or LABEL_WIDTH + width * len(confusion) > terminal:
        return [f"  confusion            of {len(confusion)} classes is too wide to print; --json has it"]
    classes = range(len(confusion))
    several = f"; each of the {labels} classes of an image counts" if labels > 1 else ""
    return [
        f"confusion (rows: true class, columns: predicted{several})",
        " " * LABEL_WIDTH + _row(classes, width),
        *(f"{label:>{LABEL_WIDTH}}{_row(row, width)}" for label, row in enumerate(confusion)),
    ]


def _row(counts: range | list[int], width: int) -> str:
    return "".join(f"{count or '.' if isinstance(counts, list) else count:>{width}}" for count in counts)
