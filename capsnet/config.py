"""What a training run is, as data: every key of the YAML that concerns training.

The flat names are those that users of YAML-configured CapsNet trainers know. Choices between kinds
(`dataset`, `model`, `optim`) are unions tagged by a name, so that a key which means nothing for the
chosen kind is an error and never silently ignored. Imports no PyTorch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

PAPER_RECONSTRUCTION_WEIGHT = 0.0005


class Section(BaseModel):
    """A part of the YAML: immutable, and every key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def tagged(key: str, default: str) -> Discriminator:
    """A discriminator that reads `key`, and takes `default` where the YAML leaves it out."""

    def tag(value: Any) -> str:
        return value.get(key, default) if isinstance(value, dict) else getattr(value, key, default)

    return Discriminator(tag)


class ImageDataset(Section):
    """What all data sets of images have in common."""

    root: str | None = None  # folder of the files; None: $CAPSNET_DATA, else ./data
    validation: int = Field(0, ge=0)  # images taken from the training set by seed; they decide "best"
    shift: int = Field(2, ge=0)  # in pixels, at most, in each direction; training only


class Digits(ImageDataset):
    """scikit-learn's 1,797 handwritten digits; the last 360, by other writers, are the test set."""

    name: Literal["digits"] = "digits"
    size: int = Field(28, ge=8)  # pixels a side; the 8×8 originals are upscaled


class MNIST(ImageDataset):
    name: Literal["mnist"] = "mnist"


class FashionMNIST(ImageDataset):
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
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field((512, 1024), min_length=1, strict=False)


class CapsNetModel(Section):
    """The network of Sabour et al. 2017; its sizes default to the paper's on MNIST."""

    name: Literal["capsnet"] = "capsnet"
    conv_channels: int = Field(256, ge=1)
    kernel_size: int = Field(9, ge=1)  # pixels, of both convolutions
    primary_types: int = Field(32, ge=1)
    primary_dim: int = Field(8, ge=1)
    class_dim: int = Field(16, ge=1)
    primary_routing: Literal["squash", "softmax"] = "squash"  # "softmax": the authors' code
    class_bias: bool = False  # the authors' bias on the routed capsules
    init: Literal["paper", "authors"] = "paper"
    routing: DynamicRouting = DynamicRouting()
    decoder: FCDecoder = FCDecoder()


class Loss(Section):
    with_reconstruction: bool = True
    rc_loss_weight: float = Field(PAPER_RECONSTRUCTION_WEIGHT, ge=0)  # times the *summed* squared error
    margin: Literal["paper", "authors"] = "paper"  # "authors": half of Equation 4, averaged over the classes


class MultiStep(Section):
    """Adam; the learning rate times `step_decay` at each milestone (MultiStepLR)."""

    schedule: Literal["multistep"] = "multistep"
    lr: float = Field(0.001, gt=0)
    step_decay: float = Field(0.1, gt=0, le=1)
    milestone: tuple[Annotated[int, Field(ge=1)], ...] = Field((), strict=False)  # in epochs, rising


class Exponential(Section):
    """Adam; the learning rate times `decay` ** (t / every), never below `floor`."""

    schedule: Literal["exponential"] = "exponential"
    lr: float = Field(0.001, gt=0)
    decay: float = Field(0.96, gt=0, le=1)
    per: Literal["step", "epoch"] = "epoch"
    every: int = Field(1, ge=1)  # in units of `per`
    floor: float = Field(0.0, ge=0)


class Cosine(Section):
    """Adam; the learning rate falls as half a cosine from `lr` to `floor` over all epochs."""

    schedule: Literal["cosine"] = "cosine"
    lr: float = Field(0.001, gt=0)
    floor: float = Field(0.0, ge=0)


Optim = Annotated[
    Annotated[MultiStep, Tag("multistep")]
    | Annotated[Exponential, Tag("exponential")]
    | Annotated[Cosine, Tag("cosine")],
    tagged("schedule", "multistep"),
]


class DataLoader(Section):
    num_workers: int = Field(0, ge=0)  # 0: the whole data set stays on the training device
    pin_memory: bool = False  # applies with workers and a GPU


class Checkpoint(Section):
    model_path: str | None = None  # file, or folder that gets a checkpoint.pt
    log_dir: str | None = None  # TensorBoard's folder
    use_checkpoint: bool = False  # go on from `model_path` where it exists
    use_best: bool = False  # ... with the weights that did best on the validation split
    interval_seconds: float = Field(30.0, gt=0)
    keep_every: int | None = Field(None, ge=1)  # also keep the weights of every nth epoch


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "authors": {
        "model": {"primary_routing": "softmax", "class_bias": True, "init": "authors"},
        "loss": {"margin": "authors"},
        "optim": {"schedule": "exponential", "decay": 0.96, "per": "step", "every": 2000, "floor": 1e-6},
    },
}


def underlay(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """`values` over `defaults`, section by section."""
    merged = dict(defaults)
    for key, value in values.items():
        below = defaults.get(key)
        both = isinstance(value, dict) and isinstance(below, dict)
        merged[key] = underlay(value, below) if both else value
    return merged


class Config(Section):
    """One training run."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    preset: Literal["paper", "authors"] = "paper"  # which defaults: the text or the authors' code
    seed: int = Field(0, ge=0, lt=2**63)
    num_epochs: int = Field(50, ge=1)
    batch_size: int = Field(128, ge=1)
    route_iters: int = Field(3, ge=1, le=10)
    use_cuda: bool = True  # where there is one
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: int | None = Field(None, ge=1)  # of the CPU; None: all that this process may use
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


def default_root(environment: dict[str, str]) -> Path:
    """Where data sets lie when the YAML does not say."""
    return Path(environment.get("CAPSNET_DATA") or "data").absolute()
