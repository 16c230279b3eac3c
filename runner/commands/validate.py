"""`validate`: what a YAML file means, and everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path

from runner.commands.options import Files, Json, Settings
from runner.output import emit_exactly, emit_json


def validate(files: Files, settings: Settings = None, json: Json = False) -> None:
    """Print what each FILE resolves to, every key with its value; or every mistake, and queue nothing.

    \b
    Examples:
      python -m runner validate experiments/*.yaml
      python -m runner validate experiments/mnist_3iter.yaml --set num_epochs=100 > full.yaml
    """
    from runner.commands.submit import load_all
    from runner.loading import data_environment
    from runner.paths import home

    place = home()
    experiments = load_all(files, settings or [], place)
    environment = data_environment(place)
    texts = [experiment.resolved(Path.cwd(), environment) for experiment in experiments]
    if json:
        from capsnet.yamlfile import parse

        documents = [parse(text, one.file) for one, text in zip(experiments, texts, strict=True)]
        emit_json([{"file": document.file, "config": document.data} for document in documents])
        return
    for experiment, text in zip(experiments, texts, strict=True):
        emit_exactly(f"--- # {experiment.file}\n{text}".rstrip() if len(texts) > 1 else text.rstrip())
