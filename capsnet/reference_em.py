"""EM routing in plain loops, and the network around it: for readers, and for tests.

Hinton, Sabour, Frosst 2018, "Matrix capsules with EM routing", Procedure 1 and Figure 1, for one image. In
routing no tensor is larger than one vote; a dictionary has each parent's votes by child. `capsnet.em` says
what the text leaves open and how it is decided: here it is decided alike, and computed by other means.

Letters of shapes: C channels, Y rows, X columns, I types of children, J types of parents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from capsnet.reference import channelwise, convolution

Array = Any
Capsule = tuple[int, ...]  # its name: (row, column, type)
Votes = Mapping[Capsule, Mapping[Capsule, Array]]  # by parent, then by child: 16 numbers

LEAST_VARIANCE = 0.01
CONV_STRIDE = 2


@dataclass(frozen=True)
class Routed:
    """Result of EM routing: the parents' poses and activations, and the last assignments."""

    poses: dict[Capsule, Array]  # μ [16] of each parent
    activations: dict[Capsule, float]  # a of each parent
    assignments: dict[tuple[Capsule, Capsule], float]  # R of (child, parent), as used by the last M-step


def routing(
    votes: Votes,
    activations: Mapping[Capsule, float],
    beta_u: Mapping[Capsule, float],
    beta_a: Mapping[Capsule, float],
    iterations: int,
) -> Routed:
    """Run Procedure 1; `activations` are those of the children, β those of the parents."""
    parents = {child: [parent for parent in votes if child in votes[parent]] for child in activations}
    assignments = {(child, parent): 1 / len(all_) for child, all_ in parents.items() for parent in all_}
    even = {parent: sum(assignments[child, parent] for child in votes[parent]) for parent in votes}
    done = Routed({}, {}, assignments)
    for iteration in range(iterations):
        fits, active = {}, {}
        for parent, seen in votes.items():
            weights = {child: assignments[child, parent] * activations[child] for child in seen}
            fits[parent] = m_step(weights, seen)
            _, variance, assigned = fits[parent]
            costs = (beta_u[parent] + 0.5 * np.log(variance)) * assigned / even[parent]
            active[parent] = sigmoid(inverse_temperature(iteration) * sum(beta_a[parent] - costs))
        done = Routed({parent: fit[0] for parent, fit in fits.items()}, active, assignments)
        assignments = {
            (child, parent): assignment
            for child in activations
            for parent, assignment in e_step(child, parents[child], votes, fits, active).items()
        }
    return done


def m_step(weights: Mapping[Capsule, float], votes: Mapping[Capsule, Array]) -> tuple[Array, Array, float]:
    """Compute μ [16], σ² [16] and Σ R·a of one parent."""
    total = sum(weights.values())
    mean = sum(weights[child] * votes[child] for child in votes) / total
    variance = sum(weights[child] * (votes[child] - mean) ** 2 for child in votes) / total
    return mean, variance + LEAST_VARIANCE, total


def e_step(
    child: Capsule,
    parents: Iterable[Capsule],
    votes: Votes,
    fits: Mapping[Capsule, tuple[Array, Array, float]],
    active: Mapping[Capsule, float],
) -> dict[Capsule, float]:
    """Compute the assignments of one child to all its parents; they sum to 1."""
    odds = {}
    for parent in parents:
        mean, variance, _ = fits[parent]
        densities = np.exp(-((votes[parent][child] - mean) ** 2) / (2 * variance))
        odds[parent] = active[parent] * np.prod(densities / np.sqrt(2 * np.pi * variance))
    total = sum(odds.values())
    return {parent: value / total for parent, value in odds.items()}


def inverse_temperature(iteration: int) -> float:
    return 1 - 0.95 ** (iteration + 1)


def sigmoid(value: Array) -> Array:
    return 1 / (1 + np.exp(-value))


