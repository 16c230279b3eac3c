"""Configuration of a training run: the YAML that concerns training, read, checked, written. No PyTorch."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from capsnet import choosing, yamlfile
from capsnet.dataset_sections import (
    CIFAR10,
    MNIST,
    SVHN,
    AffineMNIST,
    AffNIST,
    Dataset,
    Digits,
    Distorted,
    FashionMNIST,
    Folder,
    FramedMNIST,
    MultiMNIST,
    Photographs,
    ShiftedMNIST,
    SmallNORB,
    StoredDataset,
)
from capsnet.geometry import chain
from capsnet.images import MNIST_SIDE, shape, whole
from capsnet.model_sections import (
    LOSS_OF,
    PAPER_RECONSTRUCTION_WEIGHT,
    AttentionRouting,
    CapsNetModel,
    CNNModel,
    CrossEntropy,
    DeconvDecoder,
    DynamicRouting,
    EfficientCapsNetModel,
    FCDecoder,
    Loss,
    MarginLoss,
    MatrixCapsNetModel,
    Model,
    NoDecoder,
    SelfRouting,
    SpreadLoss,
)
from capsnet.presets import AUTHORS_LEAK, PRESETS, underlay
from capsnet.sections import (
    SGD,
    Adam,
    AdamW,
    Checkpoint,
    Cosine,
    CosineSchedule,
    Count,
    DataLoader,
    Exponential,
    ExponentialSchedule,
    MultiStep,
    MultiStepSchedule,
    Optim,
    Schedule,
    Section,
)
from capsnet.yamlfile import ConfigError, Document
from capsnet.yamltext import KeyPath

__all__ = [
    "CIFAR10",
    "MNIST",
    "PAPER_RECONSTRUCTION_WEIGHT",
    "SGD",
    "SVHN",
    "Adam",
    "AdamW",
    "AffNIST",
    "AffineMNIST",
    "AttentionRouting",
    "CNNModel",
    "CapsNetModel",
    "Checkpoint",
    "Config",
    "ConfigError",
    "Cosine",
    "CosineSchedule",
    "CrossEntropy",
    "DataLoader",
    "Dataset",
    "DeconvDecoder",
    "Digits",
    "Distorted",
    "DynamicRouting",
    "EfficientCapsNetModel",
    "Exponential",
    "ExponentialSchedule",
    "FCDecoder",
    "FashionMNIST",
    "Folder",
    "FramedMNIST",
    "Loss",
    "MarginLoss",
    "MatrixCapsNetModel",
    "Model",
    "MultiMNIST",
    "MultiStep",
    "MultiStepSchedule",
    "NoDecoder",
    "Optim",
    "Photographs",
    "Schedule",
    "Section",
    "SelfRouting",
    "ShiftedMNIST",
    "SmallNORB",
    "SpreadLoss",
    "StoredDataset",
    "config_of",
    "data_root",
    "default_root",
    "load",
    "parse",
    "read",
    "spelt_out",
    "to_yaml",
    "with_absolute_paths",
    "with_overrides",
]


log = logging.getLogger(__name__)

MOST_DEVIATIONS = 10.0  # of brightness; published recipes have 2


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
    stop_after_epochs_without_gain: Count | None = None  # on the validation split; None: all epochs
    batch_size: Count = 128
    route_iters: int = Field(default=3, ge=1, le=10)
    use_cuda: bool = True  # where there is one
    precision: Literal["float32", "tf32", "bfloat16", "auto"] = "float32"
    compile: bool = False  # by torch.compile
    cuda_graph: bool = False  # on CUDA
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None  # of the CPU; None: all this process may use
    deterministic: bool = False  # on CUDA: bit-exact resume, slower
    dataset: Dataset = MNIST()
    model: Model = CapsNetModel()
    loss: Loss = MarginLoss()
    optim: Optim = MultiStep()
    dataloader: DataLoader = DataLoader()
    checkpoint: Checkpoint = Checkpoint()

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        return _with_defaults(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if found := list(contradictions(self)):
            text = "; ".join(f"{'.'.join(map(str, path))} {message}" for path, message, _ in found)
            raise PydanticCustomError("contradictions", "{text}", {"text": text, "found": found})
        return self

    @property
    def decoder(self) -> FCDecoder | DeconvDecoder | None:
        """The decoder that the network has; None where nothing is reconstructed."""
        # By the classes: PyTorch's compiler reads this, and knows no attribute that may be missing.
        if not isinstance(self.model, CapsNetModel | EfficientCapsNetModel):
            return None
        decoder = self.model.decoder
        wanted = isinstance(self.loss, MarginLoss | CrossEntropy) and self.loss.with_reconstruction
        return None if isinstance(decoder, NoDecoder) or not wanted else decoder


def _with_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Add to a file's values the missing defaults of its kind of model, then those of its preset."""
    values = underlay(values, _asked_for_by(values.get("model"), values.get("loss")))
    preset = values.get("preset", "paper")
    if preset == "authors" and _chosen(values.get("model"), "none_of_the_above") is True:
        values = underlay(values, AUTHORS_LEAK)
    return underlay(values, PRESETS.get(preset, {})) if isinstance(preset, str) else values


