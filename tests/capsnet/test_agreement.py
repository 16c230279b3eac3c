"""An iteration of routing in blocks, against one in which everything is there at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnet import agreement
from capsnet.agreement import collect, softmax

pytestmark = pytest.mark.usefixtures("one_thread")

FLAGS = [(False, False), (False, True), (True, False), (True, True)]  # none of the above, constant couplings


def layer(inputs=7, dim=4, classes=5, class_dim=6, batch=3, dtype=torch.float64):
    """Capsules [I, K, B], a weight [J, I·K, D], outputs [J, D, B]; each asks for its gradient."""
    generator = torch.Generator().manual_seed(0)
    shapes = (inputs, dim, batch), (classes, inputs * dim, class_dim), (classes, class_dim, batch)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def formed(capsules, weight, outputs, none_of_the_above, constant_couplings):
    """The same with û in one tensor."""
    predictions = torch.einsum("jikd,ikb->jidb", weight.unflatten(1, capsules.shape[:2]), capsules)
    coupling = softmax(torch.einsum("jidb,jdb->jib", predictions, outputs), none_of_the_above)
    coupling = coupling.detach() if constant_couplings else coupling
    return torch.einsum("jib,jidb->jdb", coupling, predictions)


def with_gradients(function, tensors, flags):
    collected = function(*tensors, *flags)
    upstream = torch.linspace(-1, 1, collected.numel(), dtype=collected.dtype).view_as(collected)
    gradients = torch.autograd.grad(collected, tensors, upstream, allow_unused=True)
    return collected, *(torch.zeros(()) if gradient is None else gradient for gradient in gradients)


@pytest.mark.parametrize("flags", FLAGS)
@settings(max_examples=15)
@given(
    sizes=st.tuples(*[st.integers(1, 6)] * 5),
    block_bytes=st.sampled_from([1, 200, 1500, 2**20]),
)
def test_blocks_of_any_size_give_what_it_gives_whole_and_so_do_their_gradients(flags, sizes, block_bytes):
    tensors = layer(*sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "BLOCK_BYTES", block_bytes)
        found = with_gradients(collect, tensors, flags)
    for tensor, expected in zip(found, with_gradients(formed, tensors, flags), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-10, atol=1e-12)


def test_a_layer_of_the_papers_size_is_computed_in_blocks_and_a_small_one_whole():
    capsules, weight, _ = layer(1152, 8, 10, 16, batch=128, dtype=torch.float32)
    blocks = list(agreement._blocks(capsules, weight))
    assert len(blocks) > 10
    assert [block.range.start for block in blocks[1:]] == [block.range.stop for block in blocks[:-1]]
    assert blocks[-1].range.stop == 1152
    assert len(list(agreement._blocks(*layer()[:2]))) == 1


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # PyTorch's own tester
def test_the_operator_tells_pytorch_the_truth_about_itself(flags):
    torch.library.opcheck(collect, (*layer(), *flags))


def test_the_backward_pass_keeps_nothing_but_what_it_was_given():
    tensors = layer()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda t: t):
        collect(*tensors, False, False)
    assert {tensor.shape for tensor in kept} == {tensor.shape for tensor in tensors}
    assert len(kept) == 3