def sliding_votes(poses: Array, matrices: Array, stride: int) -> dict[Capsule, dict[Capsule, Array]]:
    """Compute the votes of poses [Y, X, I, 4, 4] by matrices [3, 3, I, J, 4, 4], as a convolution slides."""
    height, width, children = poses.shape[:3]
    side, _, _, types = matrices.shape[:4]
    votes: dict[Capsule, dict[Capsule, Array]] = {}
    for row in range((height - side) // stride + 1):
        for column in range((width - side) // stride + 1):
            for parent in range(types):
                seen = votes[row, column, parent] = {}
                for down, right, child in np.ndindex(side, side, children):
                    y, x = row * stride + down, column * stride + right
                    seen[y, x, child] = (poses[y, x, child] @ matrices[down, right, child, parent]).ravel()
    return votes


def class_votes(poses: Array, matrices: Array, centres: Array) -> dict[Capsule, dict[Capsule, Array]]:
    """Compute the votes of poses [Y, X, I, 4, 4] by matrices [I, J, 4, 4]; centres [Y, X, 2] are added."""
    votes: dict[Capsule, dict[Capsule, Array]] = {}
    for parent in range(matrices.shape[1]):
        seen = votes[0, 0, parent] = {}
        for row, column, child in np.ndindex(poses.shape[:3]):
            vote = poses[row, column, child] @ matrices[child, parent]
            vote[0, 3] += centres[row, column, 0]
            vote[1, 3] += centres[row, column, 1]
            seen[row, column, child] = vote.ravel()
    return votes


@dataclass(frozen=True)
class Capsules:
    """A grid of capsules: poses [Y, X, I, 4, 4] and activations [Y, X, I]."""

    poses: Array
    activations: Array


def forward(parameters: Mapping[str, Array], image: Array, centres: Array, iterations: int) -> Capsules:
    """Compute an image's [C, H, W] class capsules; parameters have the names that the network gives them."""
    filtered = convolution(image[None], parameters["conv.weight"], CONV_STRIDE)
    features = np.maximum(filtered + channelwise(parameters["conv.bias"]), 0)[0]
    capsules = primary(features, parameters["primary.weight"][..., 0, 0], parameters["primary.bias"])
    for number in range(sum(name.startswith("layers.") and name.endswith(".weight") for name in parameters)):
        stride = 1 if number else 2
        types = len(parameters[f"layers.{number}.beta_a"])
        matrices = parameters[f"layers.{number}.weight"].reshape(3, 3, -1, 4, types, 4).swapaxes(3, 4)
        votes = sliding_votes(capsules.poses, matrices, stride)
        capsules = routed(votes, capsules, parameters, f"layers.{number}", iterations)
    types = len(parameters["classes.beta_a"])
    matrices = parameters["classes.weight"].reshape(-1, 4, types, 4).swapaxes(1, 2)
    votes = class_votes(capsules.poses, matrices, centres)
    return routed(votes, capsules, parameters, "classes", iterations)


def primary(features: Array, weight: Array, bias: Array) -> Capsules:
    """Make capsules of features [C, Y, X] by a 1×1 convolution with weight [I·17, C] and bias [I·17]."""
    outputs = np.einsum("cyx,kc->yxk", features, weight) + bias
    outputs = outputs.reshape(*outputs.shape[:2], -1, 17)
    return Capsules(outputs[..., :16].reshape(*outputs.shape[:3], 4, 4), sigmoid(outputs[..., 16]))


def routed(
    votes: Votes, children: Capsules, parameters: Mapping[str, Array], layer: str, iterations: int
) -> Capsules:
    """Route `children` by their votes to the capsules of a layer, as a grid again."""
    seen = {child for voters in votes.values() for child in voters}
    activations = {child: float(children.activations[child]) for child in seen}
    beta_u = {parent: parameters[f"{layer}.beta_u"][parent[2]] for parent in votes}
    beta_a = {parent: parameters[f"{layer}.beta_a"][parent[2]] for parent in votes}
    upper = routing(votes, activations, beta_u, beta_a, iterations)
    grid = tuple(np.max(list(votes), axis=0) + 1)
    poses, active = np.empty((*grid, 4, 4)), np.empty(grid)
    for parent in votes:
        poses[parent] = upper.poses[parent].reshape(4, 4)
        active[parent] = upper.activations[parent]
    return Capsules(poses, active)
