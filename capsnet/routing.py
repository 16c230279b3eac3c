"""Routing, by agreement (Sabour et al. 2017, Procedure 1), by attention (Mazzia et al. 2021) or by each
capsule for itself (Hahn et al. 2019), without ever forming the predictions û = W u.

Letters of shapes: B batch, I input capsules, K their dimension, J output capsules, D their dimension.

Three identities make it cheap; tests compare them with the literal procedure.
- The logits after t iterations are û·(v₁ + … + v_t): a running sum of outputs replaces them.
- The couplings of the first iteration are all 1/J: it is one plain matrix product.
- Both uses of û are linear: see capsnet.agreement, where an iteration is computed.
Attention uses the same linearity: Σₖ ûᵢ·ûₖ = ûᵢ·(Σₖ ûₖ), where each of I capsules attends to all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch

from capsnet.agreement import collect, softmax

# capsules [B, I, K], weight [J, I·K, D], bias [J, D] or None -> capsules [B, J, D]
Routing = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]

# Of a temporary of attention: on a CPU larger ones are mapped and unmapped by malloc each time, and their
# page faults cost more than the arithmetic.
CHUNK_BYTES = 12 * 2**20


def norm(vectors: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """Compute lengths along a dimension, which is kept with size 1; the gradient at 0 is 0 and not NaN."""
    smallest = torch.finfo(vectors.dtype).tiny
    return (vectors.square().sum(dim, keepdim=True) + smallest).sqrt()


def squash(inputs: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """Shrink vectors along a dimension to lengths in [0, 1): s ‖s‖ / (1 + ‖s‖²) (Equation 1)."""
    length = norm(inputs, dim)
    return inputs * (length / (1 + length.square()))


def exponential_squash(inputs: torch.Tensor) -> torch.Tensor:
    """Shrink vectors along the last dimension to (1 - e^-‖s‖) s / ‖s‖ (Mazzia et al. 2021).

    Its slope at 0 is 1, not 0: small vectors are left almost as they are.
    """
    length = norm(inputs)
    return inputs * (-torch.expm1(-length) / length)


def dynamic(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    iterations: int,
    gradient: Literal["full", "detached"] = "full",
    none_of_the_above: bool = False,
) -> torch.Tensor:
    """Route capsules [B, I, K] by weight [J, I·K, D] and bias [J, D] to capsules [B, J, D].

    `gradient` flows through every iteration, or ("detached") through the last one only, its couplings
    taken as constants. With `none_of_the_above` the softmax has one more logit, always 0, so that a share
    of a capsule may go to no class (the paper's section 7; "leaky softmax" in the authors' code).
    """
    if iterations < 1:
        raise ValueError(f"routing takes at least 1 iteration (got {iterations})")
    inputs = _batch_last(capsules)
    if iterations == 1:
        return _batch_first(squash(_uniform(inputs, weight, bias, none_of_the_above), dim=1))
    with torch.set_grad_enabled(torch.is_grad_enabled() and gradient == "full"):
        summed = _summed(inputs, weight, bias, iterations - 1, none_of_the_above)
    collected = collect(inputs, weight, summed, none_of_the_above, gradient == "detached")
    return _batch_first(squash(_biased(collected, bias), dim=1))


def attention(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    prior: torch.Tensor | None = None,
    shrink: Callable[[torch.Tensor], torch.Tensor] = squash,
) -> torch.Tensor:
    """Route capsules [B, I, K] by weight [J, I·K, D] and bias [J, D] to capsules [B, J, D] in one pass.

    `prior` [J, I] is added to the couplings; `shrink` squashes what they collect.
    """
    parts = capsules.chunk(_parts(capsules, len(weight)))
    outputs = [shrink(_collect(part, weight, bias, attended(part, weight, prior))) for part in parts]
    return torch.cat(outputs, dim=1).transpose(0, 1)


def attended(capsules: torch.Tensor, weight: torch.Tensor, prior: torch.Tensor | None = None) -> torch.Tensor:
    """Compute attention's couplings [J, B, I]: the softmax over classes of Σₖ ûᵢ·ûₖ / √D, plus `prior`."""
    logits = _agreement(capsules, weight, _sum(capsules, weight)) / weight.shape[-1] ** 0.5
    coupling = logits.softmax(0)
    return coupling if prior is None else coupling + prior[:, None]


