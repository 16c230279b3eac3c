"""The settings of `Execution` change how training computes; they are not only stored."""

import logging

import pytest
import torch
from hardware import needs_bfloat16

from capsnet import execution
from capsnet.config import Config
from capsnet.execution import Execution, apply
from capsnet.training import train


@pytest.fixture(autouse=True)
def own_threads():
    """Restore this process's number of threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def losses(config, splits):
    return [p.metrics["train/loss"] for p in train(config, splits=splits) if p.metrics is not None]


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)], ids=str
)
def test_matrix_products_are_computed_in_the_precision_asked_for(precision, dtype):
    matrix = torch.ones(2, 2)
    with Execution("cpu", precision, 1, "contiguous", False).autocast():
        assert (matrix @ matrix).dtype == dtype


@needs_bfloat16
def test_training_in_bfloat16_differs_from_float32_and_stays_near_it(tiny_config, tiny_splits):
    single, half = (
        losses(tiny_config(precision=precision, optim={"lr": 0.01}), tiny_splits)
        for precision in ("float32", "bfloat16")
    )
    assert single[-1] < 0.8 * single[0]  # far enough for what one of them learns not to be forgiven the other
    assert half != pytest.approx(single, rel=1e-6)
    assert half == pytest.approx(single, rel=2e-3)


@needs_bfloat16
def test_the_weights_stay_float32_whatever_the_precision(tiny_config, tiny_splits):
    state = next(train(tiny_config(precision="bfloat16"), splits=tiny_splits)).snapshot()
    assert {value.dtype for value in state["model"].values()} == {torch.float32}


@pytest.mark.parametrize("threads", [1, 2])
def test_pytorch_gets_the_threads_asked_for(threads):
    apply(Execution("cpu", "float32", threads, "contiguous", False))
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("threads", [1, 2])
def test_training_computes_with_the_threads_of_the_configuration(tiny_config, tiny_splits, threads):
    next(train(tiny_config(threads=threads), splits=tiny_splits))
    assert torch.get_num_threads() == threads


def hardware(monkeypatch, can, fast):
    """Set whether the CPU seems to compute bfloat16 (`can`) and to have instructions for it (`fast`)."""
    monkeypatch.setattr(execution, "can_bfloat16", lambda device: can)
    monkeypatch.setattr(execution, "has_fast_bfloat16", lambda device: fast)


@pytest.mark.parametrize(
    ("model", "fast", "picked"),
    [
        ("capsnet", True, "bfloat16"),
        ("capsnet", False, "float32"),
        ("matrix_capsnet", True, "float32"),
    ],
)
def test_auto_is_the_fastest_precision_that_keeps_accuracy_and_is_said(
    model, fast, picked, monkeypatch, caplog
):
    hardware(monkeypatch, can=True, fast=fast)
    config = Config.model_validate({"precision": "auto", "use_cuda": False, "model": {"name": model}})
    with caplog.at_level(logging.INFO, logger="capsnet"):
        assert execution.resolve(config).precision == picked
    assert f"precision: auto is {picked} here: " in caplog.text


def test_a_resumed_run_keeps_the_precision_that_auto_was_at_its_start(monkeypatch, tiny_config, tiny_splits):
    hardware(monkeypatch, can=True, fast=False)
    config = tiny_config(precision="auto", use_cuda=False)
    state = next(train(config, splits=tiny_splits)).snapshot()
    hardware(monkeypatch, can=True, fast=True)
    assert execution.resolve(config, state["execution"], config).precision == "float32"
    assert execution.resolve(config).precision == "bfloat16"


def test_bfloat16_where_it_cannot_be_computed_is_float32_with_a_warning_and_stays_so(
    monkeypatch, tiny_config
):
    hardware(monkeypatch, can=False, fast=False)
    config = tiny_config(precision="bfloat16", use_cuda=False)
    with pytest.warns(UserWarning, match="this CPU has no bfloat16 that is worth using; it is float32"):
        found = execution.resolve(config)
    assert found.precision == "float32"
    hardware(monkeypatch, can=True, fast=True)
    assert execution.resolve(config, found.as_dict(), config) == found


def test_a_run_of_bfloat16_goes_on_in_float32_where_there_is_none(monkeypatch, tiny_config):
    config = tiny_config(precision="auto", use_cuda=False)
    stored = Execution("cpu", "bfloat16", 1, "channels_last", False).as_dict()
    hardware(monkeypatch, can=False, fast=False)
    with pytest.warns(UserWarning) as warned:
        assert execution.resolve(config, stored, config).precision == "float32"
    assert "precision bfloat16 -> float32" in str(warned[-1].message)


def test_a_checkpoint_of_before_there_was_compilation_was_not_compiled(tiny_config, tiny_splits):
    stored = next(train(tiny_config(), splits=tiny_splits)).snapshot()["execution"]
    del stored["compile"]
    assert execution.resolve(tiny_config(), stored).compile is False
    with pytest.warns(UserWarning, match="compile False -> True"):
        assert execution.resolve(tiny_config(compile=True), stored).compile is True


@pytest.mark.parametrize(
    ("keys", "native"),
    [
        ({"compile": True}, True),
        ({"compile": False}, False),
        ({"compile": True, "route_iters": 1}, False),
        ({"compile": True, "model": {"routing": {"name": "attention"}}}, False),
        ({"compile": True, "model": {"name": "efficient_capsnet"}}, False),
        ({"compile": True, "model": {"name": "matrix_capsnet"}}, False),
    ],
)
def test_iterations_of_compiled_steps_are_computed_by_a_kernel(keys, native):
    assert execution.resolve(Config.model_validate({"use_cuda": False, **keys})).native_routing is native


def test_a_compiled_run_of_before_there_was_routing_in_c_goes_on_without(tiny_config, tiny_splits):
    config = tiny_config(compile=True, use_cuda=False)
    stored = execution.resolve(config).as_dict()
    assert execution.resolve(config, stored, config).native_routing is True
    del stored["native_routing"]
    assert execution.resolve(config, stored, config).native_routing is False


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_what_only_a_gpu_has_is_said_to_be_missing_or_left_alone_without_one(tiny_config):
    with pytest.warns(UserWarning, match="this CPU has no tf32 that is worth using; it is float32"):
        assert execution.resolve(tiny_config(precision="tf32")).precision == "float32"
    assert execution.resolve(tiny_config(cuda_graph=True)).cuda_graph is False


def test_the_way_to_compute_is_told_in_a_few_words():
    plain = Execution("cpu", "float32", 1, "contiguous", False)
    assert plain.summary == "float32 on the CPU, 1 thread, steps not compiled"
    recorded = Execution("cuda", "bfloat16", 8, "channels_last", False, compile=True, cuda_graph=True)
    assert recorded.summary == "bfloat16 on the GPU, steps compiled, recorded as a CUDA graph"
