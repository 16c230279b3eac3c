"""Check before a network is built that a run can be trained as it is configured.

No image is opened, and PyTorch is not imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from capsnet import dataset_files
from capsnet.config import Config, Dataset, config_of, data_root, read
from capsnet.cpus import available_cpus
from capsnet.dataset_sections import Folder
from capsnet.images import DataError
from capsnet.mistakes import ConfigError
from capsnet.yamltext import KeyPath


@dataclass(frozen=True)
class Obstacle:
    """Why a run cannot be trained as it is configured."""

    path: KeyPath  # of the key to blame
    message: str
    everywhere: bool  # on any host, not on this one alone


def load(path: str | Path, overrides: Iterable[str] = (), resume: bool = False) -> Config:
    """The configuration in a YAML file, for a run on this host. Raises ConfigError with every mistake.

    `resume`: of a run that goes on only the data can be missing; the rest is settled.
    """
    document = read(path, overrides)
    config = config_of(document)
    goes_on = resume or config.checkpoint.use_checkpoint
    if found := list(of_data(config) if goes_on else obstacles(config)):
        raise ConfigError(document.mistake(obstacle.path, obstacle.message) for obstacle in found)
    return config


def obstacles(config: Config) -> Iterator[Obstacle]:
    """Everything that stands in the way of a new run on this host, from the current directory."""
    lacking = list(of_data(config))
    yield from lacking
    if not (lacking and isinstance(config.dataset, Folder)):  # of which only the files tell the number
        yield from of_sizes(config)
    yield from of_threads(config)


def of_data(config: Config) -> Iterator[Obstacle]:
    """Why the data set is neither on this host nor downloaded, if so."""
    try:
        dataset_files.require(config.dataset, data_root(config.dataset))
    except (DataError, OSError) as error:
        known = isinstance(error, DataError)
        why = str(error) if known else f"{error.filename} cannot be read: {error.strerror}"
        key = "root" if getattr(config.dataset, "root", None) else "name"
        yield Obstacle(("dataset", key), why, everywhere=False)


def of_sizes(config: Config) -> Iterator[Obstacle]:
    """Parts of the training images that are larger than all of them. Raises DataError as `require` does."""
    dataset, held_back, batch = config.dataset, config.dataset.validation, config.batch_size
    count = dataset_files.training_images(dataset, data_root(dataset), enough=held_back + batch)
    everywhere = not isinstance(dataset, Folder)  # another host may have other files
    if held_back >= count:
        why = f"{held_back} leaves none of the {count} training images of {_called(dataset)} to train on"
        yield Obstacle(("dataset", "validation"), f"{why}: set it to less", everywhere)
    elif batch > (left := count - held_back):
        rest = "that dataset.validation leaves" if held_back else f"of {_called(dataset)}"
        why = f"{batch} is more than the {left} training images {rest}"
        yield Obstacle(("batch_size",), f"{why}: set {left} or less", everywhere)


def _called(dataset: Dataset) -> str:
    return "the folder" if isinstance(dataset, Folder) else dataset.name


def of_threads(config: Config) -> Iterator[Obstacle]:
    """More threads than CPUs. A run that goes on keeps the number with which it began, wherever it does."""
    if config.threads is not None and config.threads > (cpus := available_cpus()):
        why = f"{config.threads} is more than the {cpus} CPUs that a process may use here"
        yield Obstacle(("threads",), f"{why}: set {cpus} or less, or null for all", everywhere=False)
