"""What a training run is, as data: every key of the YAML that concerns training.

The flat names are those that users of YAML-configured CapsNet trainers know. Choices between kinds
(`dataset`, `model`, `optim`) are unions tagged by a name, so that a key which means nothing for the
chosen kind is an error and never silently ignored. Imports no PyTorch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from capsnet import yamlfile
from capsnet.presets import PRESETS, underlay
from capsnet.yamlfile import ConfigError, Document
from capsnet.yamltext import KeyPath

__all__ = ["Config", "ConfigError", "load", "parse", "to_yaml"]

PAPER_RECONSTRUCTION_WEIGHT = 0.0005


class Section(BaseModel):
    """A part of the YAML: immutable, and every key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def tagged(key: str, default: str) -> Discriminator:
    """A discriminator that reads `key`, and takes `default` where the YAML leaves it out."""

    def tag(value: Any) -> str:
        return str(value.get(key, default) if isinstance(value, dict) else getattr(value, key, default))

    return Discriminator(tag)


def _run_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ValueError("must be at most 100 letters, digits and . _ -, the first a letter or digit")
    return name


def _path(path: str) -> str:
    if not path.strip() or "\0" in path:
        raise ValueError("must be a path")
    return path


def _rising(epochs: tuple[int, ...]) -> tuple[int, ...]:
    if any(later <= earlier for earlier, later in pairwise(epochs)):
        raise ValueError("must rise from one to the next")
    return epochs


Name = Annotated[str, AfterValidator(_run_name)]
PathText = Annotated[str, AfterValidator(_path)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Factor = Annotated[float, Field(gt=0, le=1)]
Milestones = Annotated[tuple[Count, ...], Field(strict=False), AfterValidator(_rising)]


class ImageDataset(Section):
    """What all data sets of images have in common."""

    validation: int = Field(default=0, ge=0)  # images taken from the training set by seed; they decide "best"
    shift: int = Field(default=2, ge=0, le=64)  # in pixels, at most, in each direction; training only


class StoredDataset(ImageDataset):
    """A data set that lies in files."""

    root: PathText | None = None  # folder of the files; None: $CAPSNET_DATA, else ./data


class Digits(ImageDataset):
    """scikit-learn's 1,797 handwritten digits; the last 360, by other writers, are the test set."""

    name: Literal["digits"] = "digits"
    size: int = Field(default=28, ge=8, le=512)  # pixels a side; the 8×8 originals are upscaled


class MNIST(StoredDataset):
    name: Literal["mnist"] = "mnist"


class FashionMNIST(StoredDataset):
    name: Literal["fashion_mnist"] = "fashion_mnist"


Dataset = Annotated[
    Annotated[Digits, Tag("digits")]
    | Annotated[MNIST, Tag("mnist")]
    | Annotated[FashionMNIST, Tag("fashion_mnist")],
    tagged("name", "mnist"),
]


class DynamicRouting(Section):
    """Routing by agreement (Sabour et al. 2017, Procedure 1)."""

    name: Literal["dynamic"] = "dynamic"
    gradient: Literal["full", "detached"] = "full"  # through every iteration, or through the last one only


class FCDecoder(Section):
    """Fully connected decoder (Sabour et al. 2017, Figure 2)."""

    name: Literal["fc"] = "fc"
    hidden: Annotated[tuple[Count, ...], Field(min_length=1, strict=False)] = (512, 1024)  # units, by layer


class CapsNetModel(Section):
    """The network of Sabour et al. 2017; its sizes default to the paper's on MNIST."""

    name: Literal["capsnet"] = "capsnet"
    conv_channels: Count = 256
    kernel_size: int = Field(default=9, ge=1, le=255)  # pixels, of both convolutions
    primary_types: Count = 32
    primary_dim: Count = 8
    class_dim: Count = 16
    primary_routing: Literal["squash", "softmax"] = "squash"  # softmax: the authors' one pass over the types
    class_bias: bool = False  # the authors' bias on the routed capsules
    init: Literal["paper", "authors"] = "paper"
    routing: DynamicRouting = DynamicRouting()
    decoder: FCDecoder = FCDecoder()  # there with loss.with_reconstruction only


class Loss(Section):
    with_reconstruction: bool = True
    rc_loss_weight: NotNegative = PAPER_RECONSTRUCTION_WEIGHT  # times the *summed* squared error
    margin: Literal["paper", "authors"] = "paper"  # "authors": half of Equation 4, averaged over the classes


class MultiStep(Section):
    """Adam; the learning rate times `step_decay` at each milestone (MultiStepLR)."""

    schedule: Literal["multistep"] = "multistep"
    lr: Positive = 0.001
    step_decay: Factor = 0.1
    milestone: Milestones = ()  # in epochs


class Exponential(Section):
    """Adam; the learning rate times `decay` ** (t / every), never below `floor`."""

    schedule: Literal["exponential"] = "exponential"
    lr: Positive = 0.001
    decay: Factor = 0.96
    per: Literal["step", "epoch"] = "epoch"
    every: Count = 1  # in units of `per`
    floor: NotNegative = 0.0


class Cosine(Section):
    """Adam; the learning rate falls as half a cosine from `lr` to `floor` over all epochs."""

    schedule: Literal["cosine"] = "cosine"
    lr: Positive = 0.001
    floor: NotNegative = 0.0


Optim = Annotated[
    Annotated[MultiStep, Tag("multistep")]
    | Annotated[Exponential, Tag("exponential")]
    | Annotated[Cosine, Tag("cosine")],
    tagged("schedule", "multistep"),
]


class DataLoader(Section):
    num_workers: int = Field(default=0, ge=0, le=1024)  # 0: the whole data set stays on the training device
    pin_memory: bool = False  # applies with workers and a GPU


class Checkpoint(Section):
    model_path: PathText | None = None  # file, or folder that gets a checkpoint.pt
    log_dir: PathText | None = None  # TensorBoard's folder
    use_checkpoint: bool = False  # go on from `model_path` where it exists
    use_best: bool = False  # ... with the weights that did best on the validation split
    interval_seconds: Positive = 30.0
    keep_every: Count | None = None  # also keep the weights of every nth epoch


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
    """Values that exclude each other, or that nothing would use: the key to blame, why, all keys involved."""
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
        return None if path is None else str(directory / Path(path).expanduser())

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
