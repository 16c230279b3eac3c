"""Training as an iterator: it computes and yields; the caller logs, draws, saves or stops.

    for progress in train(config):
        print(progress.epoch, progress.loss)

There are no callbacks; a run is interrupted by not asking for its next step.

Several processes train one network together where each calls `train` with its place in a `Group`. Rank 0
decides how to compute, and it alone yields; what it yields covers all processes. The other processes train
with it until the run is over or rank 0 has gone.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from capsnet import batches, datasets, evaluation, execution, objective, schedules
from capsnet.augmentation import Batch
from capsnet.config import Config
from capsnet.execution import Execution
from capsnet.group import ALONE, Group, GroupError
from capsnet.images import Images, Splits
from capsnet.learner import Learner, versions
from capsnet.network import Network
from capsnet.objective import MEASURES
from capsnet.pace import Pace
from capsnet.snapshot import Snapshot
from capsnet.state import State, TrainingError, config_of, require_same_images, require_same_run

__all__ = ["Phase", "Progress", "TrainingError", "train"]

Phase = Literal["train", "validation", "test", "epoch_end"]
Examples = tuple[torch.Tensor, torch.Tensor]  # both float [N, C, H, W] on the CPU, in [0, 1]

EXAMPLES = 16  # test images whose reconstructions are shown


@dataclass(frozen=True)
class Progress:
    """The position, figures and state of a run in training."""

    phase: Phase
    epoch: int  # from 1: the one under way; at "epoch_end" the one that has just ended
    num_epochs: int
    step: int  # finished training steps of that epoch
    steps_per_epoch: int
    loss: float  # mean over that epoch's training images so far
    accuracy: float  # likewise
    images_per_second: float  # in training, in that epoch and this process
    seconds_left: float  # estimated, until the last epoch's end
    learning_rate: float  # of the last step
    metrics: Mapping[str, float] | None  # of the finished epoch; at "epoch_end" only
    # These and `snapshot` read the network as it is now: call them before you ask for the next `Progress`.
    start_snapshot: Callable[[], Snapshot]  # returns before the copy is complete
    examples: Callable[[], Examples | None]  # test images and reconstructions; None without a decoder
    # For pictures; the network is the one in training, too.
    network: Network
    test: Images
    execution: Execution

    def snapshot(self) -> State:
        """The complete state (capsnet.state); TrainingError where anything in it is not finite."""
        return self.start_snapshot().state()


def train(
    config: Config,
    state: State | None = None,
    splits: Splits | None = None,
    group: Group = ALONE,
    *,
    interval_seconds: float = 0.5,
) -> Iterator[Progress]:
    """Train from `state`, or from the beginning, until the run is over (capsnet.stopping).

    Yields after the first step, then about every `interval_seconds` and at every epoch's end; nothing
    where `state` has finished. A run that is broken off anywhere and goes on from a snapshot ends with
    bit for bit the weights of one that is not, as far as capsnet.execution and the versions of the
    libraries are the same. `splits` defaults to the data set of `config`. Of a `group` only rank 0 needs the
    `state`; the others get it from rank 0, and yield nothing.

    Raises TrainingError when the loss is not finite, before such a state can be handed out;
    CheckpointError when `state` is of another run; DataError when the data set cannot be read; GroupError
    when the group cannot train this together, GroupLost when others of it have gone.
    """
    state, how = _agreed(config, state, group)
    execution.apply(how)
    splits = splits or datasets.load(config.dataset, config.seed)
    if state is not None and group.leads:
        require_same_images(state, len(splits.train))
    _require_equal(group, "images to train on", len(splits.train))
    if not config.dataloader.num_workers:
        splits = splits.to(how.device)
    learner = Learner(config, how, datasets.shape(config.dataset), len(splits.train), state, group)
    if state is not None and group.leads:
        _warn_of_a_stretched_cosine(state, learner)
    run = _Run(config, learner, splits, Pace(interval_seconds, first_counts=not how.compile))
    yield from run.epochs() if group.leads else run.followed()


def _agreed(config: Config, state: State | None, group: Group) -> tuple[State | None, Execution]:
    """Return the state and execution that the whole group begins with, as rank 0 decides."""
    if config.batch_size < group.size:
        raise GroupError(
            f"a batch of {config.batch_size} images cannot be split over {group.size} workers: "
            "raise batch_size, or take fewer workers"
        )
    decided = None
    if group.leads:
        before = None
        if state is not None:
            require_same_run(state, config)
            _warn_of_other_versions(state)
            before = state["execution"], config_of(state)
        how = execution.resolve(config, *(before or (None, None)), group=group)
        decided = {"state": state, "execution": how.as_dict()}
    everywhere = config.model_copy(update={"threads": None})  # rank 0 decides their number
    _require_equal(group, "configuration", everywhere.model_dump(mode="json"))
    told = group.told(decided)
    return told["state"], Execution(**told["execution"])


def _require_equal(group: Group, what: str, own: Any) -> None:
    """Raise GroupError where this process has another value of `what` than rank 0."""
    if (first := group.told(own)) != own:
        raise GroupError(
            f"rank {group.rank} has another {what} than rank 0: {own!r:.200} and not {first!r:.200}"
        )


def _warn_of_other_versions(state: State) -> None:
    changed = [
        f"{name} {before} -> {now}"
        for name, now in versions().items()
        if (before := state["versions"].get(name)) != now
    ]
    if changed:
        text = f"the checkpoint is of other versions ({', '.join(changed)}): the last bits may differ"
        warnings.warn(text, stacklevel=3)


def _warn_of_a_stretched_cosine(state: State, learner: Learner) -> None:
    step = learner.epoch * learner.steps_per_epoch + learner.steps
    if text := schedules.stretched(config_of(state), learner.config, step, learner.steps_per_epoch):
        warnings.warn(text, stacklevel=3)


@dataclass(frozen=True)
class _Run:
    """The training loop and the objects that it works on."""

    config: Config
    learner: Learner
    splits: Splits
    pace: Pace

    def epochs(self) -> Iterator[Progress]:
        learner = self.learner
        with closing(self._batches()) as stream:
            while not learner.is_over:
                self.pace.begin_epoch(learner.seconds)
                yield from self._train(stream)
                yield from self._finish()

    def followed(self) -> Iterator[Progress]:
        """Train as `epochs` does, in the other processes of a group: only rank 0 yields progress."""
        learner = self.learner
        with closing(self._batches()) as stream:
            while not learner.is_over:
                while learner.steps < learner.steps_per_epoch:
                    learner.step(next(stream))
                learner.finish_epoch({"epoch": learner.epoch + 1, **self._followed_evaluation()})
        yield from ()

    def _followed_evaluation(self) -> dict[str, float]:
        """Take part in both evaluations; return the metric that decides whether the next epoch is trained."""
        decides = {}
        for images in filter(None, (self.splits.validation, self.splits.test)):
            sums = self._nothing()
            for _ in self._measured(images, sums):
                pass
            if images is self.splits.validation:
                accuracy = objective.means(sums, len(images), self.config)["accuracy"]
                decides["validation/accuracy"] = accuracy
        return decides

    def _batches(self) -> Generator[Batch, None, None]:
        learner = self.learner
        start = learner.epoch + 1, learner.steps
        device = learner.execution.device
        return batches.batches(self.config, self.splits.train, device, start, learner.group)

    def _train(self, stream: Iterator[Batch]) -> Iterator[Progress]:
        """Take the epoch's steps."""
        learner = self.learner
        while learner.steps < learner.steps_per_epoch:
            before = learner.images_seen
            learner.step(next(stream))
            if learner.steps == learner.steps_per_epoch:
                learner.wait()  # else the epoch's time would be that of launching its steps
            self.pace.trained(learner.images_seen - before)
            yield from self._look("train")

    def _finish(self) -> Iterator[Progress]:
        """Evaluate, and close the epoch."""
        learner, pace = self.learner, self.pace
        trained = objective.means(learner.total(), learner.images_seen, self.config)
        metrics = {f"train/{name}": value for name, value in trained.items()}
        if self.splits.validation is not None:
            metrics |= yield from self._evaluate("validation", self.splits.validation)
        metrics |= yield from self._evaluate("test", self.splits.test)
        pace.evaluated()
        metrics |= {
            "test/error": 1 - metrics["test/accuracy"],
            "learning_rate": learner.last_learning_rate,
            "epoch_seconds": pace.epoch_seconds,
        }
        if pace.images_per_second:  # not where an earlier process has taken all the epoch's steps
            metrics["images_per_second"] = pace.images_per_second
        progress = self._progress("epoch_end", metrics)
        learner.finish_epoch({"epoch": progress.epoch, "time": time.time(), **metrics})
        yield progress
        pace.yielded()

    def _evaluate(
        self, part: Literal["validation", "test"], images: Images
    ) -> Generator[Progress, None, dict[str, float]]:
        """Return the metrics of a part of the data set that is not trained on."""
        learner = self.learner
        sums = self._nothing()
        for _ in self._measured(images, sums):
            yield from self._look(part)
        values = objective.means(sums, len(images), self.config)
        if not sums.isfinite().all():
            position = (
                f"epoch {learner.epoch + 1}, step {learner.steps}"  # spoilt the weights, its loss was fine
            )
            raise TrainingError(f"{part} loss is {values['loss']:g} after {position}")
        return {f"{part}/{name}": value for name, value in values.items()}

    def _nothing(self) -> torch.Tensor:
        return torch.zeros(len(MEASURES), dtype=torch.float64, device=self.learner.execution.device)

    def _measured(self, images: Images, sums: torch.Tensor) -> Iterator[None]:
        """Measure this process's part of `images`, pausing after each batch.

        At the end `sums`, zeros at first, holds the sums of MEASURES over all parts.
        """
        learner = self.learner
        part = learner.group.part(len(images))
        own = images[part.rows]
        for _, measured in evaluation.evaluate(learner.network, own, self.config, learner.execution):
            sums += measured.sums()
            yield
        sums *= part.weight
        learner.group.add(sums)

    def _look(self, phase: Phase) -> Iterator[Progress]:
        """Yield the progress if that is due."""
        if self.pace.is_due():
            yield self._progress(phase)
            self.pace.yielded()

    def _progress(self, phase: Phase, metrics: Mapping[str, float] | None = None) -> Progress:
        """Read the device; raises TrainingError when a step of the epoch went wrong."""
        learner, pace = self.learner, self.pace
        so_far = objective.means(learner.total(), learner.images_seen, self.config)
        learner.seconds = pace.epoch_seconds
        epochs_left = self.config.num_epochs - learner.epoch
        images_left = epochs_left * learner.images_per_epoch - learner.images_seen
        return Progress(
            phase=phase,
            epoch=learner.epoch + 1,
            num_epochs=self.config.num_epochs,
            step=learner.steps,
            steps_per_epoch=learner.steps_per_epoch,
            loss=so_far["loss"],
            accuracy=so_far["accuracy"],
            images_per_second=pace.images_per_second,
            seconds_left=pace.seconds_left(images_left, epochs_left - (phase == "epoch_end")),
            learning_rate=learner.last_learning_rate,
            metrics=metrics,
            start_snapshot=learner.snapshot,
            examples=partial(
                evaluation.examples,
                learner.network,
                self.splits.test[:EXAMPLES],
                self.config,
                learner.execution,
            ),
            network=learner.network,
            test=self.splits.test,
            execution=learner.execution,
        )
