"""`show`: everything about a run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from capsnet.printable import printable
from runner import configuration, narration, notes, ownership, source, versions
from runner.commands import completing
from runner.commands.options import Json, Runs
from runner.output import PROGRAM, CommandError, emit, emit_json
from runner.states import ENDED, State
from runner.wording import NOTHING, age, beginning, duration, plural, request

if TYPE_CHECKING:
    from runner.commands.access import Access
    from runner.notes import Situation
    from runner.paths import Home
    from runner.rows import Attempt, Run

LABEL_WIDTH = 11
CONFIGURATION_WIDTH = 10  # of the longest section: dataloader, checkpoint


def show(
    runs: Runs,
    diff: Annotated[
        str | None,
        typer.Option(
            metavar="OTHER",
            help="Instead, in what it differs from this run; `compare` takes several.",
            autocompletion=completing.runs,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Print the details of each RUN: state, source, progress, attempts, configuration, what MLflow has of it.

    JSON is an object where one RUN is named by its number or name, else a list.

    \b
    Examples:
      python -m runner show 3
      python -m runner show 3 --diff 5
      python -m runner show 3 --json | jq .metrics
    """
    from runner.commands.access import open_queue
    from runner.commands.compare import print_comparison
    from runner.commands.selection import chosen, may_be_several

    with open_queue(only_looks=True) as access:
        found = chosen(access.store, runs)
        if diff is not None:
            if len(found) > 1:
                raise CommandError(f"--diff is of one run: `{PROGRAM} compare` takes several")
            print_comparison(access, chosen(access.store, [*runs, diff]), json)
        elif json:
            documents = full_documents(access, found)
            emit_json(documents if may_be_several(runs) else documents[0])
        else:
            emit("\n\n".join(texts(access, found)))