def _asked_for_by(model: Any, loss: Any) -> dict[str, Any]:
    """The defaults of other sections that go with a model, such as cross-entropy with a CNN."""
    if not isinstance(model, dict):
        return {}
    if name := LOSS_OF.get(str(model.get("name"))):
        return {"loss": {"name": name}}
    none = _chosen(model.get("decoder")) == "none"
    if _chosen(model.get("routing")) == "self" and _chosen(loss) in (None, "cross_entropy"):
        return {"loss": {"name": "cross_entropy", "with_reconstruction": not none}}
    return {"loss": {"name": "margin", "with_reconstruction": False}} if none else {}


def _chosen(section: Any, key: str = "name") -> Any:
    """The value that a section of a file gives a key, such as that of its kind; None where it gives none."""
    return section.get(key) if isinstance(section, dict) else None


def contradictions(config: Config) -> Iterator[tuple[KeyPath, str, tuple[KeyPath, ...]]]:
    """Yield values that exclude each other or that nothing uses: the key to blame, why, all keys involved.

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
    if config.stop_after_epochs_without_gain is not None and config.dataset.validation == 0:
        why = "needs a validation split to tell a gain by: set dataset.validation, as in 5000"
        yield _contradiction("stop_after_epochs_without_gain", why, "dataset.validation")
    if isinstance(optim, ExponentialSchedule | CosineSchedule) and optim.floor > optim.lr:
        yield _contradiction("optim.floor", f"is above optim.lr ({optim.lr:g})", "optim.lr")
    given = optim.model_fields_set  # `milestone: []` is a way to say that there shall be none
    if isinstance(optim, MultiStepSchedule) and "step_decay" in given and "milestone" not in given:
        why = "is applied at each milestone, and there is none: set optim.milestone, as in [30, 40]"
        yield _contradiction("optim.step_decay", why, "optim.milestone")
    yield from _of_sizes(config)
    yield from _of_kinds(config)


def _of_sizes(config: Config) -> Iterator[tuple[KeyPath, str, tuple[KeyPath, ...]]]:
    """Yield contradictions of sizes, where nothing would be left of an image or a feature map."""
    dataset = config.dataset
    if isinstance(dataset, Photographs) and dataset.crop and dataset.crop > min(whole(dataset)):
        why = f"{dataset.crop} is more than the {min(whole(dataset))} pixels that an image has a side"
        yield _contradiction(
            "dataset.crop", why, "dataset.size" if "size" in type(dataset).model_fields else "dataset.name"
        )
        return
    if dataset.shift >= (most := whole(dataset)[0] - _frame(dataset)):
        why = f"{dataset.shift} can move all of an image out of sight: it must be less than {most} pixels"
        sized = [key for key in ("pad", "size") if key in type(dataset).model_fields]
        yield _contradiction("dataset.shift", why, f"dataset.{sized[0] if sized else 'name'}")
    if isinstance(dataset, Photographs):
        yield from _of_light(dataset)
    image = shape(dataset)
    if isinstance(dataset, Distorted):
        yield from _of_distortions(dataset, min(image.height, image.width))
    convolutions = chain(config.model)
    try:
        convolutions.grids(image.height, image.width)
    except ValueError as error:
        other = "dataset.size" if isinstance(dataset, Digits | Folder) else "dataset.name"
        yield _contradiction(convolutions.key, str(error).removeprefix(f"{convolutions.key} "), other)


def _of_light(dataset: Photographs) -> Iterator[tuple[KeyPath, str, tuple[KeyPath, ...]]]:
    if not dataset.clip and not dataset.brightness and dataset.contrast == (1.0, 1.0):
        why = "false is about brightness and contrast, and both are off: set it to true"
        yield _contradiction("dataset.clip", why, "dataset.brightness")
    if dataset.standardise == "first" and dataset.brightness > MOST_DEVIATIONS:
        why = (
            f"{dataset.brightness:g} would leave nothing of an image: with dataset.standardise: first it "
            "counts standard deviations, as in 2.0"
        )
        yield _contradiction("dataset.brightness", why, "dataset.standardise")


def _of_distortions(dataset: Distorted, side: int) -> Iterator[tuple[KeyPath, str, tuple[KeyPath, ...]]]:
    sized = "dataset.size" if isinstance(dataset, Digits) else "dataset.name"
    if dataset.roam and dataset.shift:
        why = "true moves images within their margins, and dataset.shift by pixels: set dataset.shift to 0"
        yield _contradiction("dataset.roam", why, "dataset.shift")
    if dataset.squeeze > (most := side // 2):
        why = f"{dataset.squeeze} leaves too little of images of {side} pixels a side: at most {most}"
        yield _contradiction("dataset.squeeze", why, sized)
    if dataset.erase > (most := side // 2 - 1):
        why = f"{dataset.erase} is too large a square for images of {side} pixels a side: at most {most}"
        yield _contradiction("dataset.erase", why, sized)


def _frame(dataset: Dataset) -> int:
    """Return the width in pixels of the black frame around the image that training shifts."""
    return (
        (whole(dataset)[0] - MNIST_SIDE) // 2
        if isinstance(dataset, FramedMNIST | AffNIST | MultiMNIST)
        else 0
    )


def _of_kinds(config: Config) -> Iterator[tuple[KeyPath, str, tuple[KeyPath, ...]]]:
    """Yield contradictions between the kinds of model, loss and data set."""
    model, loss, labels = config.model, config.loss, shape(config.dataset).labels
    decoder = getattr(model, "decoder", None)
    if isinstance(model, CNNModel) and not isinstance(loss, CrossEntropy):
        yield _contradiction(
            "loss.name", f"{loss.name} is taken of capsules; model.name: cnn has none", "model.name"
        )
    capsnet = model if isinstance(model, CapsNetModel) else None
    routes_itself = capsnet is not None and isinstance(capsnet.routing, SelfRouting)
    if not isinstance(model, CNNModel) and isinstance(loss, CrossEntropy) and not routes_itself:
        why = f"cross_entropy is taken of logits; the lengths of model.name: {model.name} are none"
        yield _contradiction("loss.name", why, "model.name")
    if routes_itself and isinstance(loss, CrossEntropy) and labels > 1:
        why = (
            "self is trained by the cross-entropy of one class; "
            f"each image of {config.dataset.name} shows {labels}: set loss.name: margin"
        )
        yield _contradiction("model.routing.name", why, "dataset.name")
    if isinstance(loss, SpreadLoss) and labels > 1:
        why = f"spread sets one class apart; each image of {config.dataset.name} shows {labels}"
        yield _contradiction("loss.name", why, "dataset.name")
    if isinstance(loss, SpreadLoss) and loss.first_margin > loss.last_margin:
        yield _contradiction(
            "loss.first_margin", f"is above loss.last_margin ({loss.last_margin:g})", "loss.last_margin"
        )
    if isinstance(model, CNNModel) and len(model.kernel_sizes) != len(model.conv_channels):
        why = f"has {len(model.kernel_sizes)} sizes for the {len(model.conv_channels)} of model.conv_channels"
        yield _contradiction("model.kernel_sizes", why, "model.conv_channels")
    if isinstance(model, EfficientCapsNetModel) and model.conv_channels[-1] % model.primary_dim:
        why = (
            f"{model.primary_dim} does not divide the last of model.conv_channels ({model.conv_channels[-1]})"
        )
        yield _contradiction("model.primary_dim", why, "model.conv_channels")
    reconstructs = isinstance(loss, MarginLoss | CrossEntropy) and loss.with_reconstruction
    fitting = MarginLoss if isinstance(model, MatrixCapsNetModel) else CrossEntropy
    if reconstructs and isinstance(model, MatrixCapsNetModel | CNNModel) and isinstance(loss, fitting):
        why = f"true needs a decoder, and model.name: {model.name} has none: set it to false"
        yield _contradiction("loss.with_reconstruction", why, "model.name")
    if reconstructs and isinstance(decoder, NoDecoder):
        why = "true contradicts model.decoder.name: none"
        yield _contradiction("loss.with_reconstruction", why, "model.decoder")
    if capsnet and capsnet.none_of_the_above and not isinstance(capsnet.routing, DynamicRouting):
        why = f"true is for dynamic routing; {capsnet.routing.name} has no couplings to no class"
        yield _contradiction("model.none_of_the_above", why, "model.routing")
    if capsnet and capsnet.class_bias and routes_itself:
        why = "true is for dynamic and attention routing; self has no bias on its capsules: set it to false"
        yield _contradiction("model.class_bias", why, "model.routing")
    unused = config.decoder is None and isinstance(decoder, FCDecoder | DeconvDecoder)
    if unused and decoder != FCDecoder():
        off = isinstance(loss, MarginLoss | CrossEntropy)
        key, value = ("loss.with_reconstruction", "false") if off else ("loss.name", loss.name)
        yield _contradiction(
            "model.decoder", f"is configured, but {key}: {value} leaves the decoder out", key
        )
    if config.batch_size == 1 and (cause := _batch_normalised(config)):
        why = f"1 leaves the batch normalisation of {cause} nothing to learn its statistics of: set 2 or more"
        yield _contradiction("batch_size", why, cause.partition(":")[0])


def _batch_normalised(config: Config) -> str | None:
    """The key that asks for batch normalisation, with its value."""
    if isinstance(config.model, EfficientCapsNetModel):
        return f"model.name: {config.model.name}"
    return "model.decoder.batch_norm: true" if config.decoder and config.decoder.batch_norm else None


def _contradiction(key: str, why: str, other: str) -> tuple[KeyPath, str, tuple[KeyPath, ...]]:
    path = tuple(key.split("."))
    return path, why, (path, tuple(other.split(".")))


def load(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """The configuration in a YAML file, without its `runner:` block. Raises ConfigError with every mistake.

    `overrides`: `key=value` each, the key dotted, the value YAML. `name` defaults to the file's stem.
    """
    return config_of(read(path, overrides))


def read(path: str | Path, overrides: Iterable[str] = ()) -> Document:
    """The document in a YAML file with `key=value` put over it; logs which keys they drop."""
    document = with_overrides(yamlfile.read(path), overrides)
    for note in document.notes:
        log.info("%s", note)
    return document


def parse(text: str, file: str = "configuration") -> Config:
    """The configuration in YAML text; messages call it `file`. Raises ConfigError with every mistake."""
    return config_of(yamlfile.parse(text, file))


def with_overrides(document: Document, overrides: Iterable[str]) -> Document:
    """`document` with `key=value` put over it: `dataset=mnist` is `dataset.name=mnist`.

    What the file says of a kind of section that an override replaces is dropped, and noted.
    """
    changed = yamlfile.with_overrides(document, overrides, spelt_out)
    return choosing.without_other_kinds(Config, document, changed, _with_defaults)


def spelt_out(override: str) -> str:
    """The override that `key=value` stands for: `dataset.name=mnist` for `dataset=mnist`."""
    return choosing.spelt_out(Config, override)


def config_of(document: Document) -> Config:
    """The configuration that a document holds. Raises ConfigError with every mistake."""
    return yamlfile.validate(Config, training_part(document), document, known=("runner",))


def training_part(document: Document) -> dict[str, Any]:
    """Return the keys of a document that concern training, the run's name among them."""
    rest = {key: value for key, value in document.data.items() if key != "runner"}
    return {"name": name_of(document.file), **rest}


