"""EM routing of matrix capsules (Hinton, Sabour, Frosst 2018, Procedure 1): pure functions on tensors.

A child is a capsule of the lower layer, a parent one of the upper layer that sees it. Parents compete for
a child wherever they are: its assignments add up to one over all types *and* all positions whose windows it
lies in. A softmax at each position by itself would hand out a child once for each of them.

Letters of shapes: B batch, P positions of parents, J types of parents, S places in the window of a parent,
I types of children, N = S·I children in a window (places first), Q positions of children, H numbers of a
pose or vote, M places at most where a child is seen.

What the text leaves open, and what is done here:
- Assignments begin even, 1 / (number of the child's parents). The text has 1 / (number of all parents), but
  with windows no child has so many, and at the edge it has fewer than in the middle.
- Costs are sums over children, of which a parent gets the equal of 4 in the first layer of the paper's
  network and of 102 at its classes; one inverse temperature cannot suit both. With the authors' the first
  layer's activations stay at a half whatever it sees, and training is slower. So what a parent is assigned
  counts in shares: 1 is what it would get of fully active children if all parents got the same. At the
  classes such a share is 16·32 / 5 = 102 children: the authors' inverse temperature 0.01·(1 - 0.95^t), for
  sums over children, becomes 1 - 0.95^t for shares.
- β_a, like β_u, counts for each of the H numbers: it would otherwise have to grow H times as large to weigh
  as much, and Adam moves all parameters at the same speed. Both are learned, one of each for every type of
  parents, not for every position.
- Probabilities and activations are kept as logarithms: none of them underflows, and no gradient has an
  activation in its denominator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

LAST_INVERSE_TEMPERATURE = 1.0  # λ after many iterations
COOLING = 0.95  # what remains of the distance to it after an iteration
LEAST_VARIANCE = 0.01  # added to σ²: votes that agree to the last bit would be infinitely likely

# How large the votes of the images may be that are routed at once; the gradient takes several times as much.
VOTE_BYTES = {"cpu": 24 * 2**20, "cuda": 512 * 2**20}


@dataclass(frozen=True)
class Overlap:
    """Windows that each child lies in: it may belong to several positions of parents.

    child int64 [P·S]: the number of the child position at each place of each window, among those seen.
    places int64 [Q, M]: the other way round, all up to M places where a child position is seen, as indices
    into P·S; P·S itself where there are fewer.
    seen int64 [P·S]: at how many places this child position is seen.
    """

    child: torch.Tensor
    places: torch.Tensor
    seen: torch.Tensor
    windows: int  # P

    @classmethod
    def of(cls, windows: torch.Tensor) -> Overlap:
        """Make the overlap of int64 [P, S]: children's positions, in any numbering, by window and place."""
        _, child, counts = windows.flatten().unique(return_inverse=True, return_counts=True)
        places = torch.full((len(counts), int(counts.max())), child.numel())
        filled = [0] * len(counts)
        for place, number in enumerate(child.tolist()):
            places[number, filled[number]] = place
            filled[number] += 1
        return cls(child, places, counts[child], len(windows))


def sliding(rows: int, columns: int, kernel: int, stride: int) -> torch.Tensor:
    """The child positions in each window that slides over rows×columns of them: int64 [P, S]."""
    grid = torch.arange(rows * columns).view(rows, columns)
    return grid.unfold(0, kernel, stride).unfold(1, kernel, stride).reshape(-1, kernel**2)


def inverse_temperature(iteration: int) -> float:
    """Return λ of an iteration, counted from 0. It rises, so that activations become definite only late."""
    return LAST_INVERSE_TEMPERATURE * (1 - COOLING ** (iteration + 1))


class Ballot(NamedTuple):
    """Inputs of routing. β_u and β_a are learned, one of each for every type of parents."""

    votes: torch.Tensor  # [B, P, J, N, H]
    log_active: torch.Tensor  # log a of the children, [B, P, N]
    beta_u: torch.Tensor  # [J], the cost of a vote for a parent, beside the logarithms of the parent's σ
    beta_a: torch.Tensor  # [J], the cost that an active parent saves
    overlap: Overlap


class Parents(NamedTuple):
    """Results of an M-step: the parents' Gaussians and activations, and the votes' distances from them."""

    means: torch.Tensor  # μ [B, P, J, H]
    variances: torch.Tensor  # σ² [B, P, J, H]
    distances: torch.Tensor  # Σ_h (V - μ)² / σ² of each vote, [B, P, J, N]
    log_active: torch.Tensor  # log a [B, P, J]


