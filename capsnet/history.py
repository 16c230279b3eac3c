"""The metric history of a run: one dictionary an epoch, as a table in a file. Imports no PyTorch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from capsnet.files import write_atomically

HISTORY = "history.csv"

Row = dict[str, float]  # "epoch" from 1, "time" in unix seconds, then metrics by name


def write_history(history: Sequence[Mapping[str, float]], path: Path, mode: int = 0o600) -> None:
    """Write one line an epoch; a metric that an epoch lacks is left empty. `mode`: of the file."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(history)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()), mode=mode)


def read_history(path: Path) -> list[Row]:
    """Return the rows that `write_history` wrote, exactly."""
    with path.open(newline="", encoding="utf-8") as file:
        return _read(file)


def parse_history(text: bytes) -> list[Row]:
    """Return the rows in the content of a history file."""
    return _read(io.StringIO(text.decode(), newline=""))


def _read(lines: Iterable[str]) -> list[Row]:
    return [
        {name: int(text) if name == "epoch" else float(text) for name, text in row.items() if text}
        for row in csv.DictReader(lines)
    ]


def metrics_of(row: Row) -> dict[str, float]:
    """Return the metrics of an epoch: its row without "epoch" and "time"."""
    return {name: value for name, value in row.items() if name not in ("epoch", "time")}


def best_row(history: Sequence[Row]) -> Row | None:
    """The first epoch with the highest accuracy on the validation split; None without such a split."""
    measured = [row for row in history if "validation/accuracy" in row]
    return max(measured, key=lambda row: row["validation/accuracy"], default=None)


def results(history: Sequence[Row]) -> dict[str, float]:
    """Return the figures to report: the last epoch's test metrics, and those of validation's best epoch.

    The latter as "best/epoch", "best/validation/accuracy", "best/test/accuracy" and so on. The test set
    chooses nothing.
    """
    if not history:
        return {}
    figures = {name: value for name, value in history[-1].items() if name.startswith("test/")}
    if best := best_row(history):
        figures["best/epoch"] = best["epoch"]
        figures |= {
            f"best/{name}": value for name, value in best.items() if name.startswith(("validation/", "test/"))
        }
    return figures