def self_routing(
    capsules: torch.Tensor, route: torch.Tensor, prior: torch.Tensor, weight: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Route capsules [B, I, K] to poses [B, J, D] and the logarithms of activations [B, J].

    Each capsule's couplings c follow from its own route [I, K, J] and prior [I, J]; its activation a is its
    length. A class has the activation aⱼ = Σᵢ cᵢⱼ aᵢ / Σᵢ aᵢ, so that the classes' activations sum to 1, and
    its pose is the mean Σᵢ cᵢⱼ aᵢ ûᵢⱼ / Σᵢ cᵢⱼ aᵢ of the predictions by weight [J, I·K, D]. Without a weight
    poses have no dimension. All is computed in logarithms, in which no share is rounded to 0.
    """
    poses, activations = [], []
    for part in capsules.chunk(_parts(capsules, prior.shape[1])):
        active = norm(part)[..., 0].log()  # [B, I]
        flows = chosen(part, route, prior) + active
        activations.append(flows.logsumexp(2) - active.logsumexp(1))
        poses.append(flows[..., :0] if weight is None else _collect(part, weight, None, flows.softmax(2)))
    return torch.cat(poses, dim=1).transpose(0, 1), torch.cat(activations, dim=1).transpose(0, 1)


def chosen(capsules: torch.Tensor, route: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """Compute the logarithms [J, B, I] of the couplings by which capsules [B, I, K] route themselves.

    Each capsule has its own linear map, route [I, K, J] with prior [I, J], and a softmax over the J classes.
    """
    logits = torch.baddbmm(prior[:, None], capsules.transpose(0, 1), route)  # [I, B, J]
    return logits.log_softmax(2).permute(2, 1, 0)


def couplings(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    iterations: int,
    none_of_the_above: bool = False,
) -> torch.Tensor:
    """Compute the couplings [J, B, I] by which iteration number `iterations`, from 2, weighs its inputs."""
    summed = _summed(_batch_last(capsules), weight, bias, iterations - 1, none_of_the_above)
    return softmax(_agreement(capsules, weight, summed.transpose(1, 2)), none_of_the_above)


def _summed(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    iterations: int,
    none_of_the_above: bool,
) -> torch.Tensor:
    """Compute v₁ + … + v_t [J, D, B] of t `iterations` on inputs [I, K, B]."""
    summed = squash(_uniform(inputs, weight, bias, none_of_the_above), dim=1)
    for _ in range(iterations - 1):
        collected = collect(inputs, weight, summed, none_of_the_above, False)
        summed = summed + squash(_biased(collected, bias), dim=1)
    return summed


def _uniform(
    inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, none_of_the_above: bool
) -> torch.Tensor:
    """Compute Σᵢ ûᵢ / J as [J, D, B], or / (J + 1): the first iteration's sum over inputs [I, K, B]."""
    collected = torch.matmul(weight.transpose(1, 2), inputs.flatten(0, 1))
    return _biased(collected / (len(weight) + none_of_the_above), bias)


def _biased(collected: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Add the bias [J, D] of each output capsule, if any, to the collected [J, D, B]."""
    return collected if bias is None else collected + bias[:, :, None]


def _batch_last(capsules: torch.Tensor) -> torch.Tensor:
    """Return capsules [B, I, K] as [I, K, B], in that order in memory too."""
    return capsules.permute(1, 2, 0).contiguous()


def _batch_first(outputs: torch.Tensor) -> torch.Tensor:
    """Return outputs [J, D, B] as [B, J, D]."""
    return outputs.permute(2, 0, 1)


def _sum(capsules: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Compute Σᵢ ûᵢ as [J, B, D]."""
    return torch.matmul(capsules.flatten(1), weight)


def _collect(
    capsules: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, coupling: torch.Tensor
) -> torch.Tensor:
    """Compute Σᵢ cᵢ ûᵢ as [J, B, D] for coupling [J, B, I]."""
    collected = torch.bmm((coupling[..., None] * capsules).flatten(2), weight)
    return collected if bias is None else collected + bias[:, None]


def _agreement(capsules: torch.Tensor, weight: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Compute û·v as [J, B, I] for outputs [J, B, D]."""
    seen = torch.bmm(outputs, weight.transpose(1, 2)).unflatten(2, capsules.shape[1:])
    return (seen * capsules).sum(-1)


def _parts(capsules: torch.Tensor, classes: int) -> int:
    """Return into how many parts a batch is best split."""
    if capsules.device.type != "cpu":
        return 1
    return max(1, math.ceil(capsules.nbytes * classes / CHUNK_BYTES))
