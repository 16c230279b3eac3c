"""The sections of a run's YAML: what they have in common, optimiser, checkpoint.

The flat names are those that users of YAML-configured CapsNet trainers know. Choices between kinds
(`dataset`, `model`, `loss`, `optim`) are unions tagged by a name, so that a key which means nothing for the
chosen kind is an error and never silently ignored.
"""

from __future__ import annotations

from itertools import pairwise
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
