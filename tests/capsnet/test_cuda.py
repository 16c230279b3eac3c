"""Tests that need a GPU: CUDA graphs, TensorFloat-32, bit-exact resume. Skipped without one."""

from __future__ import annotations

import re
from functools import partial
from itertools import islice

import pytest
import torch
from agreeing import FLAGS, formed, layer, with_gradients

from capsnet import agreement, reference
from capsnet.agreement import collect
from capsnet.augmentation import Batch
from capsnet.capsules import ClassCapsules
from capsnet.execution import Execution, apply
from capsnet.optimizers import optimizer, set_rate
from capsnet.routing import dynamic
from capsnet.stepping import Stepper
from capsnet.training import train

# What PyTorch and its compiler warn of on GPUs differs from version to version, and is not tested here.
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
    pytest.mark.filterwarnings("ignore:::torch", "ignore:::triton"),
]

MODES = [(False, False), (True, False), (False, True), (True, True)]  # compiled, by a CUDA graph
BOUNDS = {"float32": 1e-4, "tf32": 2e-2, "bfloat16": 5e-2}


@pytest.fixture(autouse=True)
def switches_as_they_were(monkeypatch):
    """Restore PyTorch's switches, which apply to the whole process."""
    for name in ("allow_tf32", "benchmark", "deterministic"):
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    matmul, threads = torch.backends.cuda.matmul.allow_tf32, torch.get_num_threads()
    yield
    torch.backends.cuda.matmul.allow_tf32 = matmul
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def last(progresses):
    *_, progress = progresses
    return progress.snapshot()