def name_of(file: str) -> str:
    """The name of a run whose YAML gives none: the file's stem, as far as a folder can be named so."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(file).stem).strip("-._")[:100] or "run"


def to_yaml(config: Config) -> str:
    """The configuration as YAML, every key resolved; it loads back equal."""
    return yamlfile.dump(config.model_dump())


def with_absolute_paths(
    config: Config, directory: Path, environment: Mapping[str, str] | None = os.environ
) -> Config:
    """Return the configuration with absolute paths: relative ones start at `directory`, `~` is a home.

    A data set without a folder gets the one that `environment` names. Where `environment` is None it gets
    none: the environment of the process that trains will name it.
    """

    def absolute(path: str | None) -> str | None:
        if path is None:
            return None
        slash = "/" if path.endswith("/") else ""  # which says that `model_path` is a folder
        return str(directory / Path(path).expanduser()).rstrip("/") + slash

    dataset = config.dataset
    if isinstance(dataset, StoredDataset):
        root = dataset.root
        if root is None and environment is not None:
            root = environment.get("CAPSNET_DATA") or "data"
        dataset = dataset.model_copy(update={"root": absolute(root)})
    paths = {key: absolute(getattr(config.checkpoint, key)) for key in ("model_path", "log_dir")}
    checkpoint = config.checkpoint.model_copy(update=paths)
    return config.model_copy(update={"dataset": dataset, "checkpoint": checkpoint})


def data_root(dataset: Dataset, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the absolute folder of a data set's files; a relative one starts at the current directory."""
    root = dataset.root if isinstance(dataset, StoredDataset) else None
    return Path(root).expanduser().absolute() if root else default_root(environment)


def default_root(environment: Mapping[str, str]) -> Path:
    """Return the folder of data sets when the YAML names none."""
    return Path(environment.get("CAPSNET_DATA") or "data").absolute()
