"""Runs side by side: how configuration, source, machine and tags differ, and all metrics. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from capsnet.printable import printable
from runner import configuration, notes, source
from runner.wording import NOTHING

if TYPE_CHECKING:
    from runner.rows import Run

Values = Mapping[int, Any]  # by the run's number; a run that has no such key is left out
Section = Mapping[str, Values]  # by key


CONFIGURATION = "configuration"
METRICS = "metrics"


def differences(runs: Sequence[Run]) -> dict[str, Section]:
    """By section the keys in which runs are not alike; a section in which they are is empty."""
    return {
        CONFIGURATION: _differing({run.id: _configuration(run) for run in runs}),
        "source": _differing({run.id: _source(run) for run in runs}),
        "machine": _differing({run.id: _machine(run) for run in runs}),
        "tags": _differing({run.id: run.tags for run in runs}),
    }


def metrics(runs: Sequence[Run]) -> Section:
    """Return all metrics of the runs' latest epochs, whether they differ or not."""
    return _by_key({run.id: dict(sorted(run.metrics.items())) for run in runs})


def _configuration(run: Run) -> dict[str, Any]:
    settings = configuration.settings(run)
    return {key: value for key, value in settings.items() if not key.startswith(configuration.TAGS)}


def _source(run: Run) -> dict[str, Any]:
    known = {
        "file": run.source_file,
        "git commit": run.git_commit,
        "uncommitted changes": run.git_dirty,
        "code": run.code and source.short(run.code),
    }
    return {key: value for key, value in known.items() if value is not None}


def _machine(run: Run) -> dict[str, Any]:
    known = {
        "host": run.host,
        "device": notes.used(run) if run.attempt else None,
        "computes": run.computes,
        "workers": run.workers,
        "python": run.python or run.submit_python,
        "pytorch": run.torch or run.submit_torch,
    }
    return {key: value for key, value in known.items() if value is not None}


def _by_key(found: Mapping[int, Mapping[str, Any]]) -> dict[str, Values]:
    keys = dict.fromkeys(key for values in found.values() for key in values)
    return {key: {number: values[key] for number, values in found.items() if key in values} for key in keys}


def _differing(found: Mapping[int, Mapping[str, Any]]) -> dict[str, Values]:
    """Return the keys whose values are not all alike, or which some runs have not."""
    every = _by_key(found)
    return {
        key: values
        for key, values in every.items()
        if len(values) < len(found) or any(value != next(iter(values.values())) for value in values.values())
    }


def table(runs: Sequence[Run], sections: Mapping[str, Section]) -> list[list[str]]:
    """Return the lines of a table with a column of keys and one for each run, each section under its name."""
    lines = [
        ["name", *(run.name for run in runs)],
        ["state", *(run.state for run in runs)],
        ["epoch", *(notes.epochs(run) for run in runs)],
    ]
    blank = [""] * len(runs)
    for name, section in sections.items():
        if section:
            lines += [["", *blank], [name, *blank]]
            lines += [[f"  {key}", *_cells(runs, values)] for key, values in section.items()]
    return lines


def _cells(runs: Sequence[Run], values: Values) -> list[str]:
    return [shown(values[run.id]) if run.id in values else NOTHING for run in runs]


def shown(value: Any) -> str:
    """Return a value for people; six digits of a fraction."""
    from capsnet.yamlwords import inline

    if isinstance(value, float):
        return f"{value:.6g}"
    return printable(value) if isinstance(value, str) else inline(value)