@pytest.mark.parametrize("precision", list(BOUNDS))
@pytest.mark.parametrize(("compiled", "graph"), MODES)
def test_gradients_are_those_of_the_reference_in_every_mode_and_precision(
    compiled,
    graph,
    precision,
    small_config,
    small_network,
    small_batch,
    arrays,
    settings,
    relative_error,
    monkeypatch,
):
    """Compiled steps use routing in Triton here, although it is slow for so small a network."""
    if compiled:
        triton_kernel = pytest.importorskip("capsnet.triton_kernel")
        monkeypatch.setattr(triton_kernel, "GAIN", 0.0)
    modes = {"compile": compiled, "cuda_graph": graph, "native_routing": compiled}
    execution = Execution("cuda", precision, 1, "channels_last", False, **modes)
    apply(execution)
    config = small_config(batch_size=4)
    network = small_network().float()
    expected = reference.losses(
        arrays(network), small_batch[0].numpy(), small_batch[1].numpy(), settings(config)
    )
    network.cuda().to(memory_format=torch.channels_last)
    images = small_batch[0].float().cuda()
    still = optimizer(config.optim, network.parameters(), "cuda")
    set_rate(still, 0.0)
    stepper = Stepper(network, still, config, execution, images=4)
    batch = Batch(images, images, small_batch[1].cuda())
    for _ in range(4):  # what is launched before a graph is recorded, and the first replay
        stepper.step(batch, None)
    sums = stepper.step(batch, None)
    assert stepper.execution == execution
    assert abs(sums[0].item() / 4 - expected.loss) / expected.loss < BOUNDS[precision]
    errors = {
        name: relative_error(parameter.grad.cpu(), expected.gradients[name])
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    assert errors.keys() == expected.gradients.keys()
    assert max(errors.values()) < BOUNDS[precision], errors


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize(("tf32", "bound"), [(False, 1e-5), (True, 1e-2)])
def test_routing_in_triton_gives_what_float64_gives_and_always_the_same_bits(flags, tf32, bound):
    kernel = pytest.importorskip("capsnet.triton_kernel").TritonKernel()
    torch.backends.cuda.matmul.allow_tf32 = tf32
    capsules, weight, outputs = layer(72, 8, 10, 16, batch=96)
    double = [(tensor.detach() / 4).requires_grad_() for tensor in (capsules, weight, outputs)]
    single = [tensor.detach().float().cuda().requires_grad_() for tensor in double]
    with agreement.computed_by(kernel):
        first, second = (with_gradients(collect, single, flags) for _ in range(2))
    for one, other, expected in zip(first, second, with_gradients(formed, double, flags), strict=True):
        assert torch.equal(one, other)
        scale = max(float(expected.detach().norm()), 1e-3)
        assert float((one.detach().cpu() - expected.detach()).norm()) < bound * scale


def test_a_layer_of_the_papers_sizes_is_tried_out_and_its_gain_measured(caplog):
    triton_kernel = pytest.importorskip("capsnet.triton_kernel")
    layer = ClassCapsules(1152, 8, 10, 16, bias=True, route=partial(dynamic, iterations=3)).cuda()
    assert triton_kernel.load(layer, 128, timed=False) is not None
    with caplog.at_level("INFO", "capsnet.triton_kernel"):
        taken = triton_kernel.load(layer, 128, timed=True)
    [gain] = re.findall(r"routing in Triton is ([\d.]+) times as fast", caplog.text)
    assert (taken is not None) is (float(gain) >= triton_kernel.GAIN)


@pytest.mark.parametrize("precision", list(BOUNDS))
def test_a_run_by_graphs_reaches_what_one_without_reaches(tiny_config, tiny_splits, precision):
    """The last batch of an epoch is smaller, and has a graph of its own from the fourth epoch on."""
    plain, replayed = (
        last(train(tiny_config(num_epochs=8, precision=precision, cuda_graph=graph), splits=tiny_splits))
        for graph in (False, True)
    )
    assert (plain["execution"]["cuda_graph"], replayed["execution"]["cuda_graph"]) == (False, True)
    for one, other in zip(plain["history"], replayed["history"], strict=True):
        assert other["train/loss"] == pytest.approx(one["train/loss"], rel=2e-2)
    assert replayed["history"][-1]["train/loss"] < replayed["history"][0]["train/loss"]


OPTIMIZERS = [{}, {"name": "adamw", "clip_norm": 0.1}, {"name": "sgd", "lr": 0.1, "warmup_epochs": 1.5}]


@pytest.mark.parametrize("optim", OPTIMIZERS, ids=str)
def test_the_rate_of_a_schedule_reaches_a_recorded_step(tiny_config, tiny_splits, optim):
    falling = {"milestone": [5], "step_decay": 1e-30}
    config = tiny_config(num_epochs=6, cuda_graph=True, optim=optim | falling)
    states = {
        progress.epoch: progress.snapshot()["model"]
        for progress in train(config, splits=tiny_splits)
        if progress.phase == "epoch_end"
    }
    assert not torch.equal(states[5]["conv.weight"], states[4]["conv.weight"])
    assert torch.equal(states[6]["conv.weight"], states[5]["conv.weight"])


@pytest.mark.parametrize("optim", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_deterministic_run_broken_off_in_mid_epoch_ends_with_the_same_bits(
    tiny_config, tiny_splits, precision, optim
):
    config = tiny_config(deterministic=True, precision=precision, optim=optim)
    undisturbed = last(train(config, splits=tiny_splits))
    *_, progress = islice(train(config, splits=tiny_splits, interval_seconds=0), 12)
    resumed = last(train(config, progress.snapshot(), tiny_splits))
    for name, weight in undisturbed["model"].items():
        assert torch.equal(weight, resumed["model"][name]), name


def test_a_run_begun_on_the_gpu_goes_on_without_it(tiny_config, tiny_splits):
    config = tiny_config(cuda_graph=True)
    *_, progress = islice(train(config, splits=tiny_splits, interval_seconds=0), 12)
    with pytest.warns(UserWarning, match="device cuda -> cpu"):
        state = last(train(tiny_config(use_cuda=False), progress.snapshot(), tiny_splits))
    assert state["epoch"] == 3


def test_tf32_is_off_unless_it_is_asked_for(tiny_config, tiny_splits):
    losses = {
        precision: last(train(tiny_config(precision=precision), splits=tiny_splits))["history"]
        for precision in ("float32", "tf32")
    }
    assert losses["float32"][-1]["train/loss"] != losses["tf32"][-1]["train/loss"]


def test_a_snapshot_is_of_its_moment_though_training_goes_on_before_it_arrives(tiny_config, tiny_splits):
    progresses = train(tiny_config(cuda_graph=True), splits=tiny_splits, interval_seconds=0)
    *_, progress = islice(progresses, 8)
    before, snapshot = progress.snapshot(), progress.start_snapshot()
    for _ in islice(progresses, 4):
        pass
    state = snapshot.state()
    for name, weight in before["model"].items():
        assert weight.is_pinned()
        assert torch.equal(state["model"][name], weight), name
