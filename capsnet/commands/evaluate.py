"""`evaluate`: what a saved network makes of the test set."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

import torch

from capsnet import checkpoint, datasets, evaluation, execution, objective
from capsnet.config import Config, StoredDataset
from capsnet.images import DataError
from capsnet.models import build
from capsnet.objective import CLASS_LOSSES, MEASURES
from capsnet.state import State, config_of, from_best


def run(arguments: Namespace) -> int:
    """Print the figures of a checkpoint's network; the exit code."""
    state = checkpoint.load(checkpoint.locate(arguments.checkpoint))
    if arguments.best:
        state = from_best(state) | {"epoch": state["best"]["epoch"]}
    config = _with_root(config_of(state), arguments.data)
    found = {"checkpoint": arguments.checkpoint, "epoch": state["epoch"], "step": state["step"]}
    found |= figures(config, state)
    print(json.dumps(found, indent=2) if arguments.json else _table(found))
    return 0


def figures(config: Config, state: State) -> dict[str, Any]:
    """The test metrics of the weights in `state`, and the confusion matrix: rows true, columns predicted."""
    here = config.model_copy(update={"threads": None})  # those of the machine that trained do not matter
    how = execution.resolve(here)
    execution.apply(how)
    test = datasets.load(config.dataset, config.seed).test
    shape = datasets.shape(config.dataset)
    network = build(config, shape).to(how.device)
    network.load_state_dict(state["model"])
    sums = torch.zeros(len(MEASURES), dtype=torch.float64)
    confusion = torch.zeros(shape.classes, shape.classes, dtype=torch.int64)
    for batch, measured in evaluation.evaluate(network, test, config, how):
        sums += measured.sums().cpu()
        confusion += evaluation.confusion(batch.labels, measured.predictions, shape.classes).cpu()
    means = objective.means(sums, len(test), config)
    return {
        "images": len(test),
        **means,
        "error": 1 - means["accuracy"],
        "confusion": confusion.tolist(),
    }


def _with_root(config: Config, root: str | None) -> Config:
    """Look for the data set in another folder than the run did."""
    if root is None:
        return config
    if not isinstance(config.dataset, StoredDataset):
        raise DataError(f"--data {root}: the data set {config.dataset.name} lies in no folder: leave it out")
    dataset = config.dataset.model_copy(update={"root": root})
    return config.model_copy(update={"dataset": dataset})


def _table(found: dict[str, Any]) -> str:
    steps = f" and {found['step']} steps" if found["step"] else ""
    class_loss = next(name for name in CLASS_LOSSES.values() if name in found)
    lines = [
        f"{found['checkpoint']}, after {found['epoch']} epochs{steps}, on {found['images']} test images",
        f"  accuracy             {found['accuracy']:.2%}",
        f"  error                {found['error']:.2%}",
        f"  {class_loss.replace('_', ' '):<20} {found[class_loss]:.5f}",
    ]
    if "reconstruction_loss" in found:
        lines.append(f"  reconstruction loss  {found['reconstruction_loss']:.3f}  (summed squared error)")
    width = max(len(str(count)) for row in found["confusion"] for count in row) + 2
    classes = range(len(found["confusion"]))
    lines += ["confusion (rows: true class, columns: predicted)", " " * 4 + _row(classes, width)]
    lines += [f"{label:>4}{_row(row, width)}" for label, row in zip(classes, found["confusion"], strict=True)]
    return "\n".join(lines)


def _row(counts: range | list[int], width: int) -> str:
    return "".join(f"{count or '.' if isinstance(counts, list) else count:>{width}}" for count in counts)
