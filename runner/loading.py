"""Loading of a YAML file to be submitted: configuration and `runner:` block, all mistakes at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from capsnet import yamlfile
from capsnet.config import Config, training_part, with_absolute_paths, with_overrides
from capsnet.overwriting import obstacles as overwritten
from capsnet.preflight import obstacles
from capsnet.schema import dotted_keys
from capsnet.validation import in_order
from capsnet.yamlfile import ConfigError, Document, Mistake
from runner.paths import Home
from runner.spec import Spec

BLOCK = "runner"


@dataclass(frozen=True)
class Experiment:
    """A run as its YAML describes it."""

    config: Config
    spec: Spec
    source: str  # the text of the file, as it is
    file: str
    notes: tuple[str, ...] = ()  # which keys of the file `--set` has dropped
    doubts: tuple[Mistake, ...] = ()  # what it would fail for on this host, and perhaps not on another

    def resolved(self, directory: Path, environment: Mapping[str, str] | None = os.environ) -> str:
        """Return the whole YAML, every key with its value, for a worker that starts elsewhere.

        Relative paths become absolute, from `directory`; so does the folder of data that `environment` names.
        Without an environment that is left to the worker's own, where the YAML does not name the folder.
        """
        config = with_absolute_paths(self.config, directory, environment)
        return yamlfile.dump({**config.model_dump(), BLOCK: self.spec.model_dump()})

    def relative_paths(self) -> dict[str, str]:
        """Return the paths, by key, that depend on where and by whom the run is submitted."""
        checkpoint = self.config.checkpoint
        paths = {
            "dataset.root": getattr(self.config.dataset, "root", None),
            "checkpoint.model_path": checkpoint.model_path,
            "checkpoint.log_dir": checkpoint.log_dir,
        }
        return {key: path for key, path in paths.items() if path and not Path(path).is_absolute()}


def data_environment(home: Home) -> Mapping[str, str] | None:
    """Whose CAPSNET_DATA counts: that of the submit or, with a queue for several hosts, the worker's."""
    return None if home.shared else os.environ


def load(
    path: str | Path,
    overrides: Iterable[str] = (),
    look: bool = False,
    trains_here: Callable[[], bool] | None = None,
) -> Experiment:
    """Return the experiment in a YAML file with `key=value` overrides. Raises ConfigError with every mistake.

    `look`: also at the places on this machine that it writes to, from the current directory. `trains_here`:
    also at what it would fail for on this host, which is a doubt unless no other host can train it.
    """
    return _experiment(yamlfile.read(path), overrides, look, trains_here)


def parse(text: str, file: str, overrides: Iterable[str] = ()) -> Experiment:
    """Return the experiment in YAML text, as a row of the queue holds it; messages call it `file`."""
    return _experiment(yamlfile.parse(text, file), overrides)


def _experiment(
    source: Document,
    overrides: Iterable[str],
    look: bool = False,
    trains_here: Callable[[], bool] | None = None,
) -> Experiment:
    document = with_overrides(source, overrides)
    block = document.data.get(BLOCK, {})
    runner_keys = [BLOCK, *(f"{BLOCK}.{key}" for key in dotted_keys(Spec))]
    config, mistakes = yamlfile.check(Config, training_part(document), document, known=runner_keys)
    spec, others = yamlfile.check(Spec, block, document, (BLOCK,), known=dotted_keys(Config))
    mistakes = [*document.mistakes, *mistakes, *others]
    if config is not None and spec is not None and config.batch_size < spec.processes:
        why = f"a batch of {config.batch_size} images cannot be shared by {spec.processes} workers"
        mistakes.append(document.mistake(("batch_size",), f"{why}: raise it, or set {BLOCK}.workers to less"))
    if config is not None and look:
        mistakes += _taken(config, document)
    found = list(obstacles(config)) if config is not None and trains_here else []
    doubts = [document.mistake(one.path, one.message) for one in found if not one.everywhere]
    mistakes += [document.mistake(one.path, one.message) for one in found if one.everywhere]
    if doubts and trains_here and trains_here():
        mistakes, doubts = [*mistakes, *doubts], []
    if config is None or spec is None or mistakes:
        raise ConfigError(in_order(mistakes))
    return Experiment(config, spec, source.text, source.file, document.notes, tuple(doubts))


def _taken(config: Config, document: Document) -> list[Mistake]:
    """Return a mistake for each path that the run would overwrite although no run has written it."""
    named = with_absolute_paths(config, Path.cwd()).checkpoint
    return [document.mistake(("checkpoint", key), what) for key, what in overwritten(named)]
