"""Loss and error by epoch, of one run or of several in the same chart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capsnet.config import Config
from capsnet.figures import legend, scales, style, titles
from capsnet.figures.kinds import OVERLAID, FigureError
from capsnet.figures.legend import Dashes, Entry
from capsnet.history import Row, best_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of one run each part has a colour; of several the runs have. The line says the part either way.
PARTS = {"train": style.GREY, "validation": style.ORANGE, "test": style.BLUE}
LINES: dict[str, Dashes] = {"train": "--", "validation": ":", "test": "-"}
BEST = "validation/accuracy"  # chooses the best epoch
MARKED = 60  # epochs at most, of all runs together, of which each gets a dot
HEIGHT = 2.5  # inches of the charts


@dataclass(frozen=True)
class History:
    """The metrics of a run by epoch, and what the run is called."""

    label: str
    rows: Sequence[Row]
    config: Config | None = None  # None: a table of metrics alone

    @property
    def facts(self) -> tuple[str, ...]:
        """Model and data set, where they are known."""
        return () if self.config is None else (titles.model(self.config), titles.dataset(self.config))


def curve(rows: Sequence[Row], name: str) -> tuple[list[float], list[float]]:
    """The epochs that measured a metric, and what they measured, as far as an axis can show it."""
    measured = [row for row in rows if abs(row.get(name, math.nan)) < scales.HUGE]
    return [row["epoch"] for row in measured], [row[name] for row in measured]


def losses(rows: Sequence[Row], part: str) -> tuple[list[float], list[float]]:
    """Epochs and losses of a part of the data."""
    return curve(rows, f"{part}/loss")


def errors(rows: Sequence[Row], part: str) -> tuple[list[float], list[float]]:
    """Epochs and errors of a part of the data, in percent."""
    epochs, accuracies = curve(rows, f"{part}/accuracy")
    # Rounded: 100 * (1 - 0.9) is not 10, and a flawless epoch is to be exactly 0.
    return epochs, [round(100 * (1 - accuracy), 9) for accuracy in accuracies]


def draw(histories: Sequence[History]) -> Figure:
    """Two charts side by side. FigureError where no epoch has ended yet, or with too many runs."""
    _require_epochs(histories)
    title = "Loss and error by epoch" + (f", {len(histories)} runs" if len(histories) > 1 else "")
    labels, origin = named(histories)
    entries = _entries(histories, labels)
    figure = style.chart(style.PAGE, HEIGHT + legend.height(entries), title, origin)
    loss, error = figure.subplots(1, 2)
    _chart(loss, histories, losses, "loss")
    _chart(error, histories, errors, "error, %")
    if len(histories) == 1:
        _mark_best(error, histories[0].rows)
    legend.add(figure, entries)
    return figure


def _require_epochs(histories: Sequence[History]) -> None:
    if len(histories) > OVERLAID:
        raise FigureError(
            f"no curves picture: {len(histories)} runs are too many for one chart, {OVERLAID} at most"
        )
    for history in histories:
        if not history.rows:
            whose = f" of {history.label}" if len(histories) > 1 else ""
            raise FigureError(f"no curves picture: no epoch{whose} has ended yet")


def named(histories: Sequence[History]) -> tuple[list[str], str]:
    """A label for each run, with what sets it apart; and a line of what all have in common."""
    if len(histories) == 1:
        return [histories[0].label], titles.BETWEEN.join((histories[0].label, *histories[0].facts))
    facts = [history.facts for history in histories]
    common = [fact for fact in facts[0] if all(fact in others for others in facts)]
    labels = [
        titles.BETWEEN.join((history.label, *(fact for fact in history.facts if fact not in common)))
        for history in histories
    ]
    return labels, titles.BETWEEN.join(common)


def _entries(histories: Sequence[History], labels: Sequence[str]) -> list[Entry]:
    """The runs by their colours, where there are several, and the parts of the data by their lines."""
    parts = [part for part in PARTS if any(_has(history.rows, part) for history in histories)]
    if len(histories) == 1:
        return [Entry(part, PARTS[part], LINES[part]) for part in parts]
    runs = [Entry(label, colour, "-") for label, colour in zip(labels, style.SERIES, strict=False)]
    return runs + [Entry(part, style.GREY, LINES[part]) for part in parts]


def _has(rows: Sequence[Row], part: str) -> bool:
    return bool(losses(rows, part)[0] or errors(rows, part)[0])


Measure = Callable[[Sequence[Row], str], tuple[list[float], list[float]]]


def _chart(axes: Axes, histories: Sequence[History], measure: Measure, name: str) -> None:
    """The curves of all runs and parts, over the epochs of all runs."""
    measured = [
        (number, part, *measure(history.rows, part))
        for number, history in enumerate(histories)
        for part in PARTS
    ]
    zero = scales.with_logarithm(axes, [value for *_, values in measured for value in values])
    epochs = [int(row["epoch"]) for history in histories for row in history.rows]
    marker = "o" if len(epochs) <= MARKED else ""
    for number, part, at, values in measured:
        if at:
            axes.plot(
                at,
                scales.raised(values, zero),
                color=PARTS[part] if len(histories) == 1 else style.SERIES[number],
                linestyle=LINES[part],
                linewidth=1.4 if part == "test" else 1.0,
                marker=marker,
                markersize=2.5,
                label=part,
            )
    scales.with_epochs(axes, min(epochs), max(epochs))
    axes.set_title(name + (", logarithmic" if zero is not None else ""), loc="left", size=style.TEXT)
    axes.set_xlabel("epoch", size=style.TEXT)
    axes.tick_params(labelsize=style.SMALL)
    axes.grid(axis="y", color="#e0e0e0", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _mark_best(axes: Axes, rows: Sequence[Row]) -> None:
    """The epoch that validation chose, on the side of its line that has more room."""
    best = best_row([row for row in rows if math.isfinite(row.get(BEST, math.nan))])
    if best is None:
        return
    axes.axvline(best["epoch"], color=style.ORANGE, linewidth=0.8, linestyle=(0, (1, 3)))
    left, right = axes.get_xlim()
    before = best["epoch"] - left > right - best["epoch"]
    axes.annotate(
        f"best on validation: {best['epoch']:.0f}",
        (best["epoch"], 1),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        xytext=(-3 if before else 3, 0),
        ha="right" if before else "left",
        va="top",
        size=style.SMALL,
        color=style.ORANGE,
    )
