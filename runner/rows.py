"""Rows of the queue's tables, as immutable values. Times are unix seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypedDict

from runner.states import State

Auto = Literal["auto"]
Intent = Literal["interrupt", "cancel"]
Wish = Literal[Intent, "remove"]
Outcome = Literal["finished", "failed", "stopped", "lost"]


@dataclass(frozen=True, kw_only=True)
class NewRun:
    """A run that is about to be queued."""

    name: str
    config: str = field(repr=False)  # the resolved YAML, every key in it
    num_epochs: int
    priority: int = 0  # higher starts first; equal ones in order of submission
    gpus: float | Auto = "auto"
    cpus: float | Auto = "auto"
    loader_workers: int = 0  # dataloader.num_workers: what `cpus: auto` means beside a GPU depends on it
    workers: int = 1  # processes that train it together
    max_retries: int = 3
    tags: Mapping[str, str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()  # `key=value` each, as `--set` gave them
    exclusive: tuple[str, ...] = ()  # absolute paths that only one run at a time may write
    source_file: str | None = None
    submit_directory: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    code: str | None = None  # the digest of its source
    submit_python: str | None = None  # versions at its submission; of PyTorch None where there was none
    submit_torch: str | None = None


class Wants(NamedTuple):
    """Needs of a run, as the fields of NewRun of the same names."""

    gpus: float | Auto
    cpus: float | Auto
    workers: int


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Code that a run is to go on with, as the fields of NewRun of the same names."""

    code: str
    submit_python: str | None
    submit_torch: str | None
    git_commit: str | None
    git_dirty: bool | None


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as the queue knows it now."""

    id: int
    identity: str | None  # 32 hexadecimal digits, random; None: submitted by a version without identities
    state: State
    name: str
    config: str = field(repr=False)  # the resolved YAML
    num_epochs: int
    priority: int
    gpus: float | Auto
    cpus: float | Auto
    loader_workers: int
    workers: int
    max_retries: int
    tags: Mapping[str, str]
    user_note: str | None  # what the user wrote about the run
    annotations: int  # how often tags or note were changed
    overrides: tuple[str, ...]  # `key=value` each, as `--set` gave them, at resumes too; the latest of a key
    exclusive: tuple[str, ...]
    source_file: str | None
    submit_directory: str | None
    git_commit: str | None
    git_dirty: bool | None
    code: str | None  # the digest of its source; None: submitted by a version that did not keep it
    submit_python: str | None
    submit_torch: str | None

    attempt: int  # number of the newest one; 0 before the first
    losses: int  # times lost since its durable checkpoint last advanced
    reason: str | None  # one line: why it failed, was interrupted, stopped early, or was queued again
    # What the user asked of a RUNNING run, and the worker has yet to do; "remove": an ended one's files may
    # be gone in part.
    intent: Wish | None
    intent_at: float | None
    grace_seconds: float | None  # from intent_at until the worker is killed
    use_best: bool  # resume --best: go on from the best weights; False again once a checkpoint followed

    submitted_at: float
    queued_at: float
    started_at: float | None  # start of the newest attempt
    ended_at: float | None  # None until it is FINISHED, FAILED, CANCELLED or INTERRUPTED
    trained_seconds: float  # how long its attempts that have ended took, without the waits between them

    # As a running run's worker has reported last (None until it trains); of one that does not run, where it
    # goes on: what was lost with a process is gone from here, too.
    epoch: int | None  # the epoch in hand, from 1
    step: int | None  # steps done of it
    steps_per_epoch: int | None
    images_per_second: float | None
    loss: float | None
    accuracy: float | None  # on the test set, after the latest finished epoch
    metrics: Mapping[str, float]  # of the latest finished epoch
    seconds_left: float | None
    durable_epoch: int | None  # epochs finished in the newest checkpoint that is on disk
    durable_step: int | None  # steps done of the unfinished epoch in it
    answered_at: float | None  # when the worker last answered
    host: str | None
    pid: int | None
    devices: tuple[str, ...]
    python: str | None  # versions where it runs, or ran last
    torch: str | None
    from_epoch: int | None  # epochs that were finished when the newest attempt began
    from_step: int | None  # steps done of the one after them by then
    computes: str | None  # how the newest attempt computes, in words

    mlflow_run_id: str | None
    published_epoch: int | None
    published_state: State | None
    published_annotations: int  # of `annotations`, how many tracking has
    publish_error: str | None

    @property
    def is_going(self) -> bool:
        """Whether its files are being deleted, or were in part: it can only be deleted to the end."""
        return self.intent == "remove"

    @property
    def stopped_early(self) -> bool:
        """Whether it finished before its last epoch: a finished run has no other `reason`."""
        return self.state is State.FINISHED and self.reason is not None

    @property
    def last_epoch(self) -> int:
        """The epoch after which it ends, or has stopped early."""
        return self.durable_epoch or 0 if self.stopped_early else self.num_epochs

    @property
    def is_published(self) -> bool:
        """Whether tracking has its state, tags and note as they are now."""
        return self.published_state == self.state and self.published_annotations == self.annotations


class Waiting(NamedTuple):
    """Columns that decide when a queued run starts: few, for there may be ten thousand such runs."""

    id: int
    gpus: float | Auto
    cpus: float | Auto
    loader_workers: int
    exclusive: tuple[str, ...]
    workers: int = 1


class Title(NamedTuple):
    """Number, name and state of a run: enough to tell it from others."""

    id: int
    name: str
    state: State


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt of a run; it ends once."""

    run: int
    number: int
    started_at: float
    ended_at: float | None
    outcome: Outcome | None
    reason: str | None
    gpus: float
    cpus: float
    host: str | None
    pid: int | None
    devices: tuple[str, ...]
    code: str | None  # the digest of the source that it ran
    from_epoch: int | None  # as of the run; None: it had not got so far, or is of an earlier version
    from_step: int | None
    computes: str | None


class Machine(TypedDict):
    """Total resources of a machine of the cluster, as the scheduler sees them."""

    name: str
    gpus: int
    cpus: float
    leaving: bool  # it is drained: nothing starts there any more


@dataclass(frozen=True, kw_only=True)
class Beat:
    """The scheduler's last sign of life."""

    epoch: int
    at: float
    cluster: str
    version: str
    tracking: str | None  # where runs are published to, without a password
    pid: int | None
    host: str | None
    cores: float | None
    gpus: float | None
    machines: tuple[Machine, ...]
    home: str | None  # folder of the runs, as the hosts of the cluster see it
    message: str | None
    code: str | None  # the digest of its own source; None: of a version that runs what is installed
    protocol: int | None  # the newest one of workers that it speaks


@dataclass(frozen=True, kw_only=True)
class Down:
    """Request to the scheduler to save what runs, queue it again, and leave."""

    at: float
    force: bool


class ProgressFields(TypedDict, total=False):
    """Columns of a run's row that its worker's answer may change; those it leaves out stay."""

    reason: str | None  # why it cannot save at the moment
    epoch: int | None
    step: int | None
    steps_per_epoch: int | None
    images_per_second: float | None
    loss: float | None
    accuracy: float | None
    metrics: Mapping[str, float]
    seconds_left: float | None
    durable_epoch: int | None
    durable_step: int | None
    host: str | None
    pid: int | None
    devices: tuple[str, ...]
    python: str | None
    torch: str | None
    from_epoch: int | None
    from_step: int | None
    computes: str | None
