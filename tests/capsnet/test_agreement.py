"""A routing iteration in blocks, against one that keeps all predictions in one tensor."""

from __future__ import annotations

import pytest
import torch
from agreeing import FLAGS, formed, layer, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnet import agreement
from capsnet.agreement import collect

pytestmark = pytest.mark.usefixtures("one_thread")


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
