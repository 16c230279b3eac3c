"""Metrics by epoch from what a command names: a checkpoint, or the table of metrics beside it."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from capsnet import checkpoint
from capsnet.config import Config
from capsnet.figures.curves import History
from capsnet.figures.kinds import FigureError
from capsnet.files import CHECKPOINT
from capsnet.history import Row, read_history
from capsnet.state import State, config_of

MOST_EPOCHS = 10**9  # in a table; more is taken for an error


class Source(NamedTuple):
    """A run's metrics, and the checkpoint beside which its pictures lie."""

    history: History
    checkpoint: Path


def load(path: Path, label: str | None = None) -> Source:
    """Load the metrics of a checkpoint, or of the table beside it where the table is named or only it exists.

    `label`: the run's label, if not its name.
    """
    where = checkpoint.locate(path)
    table = path if path.suffix == ".csv" else checkpoint.history_path(where)
    if is_table(path):
        name = label or table.absolute().parent.name
        return Source(History(name, _read(table)), table.with_name(CHECKPOINT))
    state = checkpoint.load(where)
    return Source(History(label or state["config"]["name"], state["history"], _config(state)), where)


def is_table(path: Path) -> bool:
    """Return whether the metrics of a path come from a table: it is named, or there is no checkpoint."""
    where = checkpoint.locate(path)
    return path.suffix == ".csv" or (checkpoint.history_path(where).exists() and not where.exists())


def _config(state: State) -> Config | None:
    """The configuration; None where this version cannot read it: curves need the metrics alone."""
    try:
        return config_of(state)
    except checkpoint.CheckpointError:
        return None


def _read(table: Path) -> list[Row]:
    try:
        history = read_history(table)
    except OSError as error:
        raise FigureError(f"{table}: {error.strerror}") from error
    except TypeError as error:  # csv puts fields beyond the named columns into a list
        raise FigureError(f"{table} holds no metrics by epoch: a line has more fields than names") from error
    except (ValueError, csv.Error) as error:
        raise FigureError(f"{table} holds no metrics by epoch: {error}") from error
    if any(not 0 <= row.get("epoch", -1) <= MOST_EPOCHS for row in history):
        raise FigureError(f"{table} holds no metrics by epoch")
    return history


def told_apart(sources: list[Source]) -> list[History]:
    """Return the histories; labels that several share get their folder or file added."""
    labels = [source.history.label for source in sources]
    return [
        history if labels.count(history.label) == 1 else replace(history, label=_also_called(history, where))
        for history, where in sources
    ]


def _also_called(history: History, where: Path) -> str:
    return f"{history.label} ({where.parent if where.name == CHECKPOINT else where})"
