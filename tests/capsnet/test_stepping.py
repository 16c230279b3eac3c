"""Training steps that are compiled: the same mathematics, and what happens where nothing can be compiled."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from hardware import PRECISIONS
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from capsnet import kernel, reference
from capsnet.augmentation import Batch
from capsnet.config import Config
from capsnet.execution import Execution
from capsnet.graphs import held
from capsnet.images import ImageShape
from capsnet.models import build
from capsnet.optimizers import optimizer
from capsnet.stepping import Stepper
from capsnet.training import train

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
# PyTorch's own compiler warns of itself.
pytestmark = [
    pytest.mark.usefixtures("one_thread", "nothing_compiled"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]


@pytest.fixture
def nothing_compiled() -> Iterator[None]:
    """Reset the compiler before and after a test, so that no test reuses another test's compiled code."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def last(progresses):
    *_, progress = progresses
    return progress.snapshot()


def equal(one, other):
    return all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "dtype", "tolerance"),
    [("float32", torch.float64, 1e-10), ("float32", torch.float32, 1e-4), ("bfloat16", torch.float32, 0.05)],
    ids=["float64", "float32", "bfloat16"],
)
@pytest.mark.parametrize(
    ("compiled", "native"),
    [(False, False), (True, False), (True, True)],
    ids=["eager", "compiled", "with routing in C"],
)
def test_gradients_are_those_of_the_reference_in_every_mode_and_precision(
    compiled,
    native,
    precision,
    dtype,
    tolerance,
    small_config,
    small_network,
    small_batch,
    arrays,
    settings,
    relative_error,
):
    config = small_config(batch_size=4)
    network = small_network().to(dtype)
    images, labels = small_batch[0].to(dtype), small_batch[1]
    expected = reference.losses(arrays(network), images.double().numpy(), labels.numpy(), settings(config))
    execution = Execution(
        "cpu", precision, 1, "channels_last", False, compile=compiled, native_routing=native
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)  # leaves the gradients, and changes nothing
    stepper = Stepper(network, optimizer, config, execution, images=4)
    sums = stepper.step(Batch(images, images, labels), None)
    assert stepper.execution == execution
    assert abs(sums[0].item() / 4 - expected.loss) / expected.loss < tolerance
    errors = {
        name: relative_error(parameter.grad, expected.gradients[name])
        for name, parameter in network.named_parameters()
    }
    assert max(errors.values()) < tolerance, errors


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_compiled_run_broken_off_in_mid_epoch_ends_with_the_same_bits(
    tiny_config, tiny_splits, precision, caplog
):
    optim = {"name": "adamw", "clip_norm": 0.05, "warmup_epochs": 1.5}
    config = tiny_config(num_epochs=2, compile=True, precision=precision, optim=optim)
    with caplog.at_level(logging.INFO, logger="capsnet"):
        undisturbed = last(train(config, splits=tiny_splits))
    assert "the first step is compiled, which takes some 20 s" in caplog.text
    assert undisturbed["execution"]["compile"] is True
    assert undisturbed["execution"]["native_routing"] is True
    *_, progress = islice(train(config, splits=tiny_splits, interval_seconds=0), 6)
    state = progress.snapshot()
    assert (state["epoch"], state["step"]) != (0, 0)
    assert equal(last(train(config, state, tiny_splits)), undisturbed)
    eager = tiny_config(num_epochs=2, precision=precision, optim=optim)
    plain = last(train(eager, splits=tiny_splits))
    assert not equal(plain, undisturbed)  # else nothing was compiled
    loss, plain_loss = (state["history"][-1]["train/loss"] for state in (undisturbed, plain))
    assert loss == pytest.approx(plain_loss, rel=1e-2)


def other_network(compiled: bool, **model: Any) -> Config:
    """One epoch of the digits, 6 batches, the last one smaller."""
    keys = {"num_epochs": 1, "batch_size": 256, "threads": 1, "compile": compiled, "model": model}
    return Config.model_validate({**keys, "dataset": {"name": "digits", "size": 28, "shift": 0}})


