"""A run in MLflow's terms: its status, params, tags and points. Pure functions of what the queue knows."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import yaml

from capsnet.history import Row, results
from capsnet.yamltext import flat
from runner import configuration, system_metrics
from runner.redaction import Redactor
from runner.rows import Run
from runner.states import State

STATUS = {
    State.QUEUED: "SCHEDULED",
    State.RUNNING: "RUNNING",
    State.FINISHED: "FINISHED",
    State.FAILED: "FAILED",
    State.CANCELLED: "KILLED",
    State.INTERRUPTED: "KILLED",
}
FOLDER = "runner.folder"  # the tag that says where the run's own files are
IDENTITY = "runner.id"  # tag: the queue's id and the run's number, which may come again
RUN_IDENTITY = "runner.identity"  # tag: with the one above it finds the run again, from any publisher
EPOCH = "epoch"  # a metric of its own: its last step is how far the run has been published
SYSTEM = "system/"  # MLflow shows metrics of this prefix on a page of their own
SAMPLE = SYSTEM + system_metrics.CPU  # in every sample: by its points one knows the samples published
BEST = {
    "best/epoch": "best_epoch",
    "best/validation/accuracy": "validation/accuracy_at_best_epoch",
    "best/test/accuracy": "test/accuracy_at_best_epoch",
}
LONGEST_KEY = 250  # characters, MLflow's limit
NOTE = "mlflow.note.content"  # MLflow's UI shows this tag as the description of a run
OF_USER = "runner.tags"  # which of a run's tags in MLflow the queue knows from its user, as a JSON list

Sample = tuple[int, float]  # its time in ms and its CPU load: two attempts' clocks may show the same time


class Point(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    milliseconds: int  # unix time at which it was measured
    step: int


def identity(queue_id: str, run_id: int) -> str:
    return f"{queue_id}/{run_id}"


def label(run: Run) -> str:
    """Return the MLflow run's name, which is also that of the run's folder."""
    return f"{run.id}-{run.name}"


@functools.lru_cache(maxsize=256)  # parsing takes 10 ms; asked for at every epoch of a run
def params(config: str) -> Mapping[str, str]:
    """The resolved YAML, flattened: {"optim.lr": "0.001"}. The `runner:` block is no part of the training."""
    values = {key: value for key, value in yaml.safe_load(config).items() if key != "runner"}
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in flat(values).items()
    }


def changes(config: str, known: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags `config.<key>` for what a resume has changed: params are immutable in MLflow.

    A key that went back to its first value keeps its tag, which then says so.
    """
    now = params(config)
    return {
        f"config.{key}": value
        for key, value in now.items()
        if known.get(key) != value or f"config.{key}" in tags
    }


def tags(run: Run, queue_id: str, folder: str, user: str, version: str) -> dict[str, str | None]:
    """Return the run's own tags; None where there is nothing to say (any more)."""
    own = {
        IDENTITY: identity(queue_id, run.id),
        RUN_IDENTITY: run.identity,
        "runner.state": str(run.state),
        "runner.reason": run.reason,
        "runner.attempt": str(run.attempt),
        FOLDER: folder,
        "runner.version": version,
        "runner.submitted": _utc(run.submitted_at),
        "runner.ended": _utc(run.ended_at),  # MLflow's own end counts the time in attempts only
        "runner.code": run.code,
        "host": run.host,
        "devices": ", ".join(run.devices) or None,
        "git.dirty": None if run.git_dirty is None else json.dumps(run.git_dirty),
        "mlflow.source.git.commit": run.git_commit,
        "mlflow.source.name": run.source_file,
        "mlflow.source.type": "LOCAL",
        "mlflow.user": user,
    }
    return _redacted(own)


def _redacted(tags: Mapping[str, str | None]) -> dict[str, str | None]:
    redact = Redactor()
    return {key: None if value is None else redact(value) for key, value in tags.items()}


def _utc(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def user_tags(run: Run, own: Collection[str], before: Mapping[str, str]) -> dict[str, str | None]:
    """The tags that the user gave the run, and the note as its description; None where they were taken away.

    `own`: the run's own tags, which those of the user do not replace; `before`: all tags that MLflow has.
    Tags there that the queue has never known stay, and so does a description that was edited there, until the
    next `note`.
    """
    of_user = {_key(key): value for key, value in run.tags.items()}
    given: dict[str, str | None] = {key: value for key, value in of_user.items() if key not in own}
    if run.user_note is not None:
        is_news = NOTE not in before or run.annotations != run.published_annotations
        given[NOTE] = run.user_note if is_news else before[NOTE]
    known = _known_of_user(run, before)
    gone = dict.fromkeys(sorted(known & before.keys() - given.keys() - set(own)))
    listed = {OF_USER: json.dumps(sorted(given))} if given or known else {}
    return _redacted({**gone, **given, **listed})


def _known_of_user(run: Run, before: Mapping[str, str]) -> set[str]:
    """Return the tags in MLflow that the queue has brought there from the user."""
    if OF_USER in before:
        try:
            return set(json.loads(before[OF_USER]))
        except (TypeError, ValueError):  # edited by hand: then nothing is taken away
            return set()
    # An earlier version did not note them; there they were those of the submission.
    block = configuration.document(run).get(configuration.BLOCK) or {}
    return {_key(key) for key in block.get("tags") or {}}


def _key(key: str) -> str:
    """Return a user's tag key as MLflow takes it: it treats keys as paths and refuses some signs."""
    words = re.sub(r"[^\w.\- :/]+", "_", key, flags=re.ASCII).split("/")
    return "/".join(word for word in words if word.strip("."))[:LONGEST_KEY].strip("/") or "_"


def epochs(history: Iterable[Mapping[str, Any]]) -> Iterator[list[Point]]:
    """Yield the points of each epoch, one list an epoch; the step is the epoch."""
    for row in history:
        at = _milliseconds(row["time"])
        # What was not measured in this epoch is left out: there is no validation split, say.
        measured = {key: value for key, value in row.items() if key != "time" and value is not None}
        yield [Point(key, float(value), at, int(row[EPOCH])) for key, value in measured.items()]


def best(history: Sequence[Row]) -> list[Point]:
    """Return the metrics of the epoch that validation chose, as points at the last epoch; [] without one.

    Their names are not those of the curves: a page of charts should begin with these.
    """
    at, epoch = _milliseconds(history[-1]["time"]), int(history[-1][EPOCH])
    figures = results(history)
    return [Point(name, figures[key], at, epoch) for key, name in BEST.items() if key in figures]


def samples(
    rows: Iterable[Mapping[str, float]], first: float, started: float, known: set[Sample]
) -> Iterator[list[Point]]:
    """Yield the points of each system sample that is not `known`, one list a sample.

    `first` is the time of the attempt's first sample and `started` when the attempt was started, in seconds
    after the run's first attempt; the step is in seconds from there on too. So hosts whose clocks disagree
    show one run that goes on, and publishing a sample again, from another process, makes the same point.
    """
    for row in rows:
        at = _milliseconds(row["time"])
        if (at, row[system_metrics.CPU]) not in known:
            step = round(started + row["time"] - first)
            yield [Point(SYSTEM + key, value, at, step) for key, value in row.items() if key != "time"]


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
