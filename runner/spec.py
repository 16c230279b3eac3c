"""How the queue treats a run: the `runner:` block of its YAML."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from runner import tags

LARGEST = 4096  # cores of one run
MOST_WORKERS = 1024  # of one run
SMALLEST = 0.01  # share of a GPU, or of a core


def _gpus(value: Any) -> float | Literal["auto"]:
    if value == "auto":
        return "auto"
    if _is_number(value) and (value in range(MOST_WORKERS + 1) or SMALLEST <= value < 1):
        return value
    raise ValueError("must be auto, a whole number, or a share of one GPU, as in 0.25")


def _cpus(value: Any) -> float | Literal["auto"]:
    if value == "auto":
        return "auto"
    if _is_number(value) and SMALLEST <= value <= LARGEST:
        return value
    raise ValueError("must be auto, or a number above 0")


def _workers(value: Any) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if type(value) is int and 1 <= value <= MOST_WORKERS:
        return value
    raise ValueError(f"must be auto, or a whole number from 1 to {MOST_WORKERS}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


TagKey = Annotated[str, AfterValidator(tags.key)]
TagValue = Annotated[str, Field(max_length=tags.LONGEST)]


Gpus = Annotated[int | float | Literal["auto"], PlainValidator(_gpus)]
Workers = Annotated[int | Literal["auto"], PlainValidator(_workers)]
Cpus = Annotated[int | float | Literal["auto"], PlainValidator(_cpus)]


class Spec(BaseModel):
    """Resources, priority, retries and tags that a run asks of the queue."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    gpus: Gpus = "auto"  # auto: one where there is any; below 1: a share of one
    cpus: Cpus = "auto"  # cores; auto: all of them without a GPU, beside one a few
    workers: Workers = "auto"  # processes that share each batch, the GPUs and cores; auto: one for each GPU
    priority: int = Field(default=0, ge=-1_000_000, le=1_000_000)  # higher goes first
    max_retries: int = Field(default=3, ge=0, le=1000)  # times lost without its checkpoint advancing
    tags: dict[TagKey, TagValue] = {}  # for the tracker

    @property
    def processes(self) -> int:
        """The number of workers."""
        if self.workers != "auto":
            return self.workers
        return 1 if self.gpus == "auto" else max(1, int(self.gpus))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.gpus != "auto" and self.gpus > 1 and self.gpus != self.processes:
            text = f"must be auto or {self.gpus:g}, one for each GPU (got {self.workers})"
            found = [(("workers",), text, (("workers",), ("gpus",)))]
            raise PydanticCustomError("contradictions", "{text}", {"text": text, "found": found})
        return self
