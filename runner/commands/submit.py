"""`submit`: YAML files become queued runs, all of them or none."""

from __future__ import annotations

import json as json_text
import sys
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner import exits
from runner.commands.options import Files, Json, Settings
from runner.output import PROGRAM, CommandError, emit, emit_json, hint
from runner.wording import runs_named

if TYPE_CHECKING:
    from capsnet.config import Config
    from capsnet.mistakes import Mistake
    from runner.commands.access import Access
    from runner.loading import Experiment
    from runner.paths import Home
    from runner.rows import NewRun, Origin


def submit(
    files: Files,
    settings: Settings = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show progress until it ends, then the result.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it has ended.")] = False,
    priority: Annotated[
        int | None, typer.Option(help="Higher starts first; over the file's runner.priority.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Over the file's name.")] = None,
    json: Json = False,
) -> None:
    """Queue a run for each FILE: all of them or, where anything is wrong with one, none.

    Prints the runs' numbers on stdout. Starts local Ray and the scheduler where they do not run. A run that
    can never start on the machines that there are is queued all the same, and why is said on stderr.
    Relative paths in a FILE are relative to the directory of this command. The runs keep the code of this
    moment, whatever is edited or installed before they start: `code RUN` shows it.

    \b
    Examples:
      python -m runner submit experiments/quickstart.yaml --follow
      python -m runner submit experiments/mnist_*.yaml --set num_epochs=10 --set optim.lr=0.0005
      run=$(python -m runner submit experiments/mnist_3iter.yaml) && python -m runner wait $run
    """
    from runner.commands.access import is_elsewhere, open_queue
    from runner.commands.listing import documents
    from runner.commands.starting import highest_number, require_storage, start_service
    from runner.following import patiently
    from runner.loading import data_environment
    from runner.paths import home
    from runner.present import present
    from runner.rows import Waiting

    overrides = [*(settings or []), *as_settings(name, priority)]
    directory = Path.cwd()
    place = home()
    experiments = load_all(files, overrides, place)
    source, origin = present(directory)
    new_runs = to_rows(experiments, directory, origin, data_environment(place), settings or [])
    if is_elsewhere(place):
        tell_of_paths_here(experiments, directory)
    with open_queue(create=True) as access:
        require_storage(*access)
        if access.home.remote:
            tell_of_files_of_hosts(experiments, access.home)
        above = highest_number(*access)
        ids = access.store.add(new_runs, access.store.now(), source, above)
        if not json:
            emit("\n".join(map(str, ids)))
        queued = [
            Waiting(id_, new.gpus, new.cpus, new.loader_workers, new.exclusive, new.workers)
            for id_, new in zip(ids, new_runs, strict=True)
        ]
        started = start_service(*access, [] if follow else queued)  # a follow shows it anyway
        code = see_through(access, ids, follow, wait) if started else exits.NOT_STARTED
        if json:
            emit_json(patiently(lambda: documents(access, ids)))
        raise typer.Exit(code)


def as_settings(name: str | None, priority: int | None) -> list[str]:
    """--name and --priority as what they stand for; quoted, so that a name like 1e5 stays text."""
    return [
        *([] if name is None else [f"name={json_text.dumps(name)}"]),
        *([] if priority is None else [f"runner.priority={priority}"]),
    ]