@needs_compiler
@pytest.mark.rehearsal
def test_efficient_capsnet_is_compiled_too() -> None:
    sizes = {"name": "efficient_capsnet", "conv_channels": [4, 4, 4, 16]}
    plain, compiled = (last(train(other_network(mode, **sizes))) for mode in (False, True))
    assert compiled["execution"]["compile"] is True
    assert compiled["execution"]["native_routing"] is False  # it has no iterations
    losses = [state["history"][-1]["train/loss"] for state in (plain, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_a_network_that_cannot_be_compiled_trains_on_and_says_why() -> None:
    """Its dropout draws from a generator that is set for each step; PyTorch's compiler supports none."""
    sizes = {"name": "cnn", "conv_channels": [2, 2, 2], "hidden": [8]}
    with pytest.warns(UserWarning, match="cannot be compiled, and goes without: .*Generator"):
        state = last(train(other_network(True, **sizes)))
    assert state["execution"]["compile"] is False
    assert equal(state, last(train(other_network(False, **sizes))))


def test_what_could_not_be_compiled_is_not_tried_again_when_the_run_goes_on(tiny_config, tiny_splits):
    config = tiny_config(compile=True)
    state = next(train(tiny_config(), splits=tiny_splits)).snapshot()
    state["config"]["compile"] = True  # as it is where compilation failed
    assert last(train(config, state, tiny_splits))["execution"]["compile"] is False


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # pytest.warns tells it again, as its own
def test_a_machine_without_a_compiler_trains_on_and_says_so(tiny_config, tiny_splits, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # not even what was compiled before
    # Not by monkeypatch, which cannot put this setting back.
    broken = inductor.patch({"cpp.cxx": ("/no/such/compiler",)})
    with broken, pytest.warns(UserWarning, match="the step cannot be compiled, and goes without: "):
        state = last(train(tiny_config(num_epochs=1, compile=True), splits=tiny_splits))
    assert state["execution"]["compile"] is False
    assert equal(state, last(train(tiny_config(num_epochs=1), splits=tiny_splits)))


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Name a C compiler that does not exist, and forget kernels that were compiled before."""
    monkeypatch.setenv("CC", "/no/such/compiler")
    kernel.load.cache_clear()
    yield
    kernel.load.cache_clear()


@pytest.mark.usefixtures("no_kernel")
def test_routing_goes_without_c_where_there_is_none_and_it_is_said(small_config, small_network) -> None:
    network, execution = (
        small_network(),
        Execution("cpu", "float32", 1, "contiguous", False, True, False, True),
    )
    optimizer = torch.optim.SGD(network.parameters())
    with pytest.warns(UserWarning, match="routing in C cannot be had, and goes without: .*/no/such/compiler"):
        stepper = Stepper(network, optimizer, small_config(), execution, images=4)
    assert stepper.execution == replace(execution, native_routing=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_routing_goes_without_triton_where_it_does_not_work_and_it_is_said(
    small_config, small_network
) -> None:
    pytest.importorskip("triton", reason="comes with PyTorch's builds for GPUs")
    network = small_network().float()
    execution = Execution("cuda", "float32", 1, "contiguous", False, compile=True, native_routing=True)
    optimizer = torch.optim.SGD(network.parameters())
    with pytest.warns(UserWarning, match="in Triton cannot be had, and goes without: .*(driver|NVIDIA)"):
        stepper = Stepper(network, optimizer, small_config(), execution, images=4)
    assert stepper.execution == replace(execution, native_routing=False)


@needs_compiler
@pytest.mark.slow
def test_a_compiled_run_that_began_with_routing_in_c_or_without_goes_on_so(
    tiny_config, tiny_splits, monkeypatch
) -> None:
    config = tiny_config(compile=True)
    with monkeypatch.context() as patch:
        patch.setenv("CC", "/no/such/compiler")
        kernel.load.cache_clear()
        with pytest.warns(UserWarning, match="routing in C cannot be had"):
            began = next(train(config, splits=tiny_splits)).snapshot()
        with pytest.warns(UserWarning, match="routing in C cannot be had"):
            undisturbed = last(train(config, splits=tiny_splits))
        kernel.load.cache_clear()
    resumed = last(train(config, began, tiny_splits))
    assert resumed["execution"]["native_routing"] is False
    assert equal(resumed, undisturbed)
    assert not equal(last(train(config, splits=tiny_splits)), undisturbed)


def test_a_network_with_dropout_is_not_recorded_and_it_is_said() -> None:
    network = build(
        other_network(False, name="cnn", conv_channels=[2, 2, 2], hidden=[8]), ImageShape(1, 28, 28, 10)
    )
    execution = Execution("cuda", "float32", 1, "channels_last", False, cuda_graph=True)
    optimizer = torch.optim.SGD(network.parameters())
    with pytest.warns(UserWarning, match="cuda_graph: a network with dropout cannot be recorded"):
        stepper = Stepper(network, optimizer, Config(), execution, images=10)
    assert stepper.execution == replace(execution, cuda_graph=False)


@pytest.mark.slow
@needs_compiler
def test_a_compiled_step_takes_a_held_batch_without_being_compiled_again(small_config, small_network):
    execution = Execution("cpu", "float32", 1, "channels_last", False, compile=True)
    network = small_network().float().to(memory_format=torch.channels_last)
    config = small_config(batch_size=3)
    stepper = Stepper(
        network, optimizer(config.optim, network.parameters(), "cpu"), config, execution, images=3
    )
    batch = Batch(images := torch.rand(3, 2, 9, 8), images, torch.arange(3))
    stepper.step(batch, None)
    stepper.step(batch, None)
    assert stepper.execution.compile
    compiled = counters["stats"]["unique_graphs"]
    stepper.step(held(batch), None)
    assert counters["stats"]["unique_graphs"] == compiled
    stepper.step(Batch(batch.inputs, batch.targets.clone(), batch.labels), None)
    assert counters["stats"]["unique_graphs"] == compiled + 1  # so the count would tell
