"""A training step recorded as a CUDA graph, and replayed: one launch in place of some hundred.

For steps that take the host longer to launch, operation by operation, than the GPU to compute. What a graph
reads and writes lies where it lay when it was recorded, so each step's batch is copied there; the weights and
the optimizer stay where they are anyhow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch

from capsnet.augmentation import Batch
from capsnet.group import Part

WARM_UP = 3  # steps of a size that are launched: what PyTorch and cuDNN set up at first cannot be recorded

Take = Callable[[Batch, torch.Tensor | None, Part], torch.Tensor]


@dataclass(frozen=True)
class Recording:
    """One graph, and where it reads and writes."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    margin: torch.Tensor | None
    sums: torch.Tensor

    def replay(self, batch: Batch, margin: torch.Tensor | None) -> torch.Tensor:
        """Take the step on this batch; the sums are overwritten by the next one."""
        refill(self.batch, batch)
        if self.margin is not None and margin is not None:
            self.margin.copy_(margin)
        self.graph.replay()
        return self.sums


class Recorder:
    """Takes training steps: the first ones of a batch size as usual, later ones by a graph of that size.

    An epoch of 60,000 images has 468 batches of 128 and one of 96: two graphs. Recording computes nothing:
    the step that is recorded is taken by the first replay. The size is that of the batch of all processes,
    as the weight of each image in that batch is recorded, too.
    """

    def __init__(self, take: Take) -> None:
        self._take = take
        self._taken: Counter[int] = Counter()
        self._recordings: dict[int, Recording] = {}
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()  # one for all: no two are replayed at the same time

    def step(self, batch: Batch, margin: torch.Tensor | None, part: Part) -> torch.Tensor:
        size = part.count
        if self._taken[size] < WARM_UP:
            self._taken[size] += 1
            return self._launched(batch, margin, part)
        if size not in self._recordings:
            self._recordings[size] = self._record(batch, margin, part)
        return self._recordings[size].replay(batch, margin)

    def _launched(self, batch: Batch, margin: torch.Tensor | None, part: Part) -> torch.Tensor:
        """Take a step as usual, on the stream on which steps will be recorded."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            sums = self._take(batch, margin, part)
        torch.cuda.current_stream().wait_stream(self._stream)
        return sums

    def _record(self, batch: Batch, margin: torch.Tensor | None, part: Part) -> Recording:
        own = held(batch)
        width = None if margin is None else margin.clone()
        graph = torch.cuda.CUDAGraph()
        # A thread that writes a checkpoint or looks at the GPU's temperature must not spoil it.
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            sums = self._take(own, width, part)
        return Recording(graph, own, width, sums)


def held(batch: Batch) -> Batch:
    """Copy a batch to memory of its own; inputs and targets that were one tensor stay one.

    A step that was compiled for inputs which are the targets themselves would be compiled anew for others,
    in the middle of the recording, where that cannot be.
    """
    inputs = batch.inputs.clone()
    targets = inputs if batch.targets is batch.inputs else batch.targets.clone()
    return Batch(inputs, targets, batch.labels.clone())


def refill(own: Batch, batch: Batch) -> None:
    """Copy a batch into `own`, a batch of the same form that `held` has returned."""
    own.inputs.copy_(batch.inputs)
    if own.targets is not own.inputs:
        own.targets.copy_(batch.targets)
    own.labels.copy_(batch.labels)