def load_all(files: Sequence[Path], overrides: Sequence[str], home: Home) -> list[Experiment]:
    """Return the experiments in `files`, ready to be queued in `home`. Raises ConfigError with all mistakes.

    Says which keys `--set` has dropped, and what a run would fail for on this host where others may train it.
    """
    from capsnet.yamlfile import ConfigError
    from runner import loading
    from runner.commands.access import is_elsewhere, trains_here

    look = not is_elsewhere(home)  # at the places for output, which are those of the hosts that train
    asked = cache(partial(trains_here, home))
    experiments, mistakes = [], []
    for file in files:
        try:
            experiments.append(loading.load(file, overrides, look, asked))
        except ConfigError as error:
            mistakes.extend(error.mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    lines = [line for one in experiments for line in (*one.notes, *map(doubtful, one.doubts))]
    for line in dict.fromkeys(lines):
        hint(line)
    return experiments


def doubtful(doubt: Mistake | str) -> str:
    """Return a warning of what a run would fail for on this host, where another one may train it."""
    return f"warning: {doubt} (on this host; the one that trains may differ)"


def to_rows(
    experiments: Sequence[Experiment],
    directory: Path,
    origin: Origin,
    environment: Mapping[str, str] | None,
    overrides: Sequence[str] = (),
) -> list[NewRun]:
    """Build the row of each experiment, submitted from `directory`; see `Experiment.resolved`.

    `overrides`: the `--set` that were put over their files; --name and --priority have fields of their own.
    """
    return [to_row(experiment, directory, origin, environment, overrides) for experiment in experiments]


def to_row(
    experiment: Experiment,
    directory: Path,
    origin: Origin,
    environment: Mapping[str, str] | None,
    overrides: Sequence[str] = (),
) -> NewRun:
    from capsnet.config import spelt_out, with_absolute_paths
    from runner.rows import NewRun

    config, spec = with_absolute_paths(experiment.config, directory, environment), experiment.spec
    source_file = str(directory / experiment.file)
    require_utf8(str(directory), source_file, getattr(config.dataset, "root", None) or "")
    return NewRun(
        name=config.name,
        config=experiment.resolved(directory, environment),
        num_epochs=config.num_epochs,
        priority=spec.priority,
        gpus=spec.gpus,
        cpus=spec.cpus,
        loader_workers=config.dataloader.num_workers,
        workers=spec.processes,
        max_retries=spec.max_retries,
        tags=spec.tags,
        overrides=tuple(map(spelt_out, overrides)),
        exclusive=written_outside(config),
        source_file=source_file,
        submit_directory=str(directory),
        **vars(origin),
    )


def tell_of_paths_here(experiments: Sequence[Experiment], directory: Path) -> None:
    """Say that relative paths are now this host's, while the runs will run on others."""
    found = dict.fromkeys(
        f"{key}: {directory / Path(path).expanduser()}"
        for experiment in experiments
        for key, path in experiment.relative_paths().items()
    )
    if found:
        hint(f"the hosts of the cluster must see under the same path: {', '.join(found)}")


def tell_of_files_of_hosts(experiments: Sequence[Experiment], home: Home) -> None:
    """Say that files that the YAML names are written on the host that trains, and nowhere else."""
    named = [experiment.config.checkpoint for experiment in experiments]
    found = dict.fromkeys(path for one in named for path in (one.model_path, one.log_dir) if path)
    if found:
        hint(f"written by the host that trains, and not copied to {home.storage}: {', '.join(found)}")


def require_utf8(*paths: str) -> None:
    """Raise CommandError for a path that is not text: neither the queue nor a YAML can hold it."""
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise CommandError(f"{path}: its name is not UTF-8: rename it, or use another one") from error


def written_outside(config: Config) -> tuple[str, ...]:
    """Return the paths of checkpoint and TensorBoard outside the run's own folder, links followed."""
    from capsnet.files import locate

    named = config.checkpoint
    checkpoint = [locate(named.model_path)] if named.model_path else []
    folder = [Path(named.log_dir)] if named.log_dir else []
    return tuple(str(path.resolve()) for path in checkpoint + folder)


def see_through(access: Access, ids: list[int], follow: bool, wait: bool) -> int:
    """Follow the runs or wait for them where asked to; return the exit code."""
    from runner.following import follow_runs, tell, wait_for

    if follow:
        return follow_runs(access, ids, sys.stderr)
    if wait:
        code = wait_for(access.store, ids)
        if code != exits.STOPPED_LOOKING:
            tell(access, ids)
        return code
    one, it = (f" {ids[0]}", "it") if len(ids) == 1 else ("", "them")
    hint(f"queued {runs_named(ids)}; `{PROGRAM} watch{one}` shows {it}")
    return exits.OK
