"""PyTorch's switches under `precision: float32` on CUDA; most can be read without a GPU."""

import os

import pytest
import torch

from capsnet.execution import Execution, apply


@pytest.fixture
def all_allowed(monkeypatch):
    """Turn all of PyTorch's switches on, TensorFloat-32 among them; restore them afterwards."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    for name in ("allow_tf32", "benchmark", "deterministic"):
        monkeypatch.setattr(torch.backends.cudnn, name, True)
    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.backends.cuda.matmul.allow_tf32 = matmul
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


@pytest.mark.usefixtures("all_allowed")
@pytest.mark.parametrize("deterministic", [False, True])
def test_nothing_is_rounded_to_tensorfloat_32(deterministic):
    apply(Execution("cuda", "float32", 1, "channels_last", deterministic))
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.usefixtures("all_allowed")
def test_tensorfloat_32_is_allowed_where_it_is_asked_for():
    apply(Execution("cuda", "float32", 1, "channels_last", False))
    apply(Execution("cuda", "tf32", 1, "channels_last", False))
    assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32


@pytest.mark.usefixtures("all_allowed")
def test_a_deterministic_run_may_follow_another_one_in_the_same_process(monkeypatch):
    """PyTorch reads the variable only once, at the first matrix product of a process."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    apply(Execution("cuda", "float32", 1, "channels_last", deterministic=False))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.usefixtures("all_allowed")
def test_a_convolution_on_cuda_is_as_exact_as_float32_is():
    apply(Execution("cuda", "float32", 1, "channels_last", True))
    generator = torch.Generator().manual_seed(0)
    images, kernels = (torch.randn(shape, generator=generator) for shape in ((8, 64, 20, 20), (64, 64, 9, 9)))
    expected = torch.nn.functional.conv2d(images.double(), kernels.double())
    found = torch.nn.functional.conv2d(images.cuda(), kernels.cuda()).cpu()
    assert (found - expected).norm() / expected.norm() < 1e-5  # TensorFloat-32: some 3e-4
