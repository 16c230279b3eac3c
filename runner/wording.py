"""Numbers as written for people: ages, durations, sizes, shares; and texts used in several places."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

MINUTE, HOUR, DAY, WEEK = 60, 3_600, 86_400, 604_800
UNITS = {"s": 1, "m": MINUTE, "h": HOUR, "d": DAY, "w": WEEK}
NOTHING = "-"
OTHER_DATA = "--set dataset.root=FOLDER"  # the option of a `resume` on a host without the run's data


def run_label(number: int, name: str) -> str:
    """Return a run in a title: "run 3 (mnist_small)"."""
    return f"run {number} ({name})"


def duration(seconds: float | None) -> str:
    """Two leading units: "40s", "3m 05s", "2h 10m", "4d 3h"; "-" where it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    whole = max(0, round(seconds))
    if whole < MINUTE:
        return f"{whole}s"
    if whole < HOUR:
        return f"{whole // MINUTE}m {whole % MINUTE:02d}s"
    if whole < DAY:
        return f"{whole // HOUR}h {whole % HOUR // MINUTE:02d}m"
    return f"{whole // DAY}d {whole % DAY // HOUR}h"


def age(since: float | None, now: float) -> str:
    """Return how long ago in one unit: "40s", "3m", "2h", "4d"."""
    if since is None:
        return NOTHING
    return duration(now - since).split()[0]


def parse_duration(text: str) -> float:
    """Return the seconds of "30d", "12h", "90s", "2w", or of a plain number of seconds.

    Raises ValueError with one line for anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration: write 90s, 45m, 12h, 30d or 2w")
    return float(match[1]) * UNITS[match[2] or "s"]


def megabytes(size: int) -> str:
    """Return bytes in MB (10**6), with one decimal below 10."""
    value = size / 1e6
    return f"{value:.1f} MB" if value < 10 else f"{value:,.0f} MB"


def percent(share: float | None) -> str:
    """Return a fraction in percent with two decimals, as the field quotes accuracies."""
    return NOTHING if share is None else f"{100 * share:.2f}%"


def plural(count: int, noun: str) -> str:
    """ "1 run", "2 runs"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def runs_named(numbers: list[int]) -> str:
    """ "run 4", "runs 1, 2 and 5", shortened like `listed`."""
    return f"run {numbers[0]}" if len(numbers) == 1 else f"runs {listed(numbers)}"


def listed(numbers: list[int], at_most: int = 10) -> str:
    """ "1, 2 and 5", shortened: "1, 2, 3, ... (1000 in all)"."""
    words = [str(number) for number in numbers]
    if len(words) > at_most:
        return f"{', '.join(words[:3])}, ... ({len(words)} in all)"
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else "none"


def spans(numbers: Iterable[int]) -> str:
    """Return numbers as a command takes them, sorted and each once: "1-3 7"."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return " ".join("-".join(map(str, ends)) for ends in found)


def beginning(epoch: int | None, step: int | None) -> str:
    """Return where an attempt began, after so many epochs and steps: "from epoch 3, step 20"; else ""."""
    if epoch is None:
        return ""
    return f"from epoch {epoch + 1}, step {step or 0}" if epoch or step else "from the beginning"


def request(number: float | str) -> str:
    """Return how many GPUs or cores a run asks for; "auto" is itself."""
    return number if isinstance(number, str) else f"{number:g}"
