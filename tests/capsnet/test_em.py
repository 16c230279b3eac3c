"""EM routing against Procedure 1 in plain loops, and its properties."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnet import em, reference_em
from capsnet.em import Ballot, Overlap

pytestmark = pytest.mark.usefixtures("one_thread")

TYPES = 3  # of children
sizes = st.integers(1, 4)


def ballot(
    rows=5,
    columns=4,
    kernel=3,
    stride=1,
    parents=2,
    batch=2,
    dtype=torch.float64,
    scale=1.0,
    seed=0,
    numbers=16,
) -> Ballot:
    """Draw random votes of a layer whose windows slide over rows×columns positions."""
    windows = em.sliding(rows, columns, kernel, stride)
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    votes = scale * random(batch, len(windows), parents, windows.shape[1] * TYPES, numbers)
    active = torch.nn.functional.logsigmoid(random(batch, rows * columns, TYPES))
    beta_u, beta_a = 0.5 * random(parents), 0.5 * random(parents)
    return Ballot(votes, active[:, windows].flatten(2), beta_u, beta_a, Overlap.of(windows))


def from_leaves(tensors: Sequence[torch.Tensor], like: Ballot) -> Ballot:
    votes, log_active, beta_u, beta_a = tensors
    return Ballot(votes, log_active, beta_u, beta_a, like.overlap)


def literal(given: Ballot, image: int, windows: torch.Tensor, iterations: int) -> reference_em.Routed:
    """Route one image by Procedure 1 in loops: a child is (position, type), a parent (position, type)."""
    votes: dict = {}
    active: dict = {}
    for position, parent in np.ndindex(given.votes.shape[1:3]):
        seen = votes[position, parent] = {}
        for place, kind in np.ndindex(windows.shape[1], TYPES):
            child = int(windows[position, place]), kind
            seen[child] = given.votes[image, position, parent, place * TYPES + kind].double().numpy()
            active[child] = given.log_active[image, position, place * TYPES + kind].double().exp().item()
    beta_u = {parent: given.beta_u[parent[1]].item() for parent in votes}
    beta_a = {parent: given.beta_a[parent[1]].item() for parent in votes}
    return reference_em.routing(votes, active, beta_u, beta_a, iterations)


@pytest.mark.parametrize("iterations", range(1, 6))
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (2, 2)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str)
def test_parents_are_those_of_the_literal_procedure(iterations, kernel, stride, dtype, tolerance):
    given = ballot(kernel=kernel, stride=stride, dtype=dtype)
    windows = em.sliding(5, 4, kernel, stride)
    poses, log_active = em.route(given, iterations)
    assignments = em.log_assignments(given, iterations).exp().expand(2, -1, -1, -1)
    for image in range(2):
        expected = literal(given, image, windows, iterations)
        for (position, parent), pose in expected.poses.items():
            there = image, position, parent
            np.testing.assert_allclose(poses[there].numpy(), pose, atol=tolerance)
            active = log_active[there].exp().item()
            assert active == pytest.approx(expected.activations[position, parent], abs=tolerance)
            for number, (place, kind) in enumerate(np.ndindex(kernel**2, TYPES)):
                child = int(windows[position, place]), kind
                assignment = expected.assignments[child, (position, parent)]
                assert assignments[(*there, number)].item() == pytest.approx(assignment, abs=tolerance)


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(3, 7),
    columns=st.integers(3, 7),
    stride=st.integers(1, 3),
    parents=sizes,
    iterations=sizes,
)
def test_each_child_shares_itself_out_wholly_over_its_parents_at_all_positions(iterations, **layer):
    given = ballot(**layer)
    windows = em.sliding(layer["rows"], layer["columns"], 3, layer["stride"])
    assignments = em.log_assignments(given, iterations).exp().expand(2, -1, -1, -1)
    places = assignments.sum(2).view(2, windows.numel(), TYPES)  # over the types of parents
    sums = torch.zeros(2, layer["rows"] * layer["columns"], TYPES, dtype=torch.float64)
    sums.index_add_(1, windows.flatten(), places)
    seen = windows.unique()
    torch.testing.assert_close(sums[:, seen], torch.ones_like(sums[:, seen]))
    assert sums.sum() == pytest.approx(2 * TYPES * len(seen))  # children that no parent sees get nothing


def test_parents_compete_across_positions_and_not_only_at_their_own():
    """A child seen from two positions is assigned to the parents with which it agrees, not to the others."""
    given = ballot(rows=3, columns=4, parents=1, batch=1)
    windows = em.sliding(3, 4, 3, 1)
    child = int(windows[1, 0])  # the first place of the second window, the second of the first
    place = windows[0].tolist().index(child) * TYPES
    votes = torch.zeros_like(given.votes)
    votes[0, 1] = 0.1 * given.votes[0, 1]
    votes[0, 0] = 0.1 * given.votes[0, 0]
    votes[0, 0, 0, place] = 5.0  # far from what the others at the first position vote for
    assignments = em.log_assignments(given._replace(votes=votes), 3).exp()
    assert assignments[0, 0, 0, place] < 0.05
    assert assignments[0, 1, 0, 0] > 0.95


def test_a_child_at_the_edge_has_fewer_parents_and_gives_more_to_each():
    given = ballot(rows=3, columns=5, parents=4)
    first = em.even(given).exp()
    assert first[0, 0, 0, 0].item() == pytest.approx(1 / 4)  # seen from one position
    assert first[0, 0, 0, 2 * TYPES].item() == pytest.approx(1 / 12)  # seen from three


def test_windows_with_a_stride_leave_out_children_that_nobody_sees():
    windows = em.sliding(14, 14, 3, 2)
    assert windows.shape == (36, 9)
    assert windows.max() == 12 * 14 + 12  # neither the last row nor the last column
    overlap = Overlap.of(windows)
    assert overlap.places.shape == (169, 4)
    assert sorted(set(overlap.seen.tolist())) == [1, 2, 4]


@settings(deadline=None, max_examples=30)
@given(
    batch=sizes,
    parents=sizes,
    iterations=st.integers(1, 5),
    scale=st.sampled_from([0.0, 1e-6, 1e-2, 1.0, 30.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_activations_are_probabilities_and_all_gradients_finite(iterations, **layer):
    given = ballot(**layer)
    leaves = [tensor.requires_grad_() for tensor in given[:4]]
    poses, log_active = em.route(given, iterations)
    assert ((log_active <= 0) & log_active.isfinite()).all()
    gradients = torch.autograd.grad(poses.sum() + log_active.exp().sum(), leaves)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("off", [-20.0, -200.0, -1e4, -1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_children_that_are_off_harm_nobody(off, dtype):
    """Either all children are inactive, or all but one, which then alone determines the parents' poses."""
    given = ballot(dtype=dtype)
    log_active = torch.full_like(given.log_active, off)
    for last in (off, -0.1):
        log_active[:, :, -1] = last
        leaves = [tensor.clone().requires_grad_() for tensor in (given.votes, log_active, *given[2:4])]
        poses, active = em.route(from_leaves(leaves, given), 3)
        assert poses.isfinite().all() and active.isfinite().all()
        gradients = torch.autograd.grad(poses.sum() + active.exp().sum(), leaves)
        assert all(gradient.isfinite().all() for gradient in gradients)
    torch.testing.assert_close(poses, given.votes[:, :, :, -1], rtol=1e-5, atol=1e-5)


