"""The sections of a run's YAML: what they have in common, optimiser, checkpoint.

The flat names are those that users of YAML-configured CapsNet trainers know. Choices between kinds
(`dataset`, `model`, `loss`, `optim`) are unions tagged by a name, so that a key which means nothing for the
chosen kind is an error and never silently ignored. `optim` is tagged twice, by `name` and by `schedule`.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag


class Section(BaseModel):
    """A part of the YAML: immutable, and every key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # Of a kind: words that one may look for here, and where what they mean is found.
    elsewhere: ClassVar[dict[str, str]] = {}


def tagged(key: str, default: str) -> Discriminator:
    """A discriminator that reads `key`, and takes `default` where the YAML leaves it out."""

    def tag(value: Any) -> str:
        return str(value.get(key, default) if isinstance(value, dict) else getattr(value, key, default))

    return Discriminator(tag)


def _path(path: str) -> str:
    if not path.strip() or "\0" in path:
        raise ValueError("must be a path")
    try:
        Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"there is no user {path[1:].partition('/')[0]}") from None
    return path


def _rising(epochs: tuple[int, ...]) -> tuple[int, ...]:
    if any(later <= earlier for earlier, later in pairwise(epochs)):
        raise ValueError("must rise from one to the next")
    return epochs


PathText = Annotated[str, AfterValidator(_path)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Factor = Annotated[float, Field(gt=0, le=1)]
Milestones = Annotated[tuple[Count, ...], Field(strict=False), AfterValidator(_rising)]


class Adam(Section):
    """Adam (Kingma and Ba 2015)."""

    name: Literal["adam"] = "adam"
    epsilon: Positive = 1e-8  # added to the root of the mean squared gradient
    weight_decay: NotNegative = 0.0  # times each weight, added to its gradient (an L2 penalty)


class AdamW(Section):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    name: Literal["adamw"] = "adamw"
    epsilon: Positive = 1e-8
    weight_decay: NotNegative = 0.01  # times the learning rate: the share by which a step shrinks each weight


class SGD(Section):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: NotNegative = 0.0  # as of Adam


class Schedule(Section):
    """Settings that every learning rate schedule has, whatever the optimizer."""

    lr: Positive = 0.001
    warmup_epochs: NotNegative = 0.0  # in epochs: the rate rises in even steps to that of the schedule
    clip_norm: Positive | None = None  # the longest that the gradient of a batch may be; None: any length


class MultiStepSchedule(Schedule):
    """The learning rate times `step_decay` at each milestone (MultiStepLR)."""

    schedule: Literal["multistep"] = "multistep"
    step_decay: Factor = 0.1
    milestone: Milestones = ()  # in epochs


class ExponentialSchedule(Schedule):
    """The learning rate times `decay` ** (t / every), never below `floor`."""

    schedule: Literal["exponential"] = "exponential"
    decay: Factor = 0.96
    per: Literal["step", "epoch"] = "epoch"
    every: Count = 1  # in units of `per`
    floor: NotNegative = 0.0


class CosineSchedule(Schedule):
    """The learning rate falls as half a cosine from `lr` to `floor` over all epochs."""

    schedule: Literal["cosine"] = "cosine"
    floor: NotNegative = 0.0


# Each optimizer with each schedule. Of Adam, the default, they have the schedule's name.
class MultiStep(MultiStepSchedule, Adam): ...


class Exponential(ExponentialSchedule, Adam): ...


class Cosine(CosineSchedule, Adam): ...


class AdamWMultiStep(MultiStepSchedule, AdamW): ...


class AdamWExponential(ExponentialSchedule, AdamW): ...


class AdamWCosine(CosineSchedule, AdamW): ...


class SGDMultiStep(MultiStepSchedule, SGD): ...


class SGDExponential(ExponentialSchedule, SGD): ...


class SGDCosine(CosineSchedule, SGD): ...


OfAdam = Annotated[
    Annotated[MultiStep, Tag("multistep")]
    | Annotated[Exponential, Tag("exponential")]
    | Annotated[Cosine, Tag("cosine")],
    tagged("schedule", "multistep"),
]
OfAdamW = Annotated[
    Annotated[AdamWMultiStep, Tag("multistep")]
    | Annotated[AdamWExponential, Tag("exponential")]
    | Annotated[AdamWCosine, Tag("cosine")],
    tagged("schedule", "multistep"),
]
OfSGD = Annotated[
    Annotated[SGDMultiStep, Tag("multistep")]
    | Annotated[SGDExponential, Tag("exponential")]
    | Annotated[SGDCosine, Tag("cosine")],
    tagged("schedule", "multistep"),
]
Optim = Annotated[
    Annotated[OfAdam, Tag("adam")] | Annotated[OfAdamW, Tag("adamw")] | Annotated[OfSGD, Tag("sgd")],
    tagged("name", "adam"),
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
