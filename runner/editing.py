"""What a resume may change of a run, and the resolved YAML that comes of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runner.output import CommandError
from runner.overrides import is_below, key_of, merged
from runner.rows import Wants

if TYPE_CHECKING:
    from runner.rows import Run
    from runner.spec import Spec

# Everything else is settled with the first step: the weights' shapes, the data and their order, the
# arithmetic. A checkpoint keeps those, so that a change would be refused later or, worse, be ignored.
CHANGEABLE = (
    "num_epochs",
    "optim",
    "loss.rc_loss_weight",
    "checkpoint.interval_seconds",
    "checkpoint.keep_every",
    "dataset.root",
    "runner.gpus",
    "runner.cpus",
    "runner.workers",
)


class Edit(NamedTuple):
    """What the row gets; None: stays as it is."""

    config: str | None
    num_epochs: int | None
    wants: Wants | None
    overrides: tuple[str, ...] | None = None


def edited(
    run: Run, settings: Sequence[str], best: bool, environment: Mapping[str, str] | None = os.environ
) -> Edit:
    """The run's configuration with `key=value` put over it, for a resume.

    `environment` as in `Experiment.resolved`.
    Raises CommandError for what cannot change, ConfigError for values that are not allowed.
    """
    from runner import loading

    refused = [f"--set {setting}: {refusal(setting)}" for setting in settings if not is_changeable(setting)]
    if refused:
        raise CommandError("\n".join(refused))
    if not settings and not best:
        return Edit(None, None, None)
    experiment = loading.parse(run.config, f"run {run.id}", settings)
    config = experiment.config
    if best and config.dataset.validation == 0:
        raise CommandError(
            f"run {run.id} knows no best weights: it has no validation split to tell them by "
            "(dataset.validation); resume without --best goes on from the latest"
        )
    if config.num_epochs < (run.durable_epoch or 0):
        done = f"run {run.id} has {run.durable_epoch} epochs behind it already"
        raise CommandError(f"--set num_epochs={config.num_epochs}: {done}")
    if not settings:
        return Edit(None, None, None)
    resolved = experiment.resolved(Path(run.submit_directory or "/"), environment)
    wants = _wants(run, experiment.spec, settings)
    return Edit(resolved, config.num_epochs, wants, merged(run.overrides, settings))


def _wants(run: Run, spec: Spec, settings: Sequence[str]) -> Wants:
    """What the run needs now. What its `gpus: auto` came to stays, unless the GPUs themselves are set."""
    gpus = spec.gpus
    if gpus == "auto" and run.gpus != "auto" and "runner.gpus" not in map(key_of, settings):
        gpus = spec.processes if run.gpus else run.gpus  # one for each worker, or there were none
    return Wants(gpus, spec.cpus, spec.processes)


def is_changeable(setting: str) -> bool:
    """Whether a `key=value` names what may change, or something inside it."""
    return any(is_below(key_of(setting), known) for known in CHANGEABLE)


def refusal(setting: str) -> str:
    if "=" not in setting:
        return "must read key=value, as in num_epochs=200"
    return f"a resume changes only {', '.join(CHANGEABLE)}; for anything else submit another run"