def test_votes_that_agree_make_a_parent_active_and_others_do_not():
    given = ballot(rows=3, columns=3, parents=2)
    votes = given.votes.clone()
    votes[:, :, 0] = 0.7 + 0.01 * votes[:, :, 0]
    zeros = torch.zeros_like(given.beta_u)
    poses, log_active = em.route(Ballot(votes, given.log_active, zeros, zeros, given.overlap), 3)
    assert (log_active[..., 0].exp() > 0.99).all()
    assert (log_active[..., 1].exp() < 0.6).all()
    torch.testing.assert_close(poses[:, :, 0], torch.full_like(poses[:, :, 0], 0.7), rtol=0, atol=0.01)


def test_the_temperature_falls_with_the_iterations():
    temperatures = [em.inverse_temperature(iteration) for iteration in range(10)]
    assert temperatures == sorted(temperatures)
    assert temperatures[:3] == pytest.approx([0.05, 0.0975, 0.142625])


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_gradients_are_those_of_finite_differences(iterations):
    given = ballot(rows=3, columns=4, batch=1, numbers=2)
    leaves = [tensor.requires_grad_() for tensor in given[:4]]
    assert torch.autograd.gradcheck(lambda *each: em.route(from_leaves(each, given), iterations), leaves)


@settings(deadline=None, max_examples=10)
@given(batch=st.integers(1, 9), images=st.integers(1, 4))
def test_a_batch_in_parts_gives_what_it_gives_whole(batch, images):
    given = torch.rand(batch, 5, dtype=torch.float64).requires_grad_()
    weight = torch.rand(5, 2, dtype=torch.float64).requires_grad_()
    largest = 0

    def function(capsules: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, len(capsules))
        return (capsules @ weight).sin()

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(em.VOTE_BYTES, "cpu", images * 100)
        parts = em.in_parts(function, given, vote_bytes=100)
    assert largest == min(batch, images)
    whole = function(given)
    torch.testing.assert_close(parts, whole)
    upstream = torch.rand_like(whole)
    expected = torch.autograd.grad(whole, (given, weight), upstream)
    torch.testing.assert_close(torch.autograd.grad(parts, (given, weight), upstream), expected)


@pytest.mark.parametrize("iterations", [0, -1])
def test_less_than_one_iteration_is_refused(iterations):
    with pytest.raises(ValueError, match=f"at least 1 iteration \\(got {iterations}\\)"):
        em.route(ballot(), iterations)
