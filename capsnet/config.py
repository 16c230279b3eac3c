"""What a training run is, as data: the YAML that concerns training, read, checked and written. No PyTorch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from capsnet import yamlfile
from capsnet.geometry import grid
from capsnet.images import shape
from capsnet.presets import PRESETS, underlay
from capsnet.sections import (
    MNIST,
    PAPER_RECONSTRUCTION_WEIGHT,
    CapsNetModel,
    Checkpoint,
    Cosine,
    Count,
    DataLoader,
    Dataset,
    Digits,
    DynamicRouting,
    Exponential,
    FashionMNIST,
    FCDecoder,
    Loss,
    MultiStep,
    Optim,
    Section,
    StoredDataset,
)
from capsnet.yamlfile import ConfigError, Document
from capsnet.yamltext import KeyPath

__all__ = [
    "MNIST",
    "PAPER_RECONSTRUCTION_WEIGHT",
    "CapsNetModel",
    "Checkpoint",
    "Config",
    "ConfigError",
    "Cosine",
    "DataLoader",
    "Dataset",
    "Digits",
    "DynamicRouting",
    "Exponential",
    "FCDecoder",
    "FashionMNIST",
    "Loss",
    "MultiStep",
    "Optim",
    "Section",
    "default_root",
    "load",
    "parse",
    "to_yaml",
    "with_absolute_paths",
]


def _run_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ValueError("must be at most 100 letters, digits and . _ -, the first a letter or digit")
    return name


Name = Annotated[str, AfterValidator(_run_name)]


class Config(Section):
    """One training run."""

    name: Name = "run"
    preset: Literal["paper", "authors"] = "paper"  # the defaults: the paper's text, or the authors' code
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    num_epochs: Count = 50
    batch_size: Count = 128
    route_iters: int = Field(default=3, ge=1, le=10)
    use_cuda: bool = True  # where there is one
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None  # of the CPU; None: all this process may use
    deterministic: bool = False  # on CUDA: bit-exact resume, slower
    dataset: Dataset = MNIST()
    model: CapsNetModel = CapsNetModel()
    loss: Loss = Loss()
    optim: Optim = MultiStep()
    dataloader: DataLoader = DataLoader()
    checkpoint: Checkpoint = Checkpoint()

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        """Put the preset's values under those of the file."""
        if isinstance(values, dict) and isinstance(preset := values.get("preset", "paper"), str):
            return underlay(values, PRESETS.get(preset, {}))
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if found := list(contradictions(self)):
            text = "; ".join(f"{'.'.join(map(str, path))} {message}" for path, message, _ in found)
            raise PydanticCustomError("contradictions", "{text}", {"text": text, "found": found})
        return self


def contradictions(config: Config) -> Iterator[tuple[KeyPath, str, tuple[KeyPath, ...]]]:
    """Values that exclude each other, or that nothing would use: the key to blame, why, all keys involved.

    A classic file always carries `rc_loss_weight` and `pin_memory` beside the switches that decide whether
    they count, and runs unchanged; so those may stand beside a switch that is off. So may milestones after
    the last epoch, for `--set num_epochs=1`, and a decoder with its defaults: a resolved file has every key.
    """
    checkpoint, optim = config.checkpoint, config.optim
    if checkpoint.use_best and config.dataset.validation == 0:
        why = "needs a validation split to know the best by: set dataset.validation, as in 5000"
        yield _contradiction("checkpoint.use_best", why, "dataset.validation")
    if checkpoint.use_best and not checkpoint.use_checkpoint:
        why = "says which weights to go on with: it needs checkpoint.use_checkpoint: true"
        yield _contradiction("checkpoint.use_best", why, "checkpoint.use_checkpoint")
    if checkpoint.use_checkpoint and checkpoint.model_path is None:
        why = "needs checkpoint.model_path, the file to go on from"
        yield _contradiction("checkpoint.use_checkpoint", why, "checkpoint.model_path")
    if not isinstance(optim, MultiStep) and optim.floor > optim.lr:
        yield _contradiction("optim.floor", f"is above optim.lr ({optim.lr:g})", "optim.lr")
    given = optim.model_fields_set  # `milestone: []` is a way to say that there shall be none
    if isinstance(optim, MultiStep) and "step_decay" in given and "milestone" not in given:
        why = "is applied at each milestone, and there is none: set optim.milestone, as in [30, 40]"
        yield _contradiction("optim.step_decay", why, "optim.milestone")
    image = shape(config.dataset)
    try:
        grid(config.model.kernel_size, image.height, image.width)
    except ValueError as error:
        other = "dataset.size" if isinstance(config.dataset, Digits) else "dataset.name"
        yield _contradiction("model.kernel_size", str(error).removeprefix("model.kernel_size "), other)
    if not config.loss.with_reconstruction and config.model.decoder != FCDecoder():
        why = "is configured, but loss.with_reconstruction: false leaves the decoder out"
        yield _contradiction("model.decoder", why, "loss.with_reconstruction")


def _contradiction(key: str, why: str, other: str) -> tuple[KeyPath, str, tuple[KeyPath, ...]]:
    path = tuple(key.split("."))
    return path, why, (path, tuple(other.split(".")))


def load(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """The configuration in a YAML file, without its `runner:` block. Raises ConfigError with every mistake.

    `overrides`: `key=value` each, the key dotted, the value YAML. `name` defaults to the file's stem.
    """
    return _config(yamlfile.with_overrides(yamlfile.read(path), overrides))


def parse(text: str, file: str = "configuration") -> Config:
    """The configuration in YAML text; messages call it `file`. Raises ConfigError with every mistake."""
    return _config(yamlfile.parse(text, file))


def _config(document: Document) -> Config:
    return yamlfile.validate(Config, training_part(document), document, known=("runner",))


def training_part(document: Document) -> dict[str, Any]:
    """What a document says about training, under the name that it goes by."""
    rest = {key: value for key, value in document.data.items() if key != "runner"}
    return {"name": name_of(document.file), **rest}


def name_of(file: str) -> str:
    """The name of a run whose YAML gives none: the file's stem, as far as a folder can be named so."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(file).stem).strip("-._")[:100] or "run"


def to_yaml(config: Config) -> str:
    """The configuration as YAML, every key resolved; it loads back equal."""
    return yamlfile.dump(config.model_dump())


def with_absolute_paths(
    config: Config, directory: Path, environment: Mapping[str, str] = os.environ
) -> Config:
    """The same run for whoever starts it elsewhere: paths are relative to `directory`, `~` is a home."""

    def absolute(path: str | None) -> str | None:
        if path is None:
            return None
        slash = "/" if path.endswith("/") else ""  # which says that `model_path` is a folder
        return str(directory / Path(path).expanduser()).rstrip("/") + slash

    dataset = config.dataset
    if isinstance(dataset, StoredDataset):
        root = absolute(dataset.root or environment.get("CAPSNET_DATA") or "data")
        dataset = dataset.model_copy(update={"root": root})
    paths = {key: absolute(getattr(config.checkpoint, key)) for key in ("model_path", "log_dir")}
    checkpoint = config.checkpoint.model_copy(update=paths)
    return config.model_copy(update={"dataset": dataset, "checkpoint": checkpoint})


def default_root(environment: Mapping[str, str]) -> Path:
    """Where data sets lie when the YAML does not say."""
    return Path(environment.get("CAPSNET_DATA") or "data").absolute()
