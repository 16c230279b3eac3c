"""Routing in C, against PyTorch's operations in float64."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from agreeing import FLAGS, formed, layer, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnet import agreement, kernel
from capsnet.agreement import collect, collect_backward
from capsnet.kernel import Kernel
from capsnet.native import NativeError


@pytest.fixture(scope="module", name="routing")
def _routing() -> Kernel:
    try:
        return kernel.load()
    except NativeError as error:
        pytest.skip(f"needs a C compiler and PyTorch's OpenMP: {error}")


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """Restore this process's number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def single(tensors):
    return [tensor.detach().float().requires_grad_() for tensor in tensors]


def computed(routing, tensors, flags):
    with agreement.computed_by(routing):
        return with_gradients(collect, tensors, flags)


def errors(found, expected):
    """‖a - b‖ / ‖b‖ of each tensor."""
    return [
        float((one.detach() - other.detach()).norm() / other.detach().norm().clamp(min=1e-30))
        for one, other in zip(found, expected, strict=True)
    ]


@pytest.mark.parametrize("flags", FLAGS)
@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 9), *[st.integers(1, 20)] * 2, st.integers(1, 70)),
    threads=st.integers(1, 3),
    room=st.sampled_from([1, 2**13, kernel.ROOM]),
)
def test_layers_of_any_size_give_what_float64_gives_and_so_do_their_gradients(
    flags, sizes, threads, room, routing
):
    tensors = layer(*sizes)
    torch.set_num_threads(threads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "PRODUCTS_OF_A_THREAD", 1)
        patch.setattr(kernel, "ROOM", room)
        found = computed(routing, single(tensors), flags)
    for one, other in zip(found, with_gradients(formed, tensors, flags), strict=True):
        scale = max(float(other.detach().norm()), other.numel() ** 0.5)  # what is near 0 is left of more
        assert float((one.detach() - other.detach()).norm()) < 2e-5 * scale


@pytest.mark.parametrize("flags", FLAGS)
def test_a_layer_of_the_papers_sizes_is_as_exact_as_pytorchs_operations(flags, routing):
    tensors = layer(72, 8, 10, 16, batch=128)
    expected = with_gradients(formed, tensors, flags)
    found = errors(computed(routing, single(tensors), flags), expected)
    usual = errors(with_gradients(collect, single(tensors), flags), expected)
    assert all(one <= 2 * other for one, other in zip(found, usual, strict=True)), (found, usual)


def test_couplings_are_exact_over_all_the_range_of_logits(routing):
    """Of two classes with the logits x and 0 the first gets 1 / (1 + e^-x)."""
    logits = torch.linspace(-86, 86, 20_001)
    outputs = torch.stack([logits, torch.zeros_like(logits)])[:, None]
    weight, capsules = torch.ones(2, 1, 1), torch.ones(1, 1, len(logits))
    found = routing.collect(capsules, weight, outputs, False, False)[:, 0]
    expected = torch.stack([logits, -logits]).double().sigmoid()
    assert ((found - expected) / expected).abs().max() < 4e-7


def test_logits_far_apart_neither_overflow_nor_lose_the_winner(routing):
    outputs = torch.tensor([1e4, -1e4, 9e3])[:, None, None]
    found = routing.collect(torch.ones(1, 1, 1), torch.ones(3, 1, 1), outputs, False, False)
    torch.testing.assert_close(found.flatten(), torch.tensor([1.0, 0, 0]))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("none_of_the_above", [False, True])
def test_what_is_not_finite_stays_so_and_stays_in_its_image(bad, none_of_the_above, routing):
    tensors = single(layer(5, 4, 3, 6, batch=40))
    flags = none_of_the_above, False
    plain = computed(routing, tensors, flags)[0]
    with torch.no_grad():
        tensors[0][2, 1, 17] = bad
    collected, of_capsules, of_weight, _ = computed(routing, tensors, flags)
    others = torch.arange(40) != 17
    assert not collected[..., 17].isfinite().any()
    assert not of_capsules[..., 17].isfinite().all()
    assert not of_weight.isfinite().all()
    assert torch.equal(collected[..., others], plain[..., others])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_bits_depend_on_the_number_of_threads_alone(threads, routing):
    torch.set_num_threads(threads)
    tensors = single(layer(150, 8, 10, 16, batch=128))
    first, *others = (computed(routing, tensors, (False, False)) for _ in range(5))
    assert all(torch.equal(one, other) for again in others for one, other in zip(again, first, strict=True))


def test_a_thread_is_only_woken_for_work_that_is_worth_it():
    torch.set_num_threads(4)
    enough = kernel.PRODUCTS_OF_A_THREAD
    assert [kernel._slabs(1000, products) for products in (0, enough, 3 * enough, 99 * enough)] == [
        1,
        1,
        3,
        4,
    ]
    assert kernel._slabs(2, 99 * enough) == 2


OPENMP = """\
import re
from pathlib import Path
from capsnet import kernel
def mapped():
    return set(re.findall(r"/lib[a-z]*omp[^/\\n]*\\.so[^/\\n]*", Path("/proc/self/maps").read_text()))
before = mapped()
kernel.load()
assert "agreement-" in Path("/proc/self/maps").read_text()
assert len(before) == 1 and mapped() == before, (before, mapped())
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
@pytest.mark.usefixtures("routing")
def test_no_second_openmp_competes_with_that_of_pytorch():
    done = subprocess.run([sys.executable, "-c", OPENMP], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_other_tensors_take_the_other_way(routing):
    assert not routing.serves(torch.zeros(1, dtype=torch.float64))
    assert not routing.serves(torch.zeros(1, device="meta"))
    tensors = layer()
    found = computed(routing, tensors, (False, False))
    for one, other in zip(found, with_gradients(collect, tensors, (False, False)), strict=True):
        assert torch.equal(one, other)


def test_the_kernel_computes_within_its_context_alone(routing):
    tensors = single(layer(20, 8, 10, 16, batch=33))
    by_pytorch = with_gradients(collect, tensors, (False, False))
    with agreement.computed_by(routing):
        assert agreement.forms_predictions()
        by_kernel = with_gradients(collect, tensors, (False, False))
    assert not agreement.forms_predictions()
    again = with_gradients(collect, tensors, (False, False))
    assert not torch.equal(by_kernel[0], by_pytorch[0])  # not all bits: it adds in another order
    assert all(torch.equal(one, other) for one, other in zip(again, by_pytorch, strict=True))


def test_gradients_that_another_thread_computes_are_the_kernels_too(routing):
    """On a GPU, autograd computes gradients in threads of its own."""
    capsules, weight, outputs = (tensor.detach() for tensor in single(layer(20, 8, 10, 16, batch=33)))
    arguments = outputs, capsules, weight, outputs, False, False
    with agreement.computed_by(routing), ThreadPoolExecutor() as threads:
        found = threads.submit(collect_backward, *arguments).result()
    expected = routing.collect_backward(*arguments)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_the_text_is_a_file_of_the_package():
    assert kernel.SOURCE.parent == Path(sys.modules["capsnet"].__file__ or "").parent
    assert kernel.SOURCE.is_file()