def route(ballot: Ballot, iterations: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The poses [B, P, J, H] and log a [B, P, J] of the parents.

    The gradient flows through every iteration.
    """
    if iterations < 1:
        raise ValueError(f"routing takes at least 1 iteration (got {iterations})")
    parents = _m_step(ballot, log_assignments(ballot, iterations), iterations - 1)
    return parents.means, parents.log_active


def log_assignments(ballot: Ballot, iterations: int) -> torch.Tensor:
    """Return log R [B, P, J, N] by which iteration `iterations` weighs votes; of the first, [1, P, J, N]."""
    log_r = even(ballot)
    for iteration in range(iterations - 1):
        log_r = _e_step(_m_step(ballot, log_r, iteration), ballot.overlap)
    return log_r


def even(ballot: Ballot) -> torch.Tensor:
    """Return the first log R [1, P, J, N]: equal for all parents of a child."""
    _, windows, types, children, _ = ballot.votes.shape
    log_parents = (ballot.overlap.seen * types).to(ballot.votes.dtype).log().view(1, windows, 1, -1, 1)
    places = log_parents.shape[3]
    return -log_parents.expand(-1, -1, types, -1, children // places).flatten(3)


def _m_step(ballot: Ballot, log_r: torch.Tensor, iteration: int) -> Parents:
    log_weights = log_r + ballot.log_active[:, :, None]
    log_assigned = log_weights.logsumexp(3, keepdim=True)
    means, variances, distances = Gaussians.apply((log_weights - log_assigned).exp(), ballot.votes)
    share = log_assigned[..., 0].exp() / even(ballot).exp().sum(3)
    costs = share * (ballot.beta_u + 0.5 * variances.log().mean(3))  # of each number, on average
    saved = variances.shape[3] * (ballot.beta_a - costs)
    log_active = F.logsigmoid(inverse_temperature(iteration) * saved)
    return Parents(means, variances, distances, log_active)


class Gaussians(torch.autograd.Function):
    """Weights w [..., N], adding up to 1, and votes V [..., N, H] -> μ and σ² [..., H], distances [..., N].

    The gradient is autograd's, but keeps no tensor of the size of the votes besides the votes, and reads
    them half as often. (V - μ)² is formed, not Σ V² - μ²: where votes agree the latter consists of rounding
    errors only.
    """

    @staticmethod
    def forward(
        ctx: Any, weights: torch.Tensor, votes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        row = weights[..., None, :]
        means = row @ votes
        squares = (votes - means).square_()
        variances = (row @ squares).add_(LEAST_VARIANCE)
        distances = squares @ variances.reciprocal().mT
        ctx.save_for_backward(weights, votes, means, variances)
        return means[..., 0, :], variances[..., 0, :], distances[..., 0]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides names
        ctx: Any, d_means: torch.Tensor, d_variances: torch.Tensor, d_distances: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the gradients with D = V - μ and p = 1/σ²; Σ w D = 0, so that σ² has no slope along μ."""
        weights, votes, means, variances = ctx.saved_tensors
        differences, row, precisions = votes - means, d_distances[..., None, :], variances.reciprocal()
        d_means = d_means[..., None, :] - 2 * precisions * (row @ differences)
        squares = differences.square()
        d_variances = d_variances[..., None, :] - (row @ squares) * precisions.square()
        d_weights = votes @ d_means.mT + squares @ d_variances.mT
        columns = torch.stack((d_distances, weights), dim=-1)
        d_differences = columns @ torch.cat((2 * precisions, 2 * d_variances), dim=-2)
        d_votes = d_differences.mul_(differences).add_(weights[..., None] * d_means)
        return d_weights[..., 0], d_votes


def _e_step(parents: Parents, overlap: Overlap) -> torch.Tensor:
    """log R [B, P, J, N]; the (2π)^(-H/2) of all densities cancels."""
    constants = parents.log_active - 0.5 * parents.variances.log().sum(3)
    logits = constants[..., None] - 0.5 * parents.distances
    return logits - over_parents(logits, overlap)


def over_parents(logits: torch.Tensor, overlap: Overlap) -> torch.Tensor:
    """log Σ exp of [B, P, J, N] over all parents of each child, as [B, P, 1, N]."""
    batch, windows, _, children = logits.shape
    here = logits.logsumexp(2).view(batch, len(overlap.child), -1)  # [B, P·S, I]
    padded = F.pad(here, (0, 0, 0, 1), value=-torch.inf)
    # index_select and not [...]: the gradient of the latter adds up in random order on several threads.
    everywhere = padded.index_select(1, overlap.places.flatten()).unflatten(1, overlap.places.shape)
    return everywhere.logsumexp(2).index_select(1, overlap.child).view(batch, windows, 1, children)


def in_parts(
    function: Callable[[torch.Tensor], torch.Tensor], capsules: torch.Tensor, vote_bytes: int
) -> torch.Tensor:
    """Apply `function` to capsules [B, ...], to some images at a time where all votes would be too large.

    `vote_bytes` is the size of one image's votes. Of such parts only the capsules are kept for the
    gradient, and the rest is computed twice.
    """
    images = max(1, VOTE_BYTES.get(capsules.device.type, VOTE_BYTES["cuda"]) // vote_bytes)
    if len(capsules) <= images:
        return function(capsules)
    parts = capsules.split(images)
    if not torch.is_grad_enabled():
        return torch.cat([function(part) for part in parts])
    return torch.cat(
        [checkpoint(function, part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    )
