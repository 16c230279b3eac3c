"""Changes that a resume may make to a run, and the resolved YAML that results."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runner import source
from runner.output import CommandError
from runner.overrides import is_below, key_of, merged
from runner.rows import Wants

if TYPE_CHECKING:
    from capsnet.config import Config
    from runner.rows import Run
    from runner.spec import Spec

# Everything else is settled with the first step: the weights' shapes, the data and their order, the
# arithmetic. A checkpoint keeps those, so that a change would be refused later or, worse, be ignored.
CHANGEABLE = (
    "num_epochs",
    "optim",
    "stop_after_epochs_without_gain",
    "loss.rc_loss_weight",
    "checkpoint.interval_seconds",
    "checkpoint.keep_every",
    "dataset.root",
    "runner.gpus",
    "runner.cpus",
    "runner.workers",
)
PATHS = (("dataset", "root"), ("checkpoint", "model_path"), ("checkpoint", "log_dir"))  # made absolute
OPTIMIZER = "optim.name"
SAME_OPTIMIZER = "a resume goes on with its optimizer; for another one submit another run"


class Edit(NamedTuple):
    """Changes to the run's row; a field that is None stays as it is in the row."""

    config: str | None = None
    num_epochs: int | None = None
    wants: Wants | None = None
    overrides: tuple[str, ...] | None = None
    longer: bool = False  # it may go on for longer without a gain on the validation split
    notes: tuple[str, ...] = ()  # which keys `--set` has dropped
    remark: str | None = None  # what the user may not expect of it


def edited(
    run: Run,
    settings: Sequence[str],
    best: bool,
    environment: Mapping[str, str] | None = os.environ,
    new_code: bool = False,
) -> Edit:
    """Return the run's configuration with `key=value` put over it, for a resume.

    `environment` as in `Experiment.resolved`; `new_code`: the run goes on with the code of today.
    Raises CommandError for what cannot change, ConfigError for values that are not allowed.
    """
    from capsnet.config import spelt_out
    from runner import loading

    settings, given = [spelt_out(setting) for setting in settings], settings
    refused = [
        f"--set {as_given}: {refusal(setting)}"
        for as_given, setting in zip(given, settings, strict=True)
        if not is_changeable(setting)
    ]
    if refused:
        raise CommandError("\n".join(refused))
    if not settings and not best:
        return Edit()
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
        return Edit()
    before = loading.parse(run.config, f"run {run.id}").config
    if config.optim.name != before.optim.name:
        name = before.optim.name
        raise CommandError(
            f"run {run.id} is trained by {name}: name it where you set all of optim; {SAME_OPTIMIZER}"
        )
    resolved = experiment.resolved(Path(run.submit_directory or "/"), environment)
    if not new_code and run.code not in (None, source.here().digest):
        resolved = _in_its_keys(run.config, settings, resolved)
    wants = _wants(run, experiment.spec, settings)
    longer = _may_go_longer(before, config)
    overrides = merged(run.overrides, settings)
    remark = _stretched(run, before, config, best)
    return Edit(resolved, config.num_epochs, wants, overrides, longer, experiment.notes, remark)


def _stretched(run: Run, before: Config, now: Config, best: bool) -> str | None:
    """The warning for a cosine schedule that is to span another number of epochs; None: for nothing."""
    from capsnet import schedules

    if run.durable_epoch is None or run.steps_per_epoch is None:
        return None
    step = run.durable_epoch * run.steps_per_epoch + (0 if best else run.durable_step or 0)
    return schedules.stretched(before, now, step, run.steps_per_epoch)


def keeps_to_the_cpu(run: Run, settings: Sequence[str]) -> bool:
    """Return whether a resume leaves a run on the CPU that would have taken a GPU if it began today."""
    from runner import configuration

    config = configuration.document(run)
    left_open = config.get(configuration.BLOCK, {}).get("gpus", "auto") == "auto"
    is_fixed = run.gpus == 0 and "runner.gpus" not in map(key_of, settings)
    return left_open and is_fixed and config.get("use_cuda") is not False


def _in_its_keys(own: str, settings: Sequence[str], resolved: str) -> str:
    """Return the run's `own` YAML with the settings put over it, and with the paths of `resolved`.

    For a run whose code is not that of here: it may not know the keys, nor the words, that came later.
    """
    from capsnet import config, yamlfile

    data = config.with_overrides(yamlfile.parse(own, "run"), settings).data
    absolute = yamlfile.parse(resolved, "run").data
    for section, key in PATHS:
        if key in data.get(section, {}):
            data = {**data, section: {**data[section], key: absolute[section][key]}}
    return yamlfile.dump(data)


def _may_go_longer(before: Config, now: Config) -> bool:
    """Return whether `now` allows more epochs without a gain than `before`."""
    was, allowed = before.stop_after_epochs_without_gain, now.stop_after_epochs_without_gain
    return was is not None and (allowed is None or allowed > was)


def _wants(run: Run, spec: Spec, settings: Sequence[str]) -> Wants:
    """Return the run's needs after the edit.

    Where `gpus: auto` came to GPUs or to none, that stays, unless the GPUs themselves are set.
    """
    gpus = spec.gpus
    if gpus == "auto" and run.gpus != "auto" and "runner.gpus" not in map(key_of, settings):
        gpus = spec.processes if run.gpus else run.gpus  # one for each worker, or there were none
    return Wants(gpus, spec.cpus, spec.processes)


def is_changeable(setting: str) -> bool:
    """Return whether a `key=value` names what may change, or something inside it."""
    key = key_of(setting)
    return key != OPTIMIZER and any(is_below(key, known) for known in CHANGEABLE)


def refusal(setting: str) -> str:
    if "=" not in setting:
        return "must read key=value, as in num_epochs=200"
    if key_of(setting) == OPTIMIZER:
        return SAME_OPTIMIZER
    return f"a resume changes only {', '.join(CHANGEABLE)}; for anything else submit another run"