def full_documents(access: Access, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the runs for programs, with their checkpoints and attempts."""
    from runner.commands.listing import document
    from runner.commands.situations import situation

    now = situation(access)
    return [
        {
            **document(run, access.home, now),
            "checkpoint": newest_checkpoint(run, access.home),
            "attempts": [asdict(attempt) for attempt in access.store.attempts(run.id)],
        }
        for run in runs
    ]


def texts(access: Access, runs: Sequence[Run]) -> Iterator[str]:
    """Yield the text for each run."""
    from runner.commands.situations import situation

    home, store = access
    now, tracking, code_here = situation(access), published_to(access), source.here().digest
    for run in runs:
        parts = details(run, home, now, newest_checkpoint(run, home), tracking, code_here)
        lines = [f"{label:<{LABEL_WIDTH}} {text}" for label, text in parts.items() if text]
        if attempts := store.attempts(run.id):
            lines += ["attempts", *(f"  {attempt_line(one, now.now, run)}" for one in attempts)]
        yield "\n".join([*lines, "configuration", *(f"  {line}" for line in configuration_lines(run))])


def configuration_lines(run: Run) -> list[str]:
    """Return every key with its value, a line for each section; those of none are on the first."""
    from capsnet.yamlwords import inline

    sections: dict[str, list[str]] = {}
    for key, value in configuration.settings(run).items():
        section, _, rest = key.partition(".")
        sections.setdefault(section if rest else "", []).append(f"{rest or key}={inline(value)}")
    return [f"{name:<{CONFIGURATION_WIDTH}} {' '.join(items)}" for name, items in sections.items()]


def newest_checkpoint(run: Run, home: Home) -> Path | None:
    """Return the checkpoint of the newest attempt that has saved one, None without one.

    None, too, where the folder is another run's, and for runs in an object store, which is not asked.
    """
    paths = home.run(run.id, run.name)
    if home.remote or not ownership.is_own(paths, run.identity, run.submitted_at):
        return None
    checkpoints = (paths.attempt(number).checkpoint for number in range(run.attempt, 0, -1))
    return next(filter(Path.exists, checkpoints), None)


def details(
    run: Run, home: Home, situation: Situation, checkpoint: Path | None, tracking: str, code_here: str
) -> dict[str, str]:
    """Return what `show` prints of a run, by label; empty text is not printed.

    `code_here`: the digest of this process's code.
    """
    now = situation.now
    note = notes.state_note(run, situation)
    return {
        "run": f"{run.id} ({run.name})",
        "state": run.state + (f": {note}" if note else ""),
        "progress": narration.progress(run) if run.attempt else "",
        "trained": notes.trained(notes.trained_seconds(run, now), run.attempt) if run.attempt else "",
        "submitted": f"{age(run.submitted_at, now)} ago, priority {run.priority}",
        "source": submitted_as(run),
        "git": revision(run),
        "code": code_line(run, code_here),
        "versions": versions_line(run),
        "wants": f"gpus {request(run.gpus)}, cpus {request(run.cpus)}"
        + (f", for {run.workers} workers" if run.workers > 1 else ""),
        "runs on": f"{narration.place(run)}, pid {run.pid}" if run.state is State.RUNNING and run.pid else "",
        "computes": run.computes or "",
        "set": printable(" ".join(run.overrides)),
        "note": indented(run.user_note or ""),
        "tags": printable(", ".join(f"{key}={value}" for key, value in run.tags.items())),
        "metrics": ", ".join(f"{key} {value:.6g}" for key, value in sorted(run.metrics.items())),
        "folder": home.place(run.id, run.name),
        "checkpoint": checkpoint_line(run, checkpoint, now),
        "log": log_line(run, home),
        "mlflow": mlflow_line(run, tracking),
    }


def indented(text: str) -> str:
    """Return the lines so that they stand below each other beside a label."""
    return f"\n{' ' * (LABEL_WIDTH + 1)}".join(text.splitlines())


def log_line(run: Run, home: Home) -> str:
    command = f"`{PROGRAM} logs {run.id}`"
    if not run.attempt or home.remote:
        return command if run.attempt else ""
    return f"{home.run(run.id, run.name).attempt(run.attempt).log}; {command}"


def submitted_as(run: Run) -> str:
    if run.source_file is None:
        return ""
    return f"{run.source_file}, submitted in {run.submit_directory}"


def revision(run: Run) -> str:
    if run.git_commit is None:
        return "not in a repository"
    return run.git_commit + (", with uncommitted changes" if run.git_dirty else "")


def code_line(run: Run, here: str) -> str:
    """Return which code it goes on with, and whether this command has the same."""
    if run.code is None:
        return "not kept, as an earlier version submitted it: it goes on with the scheduler's"
    compared = "the same as here" if run.code == here else f"here it is {source.short(here)}"
    return f"{source.short(run.code)}, {compared}; `{PROGRAM} code {run.id}`"


def versions_line(run: Run) -> str:
    """Return the versions of Python and PyTorch at the last run and, if others, at the submission."""
    found = versions.Versions(run.python, run.torch)
    submitted = versions.Versions(run.submit_python, run.submit_torch)
    named = {"Python": found.python, "PyTorch": found.torch}
    text = ", ".join(f"{name} {version}" for name, version in named.items() if version)
    differences = versions.differences(found, submitted)
    return text + (f": {'; '.join(differences)}" if differences else "")


def checkpoint_line(run: Run, checkpoint: Path | None, now: float) -> str:
    """Return a checkpoint's path, age and position; only the position without a file to see here."""
    reach = ""
    if run.durable_epoch is not None:
        step = f", step {run.durable_step}" if run.durable_step else ""
        reach = f", {plural(run.durable_epoch, 'epoch')}{step}"
    if checkpoint is None:
        return reach.removeprefix(", ")
    try:
        written = checkpoint.stat().st_mtime
    except FileNotFoundError:  # replaced this moment, or only the previous one is left
        return f"{checkpoint}{reach}"
    return f"{checkpoint}, {age(written, now)} old{reach}"


def published_to(access: Access) -> str:
    """Return where runs are published to: by this host or, with a cluster elsewhere, by its scheduler."""
    from runner.commands.access import is_elsewhere
    from runner.redaction import redacted
    from runner.tracking import target

    if is_elsewhere(access.home) and not os.environ.get("MLFLOW_TRACKING_URI"):
        beat = access.store.scheduler_beat()
        return (beat.tracking if beat else None) or ""
    return redacted(target(access.home).uri)


def mlflow_line(run: Run, tracking: str) -> str:
    """Return the MLflow run, and up to where it has been published."""
    if run.mlflow_run_id is None:
        published = "nothing published yet"
    else:
        served = tracking.startswith(("http://", "https://"))
        place = f"{tracking}/#/runs/{run.mlflow_run_id}" if served else run.mlflow_run_id
        whole = " (complete)" if run.state in ENDED and run.is_published else ""
        published = f"{place}, published up to epoch {run.published_epoch or 0}{whole}; `{PROGRAM} ui`"
    return published + (f"; {run.publish_error}" if run.publish_error else "")


def attempt_line(attempt: Attempt, now: float, run: Run) -> str:
    """Return when, where and from which step an attempt ran, how it ended, and why if not as the run."""
    devices = (
        f"GPU {','.join(attempt.devices)}"
        if attempt.devices
        else f"{attempt.cpus:g} core" + ("s" if attempt.cpus != 1 else "")
    )
    outcome = attempt.outcome or "goes on"
    took = duration((attempt.ended_at or now) - attempt.started_at)
    reason = f": {attempt.reason}" if attempt.reason and attempt.reason != run.reason else ""
    host = attempt.host or NOTHING
    began = f"started {age(attempt.started_at, now)} ago"
    if begun := beginning(attempt.from_epoch, attempt.from_step):
        began += f" {begun}"
    code = f", code {source.short(attempt.code)}" if attempt.code != run.code else ""
    return f"{attempt.number}  {outcome}{reason}; {began}, took {took}, on {host}, {devices}{code}"
