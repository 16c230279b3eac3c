"""The loop: what it yields, and that a run broken off anywhere ends as one that was not."""

import dataclasses
import math
import subprocess
import sys
from io import BytesIO
from itertools import islice

import pytest
import torch
from hardware import needs_bfloat16

from capsnet import training
from capsnet.config import Config
from capsnet.execution import Execution, resolve
from capsnet.history import results
from capsnet.snapshot import tensors
from capsnet.state import CheckpointError, from_best, require_same_run
from capsnet.training import TrainingError, train

CLOCK = ("time", "images_per_second", "epoch_seconds")  # metrics that no two runs share


def last(progresses):
    """The state at the end of an iteration."""
    state = None
    for progress in progresses:
        state = progress.snapshot() if progress.phase == "epoch_end" else state
    assert state is not None
    return state


def saved_and_loaded(state):
    """Return the state after a round trip through a checkpoint file, loaded with `weights_only`."""
    file = BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def timeless(history):
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in history]


def assert_same_run(one, other):
    """Assert that weights, optimizer and best weights are equal bit for bit, and the history except times."""
    for part in ("model", "optimizer", "best"):
        first, second = tensors(one[part]), tensors(other[part])
        assert len(first) == len(second)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), part
    assert one["optimizer"]["param_groups"] == other["optimizer"]["param_groups"]
    assert timeless(one["history"]) == timeless(other["history"])
    assert (one["epoch"], one["step"]) == (other["epoch"], other["step"])


def broken_off(config, splits, places):
    """Train in one process after the other, each killed where it stands at one of `places`."""
    state, reached = None, []
    for place in places:
        *_, progress = islice(train(config, state, splits, interval_seconds=0), place)
        state = saved_and_loaded(progress.snapshot())
        reached.append((progress.phase, progress.epoch, progress.step))
    return last(train(config, state, splits, interval_seconds=0)), reached


@pytest.mark.parametrize(
    ("precision", "threads"), [("float32", 2), pytest.param("bfloat16", 1, marks=needs_bfloat16)]
)
def test_a_run_broken_off_in_every_phase_ends_with_the_same_bits(
    tiny_config, tiny_splits, precision, threads
):
    config = tiny_config(precision=precision, threads=threads, optim={"milestone": [1, 2]})
    undisturbed = last(train(config, splits=tiny_splits))
    # 4 steps, 2 batches of validation, 2 of test, an epoch's end: 9 yields an epoch
    resumed, reached = broken_off(config, tiny_splits, [1, 3, 2, 1, 7])
    assert reached == [
        ("train", 1, 1),
        ("train", 1, 4),
        ("validation", 1, 4),
        ("validation", 1, 4),
        ("train", 2, 2),
    ]
    assert_same_run(undisturbed, resumed)


def test_a_run_broken_off_at_every_place_once_ends_with_the_same_bits(tiny_config, tiny_splits):
    config = tiny_config(num_epochs=2)
    undisturbed = last(train(config, splits=tiny_splits))
    for place in range(1, 18):
        assert_same_run(undisturbed, broken_off(config, tiny_splits, [place])[0])


def test_worker_processes_give_the_same_bits_also_when_broken_off(tiny_config, tiny_splits):
    resident = last(train(tiny_config(num_epochs=2), splits=tiny_splits))
    config = tiny_config(num_epochs=2, dataloader={"num_workers": 2})
    resumed, reached = broken_off(config, tiny_splits, [2])
    assert reached == [("train", 1, 2)]
    assert_same_run(resident, resumed)


def test_another_seed_gives_another_run(tiny_config, tiny_splits):
    states = [last(train(tiny_config(seed=seed, num_epochs=1), splits=tiny_splits)) for seed in (0, 1)]
    assert not torch.equal(states[0]["model"]["conv.weight"], states[1]["model"]["conv.weight"])


def test_more_epochs_extend_a_finished_run_as_if_they_had_been_asked_for_at_once(tiny_config, tiny_splits):
    finished = last(train(tiny_config(num_epochs=1), splits=tiny_splits))
    assert list(train(tiny_config(num_epochs=1), finished, tiny_splits)) == []
    extended = last(train(tiny_config(num_epochs=3), finished, tiny_splits))
    assert_same_run(extended, last(train(tiny_config(num_epochs=3), splits=tiny_splits)))


def test_it_yields_after_the_first_step_and_at_each_epochs_end(tiny_config, tiny_splits):
    progresses = list(train(tiny_config(num_epochs=2), splits=tiny_splits, interval_seconds=3600))
    assert [(p.phase, p.epoch, p.step) for p in progresses] == [
        ("train", 1, 1),
        ("epoch_end", 1, 4),
        ("epoch_end", 2, 4),
    ]
    first, _, end = progresses
    assert first.metrics is None
    assert (end.num_epochs, end.steps_per_epoch, end.seconds_left) == (2, 4, 0)
    assert end.metrics is not None
    assert end.loss == end.metrics["train/loss"]
    assert end.images_per_second > 0


def test_an_epochs_metrics_are_complete(tiny_config, tiny_splits):
    *_, end = train(tiny_config(num_epochs=1), splits=tiny_splits)
    measured = {"loss", "margin_loss", "reconstruction_loss", "accuracy"}
    expected = {f"{part}/{name}" for part in ("train", "validation", "test") for name in measured}
    expected |= {"test/error", "learning_rate", "images_per_second", "epoch_seconds"}
    assert end.metrics is not None
    assert end.metrics.keys() == expected
    assert end.snapshot()["history"][0].keys() == expected | {"epoch", "time"}
    margin, rest = end.metrics["test/margin_loss"], end.metrics["test/reconstruction_loss"]
    assert end.metrics["test/loss"] == pytest.approx(margin + 0.0005 * rest)
    assert end.metrics["test/error"] == pytest.approx(1 - end.metrics["test/accuracy"])


def test_without_decoder_or_validation_their_metrics_are_absent(tiny_config, tiny_splits):
    config = tiny_config(
        num_epochs=1,
        dataset={"validation": 0},
        loss={"with_reconstruction": False},
        model={"decoder": {"hidden": [512, 1024]}},
    )
    splits = training.Splits(tiny_splits.train, None, tiny_splits.test)
    *_, end = train(config, splits=splits)
    assert end.metrics is not None
    assert not [name for name in end.metrics if "reconstruction" in name or "validation" in name]
    assert end.snapshot()["best"] is None


def test_the_network_learns(tiny_config, tiny_splits):
    config = tiny_config(num_epochs=15, dataset={"shift": 0}, optim={"lr": 0.01})
    state = last(train(config, splits=tiny_splits))
    assert state["history"][-1]["train/loss"] < 0.5 * state["history"][0]["train/loss"]
    assert state["history"][-1]["test/accuracy"] > 0.9


def test_the_learning_rate_of_each_epoch_is_in_its_metrics(tiny_config, tiny_splits):
    config = tiny_config(optim={"lr": 0.01, "milestone": [1, 2], "step_decay": 0.5})
    history = last(train(config, splits=tiny_splits))["history"]
    assert [row["learning_rate"] for row in history] == pytest.approx([0.01, 0.005, 0.0025])


def test_a_snapshot_does_not_change_when_training_goes_on(tiny_config, tiny_splits):
    progresses = train(tiny_config(), splits=tiny_splits, interval_seconds=0)
    early = next(progresses).snapshot()
    copy = saved_and_loaded(early)
    list(progresses)
    assert_same_run(early, copy)
    assert torch.equal(early["sums"], copy["sums"])


def test_a_state_can_be_gone_on_from_twice(tiny_config, tiny_splits):
    state = next(train(tiny_config(), splits=tiny_splits)).snapshot()
    first, second = (last(train(tiny_config(), state, tiny_splits)) for _ in range(2))
    assert_same_run(first, second)


def test_a_loss_that_is_no_number_names_the_first_bad_step(tiny_config, tiny_splits):
    exploding = tiny_config(optim={"lr": 1e30})
    reached = []
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) at epoch 1, step (\d)$") as caught:
        for progress in train(exploding, splits=tiny_splits, interval_seconds=0):
            reached.append(progress.step)
    assert str(caught.value).endswith(f"step {reached[-1] + 1}")
    with pytest.raises(TrainingError) as rarely:  # noticed only at the epoch's end
        list(train(exploding, splits=tiny_splits, interval_seconds=3600))
    assert str(rarely.value) == str(caught.value)


def test_weights_that_are_no_numbers_are_not_handed_out(tiny_config, tiny_splits):
    """The step that spoils the weights still has a finite loss."""
    progress = next(train(tiny_config(optim={"lr": 1e39}), splits=tiny_splits))
    assert math.isfinite(progress.loss)
    with pytest.raises(TrainingError, match="weights are not finite at epoch 1, step 1"):
        progress.snapshot()


def test_best_is_the_first_epoch_with_the_highest_validation_accuracy(tiny_config, tiny_splits):
    config = tiny_config(num_epochs=12)
    states = [
        progress.snapshot() for progress in train(config, splits=tiny_splits) if progress.phase == "epoch_end"
    ]
    history = states[-1]["history"]
    scores = [row["validation/accuracy"] for row in history]
    best = states[-1]["best"]
    assert best["score"] == max(scores)
    assert best["epoch"] == scores.index(max(scores)) + 1
    weights = states[best["epoch"] - 1]["model"]
    assert all(torch.equal(weights[name], value) for name, value in best["model"].items())
    figures = results(history)
    assert figures["test/accuracy"] == history[-1]["test/accuracy"]
    assert figures["best/epoch"] == best["epoch"]
    assert figures["best/test/accuracy"] == history[best["epoch"] - 1]["test/accuracy"]


def test_going_on_from_the_best_weights_keeps_the_count_and_the_history(tiny_config, tiny_splits):
    state = last(train(tiny_config(), splits=tiny_splits))
    progress = next(train(tiny_config(num_epochs=4), from_best(state), tiny_splits))
    assert progress.epoch == 4
    assert timeless(progress.snapshot()["history"]) == timeless(state["history"])


def test_a_state_without_best_weights_says_what_it_lacks(tiny_config, tiny_splits):
    state = last(train(tiny_config(num_epochs=1), splits=tiny_splits)) | {"best": None}
    with pytest.raises(CheckpointError, match=r"no best weights: they need dataset.validation above 0"):
        from_best(state)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"route_iters": 1}, "route_iters was 3 and is now 1"),
        ({"model": {"conv_channels": 9}}, "model.conv_channels was 8 and is now 9"),
        ({"dataset": {"size": 16}}, "dataset.size was 12 and is now 16"),
        ({"seed": 1}, "seed was 0 and is now 1"),
    ],
)
def test_a_state_of_another_run_is_refused_with_both_values(tiny_config, tiny_splits, changes, words):
    state = next(train(tiny_config(), splits=tiny_splits)).snapshot()
    with pytest.raises(CheckpointError, match=words):
        next(train(tiny_config(**changes), state, tiny_splits))


OWN = {"name": "folder", "root": "images", "size": 28, "classes": 3}


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({"name": "svhn"}, {"standardise": True}, "dataset.standardise was False and is now 'last'"),
        ({"name": "cifar10"}, {"standardise": False}, "dataset.standardise was 'last' and is now False"),
        (
            {"name": "cifar10", "brightness": 1.0},
            {"standardise": "first"},
            "dataset.standardise was 'last' and is now 'first'",
        ),
        (OWN, {"resize": True}, "dataset.resize was False and is now True"),
        ({"name": "multi_mnist"}, {"shift": 3}, "dataset.shift was 4 and is now 3"),
    ],
)
def test_a_state_of_images_prepared_otherwise_is_refused(before, now, words):
    config, other = (Config.model_validate({"dataset": dataset}) for dataset in (before, before | now))
    state = {"optimizer": {}, "config": config.model_dump(mode="json")}
    require_same_run(state, config)
    with pytest.raises(CheckpointError, match=words):
        require_same_run(state, other)


@pytest.mark.parametrize(
    ("before", "now"), [({"name": "mnist"}, {"shift": 3}), (OWN, {"root": "moved", "flip": True, "shift": 1})]
)
def test_what_concerns_training_images_alone_may_change(before, now):
    config, other = (Config.model_validate({"dataset": dataset}) for dataset in (before, before | now))
    require_same_run({"optimizer": {}, "config": config.model_dump(mode="json")}, other)


@pytest.mark.parametrize("count", [49, 51])
def test_another_number_of_training_images_is_refused_with_both(tiny_config, tiny_splits, count):
    state = next(train(tiny_config(), splits=tiny_splits)).snapshot()
    order = torch.arange(count) % len(tiny_splits.train)
    others = dataclasses.replace(tiny_splits, train=tiny_splits.train[order])
    with pytest.raises(CheckpointError, match=f"trained on 50 images, and now there are {count}: put back"):
        next(train(tiny_config(), state, others))
    del state["images"]  # as files of before have none
    next(train(tiny_config(), state, others))


def test_kept_weights_alone_cannot_be_trained_on(tiny_config, tiny_splits):
    state = next(train(tiny_config(), splits=tiny_splits)).snapshot() | {"optimizer": None}
    with pytest.raises(CheckpointError, match="weights of one epoch only"):
        next(train(tiny_config(), state, tiny_splits))


def test_the_rate_and_the_place_of_files_may_change(tiny_config, tiny_splits):
    state = next(train(tiny_config(), splits=tiny_splits)).snapshot()
    changed = tiny_config(optim={"lr": 0.01}, checkpoint={"interval_seconds": 1.0}, name="other")
    assert next(train(changed, state, tiny_splits)).learning_rate == 0.01


@pytest.mark.filterwarnings("ignore:the run goes on with the 7 threads")
def test_what_the_configuration_leaves_open_is_taken_from_the_checkpoint(tiny_config):
    stored = Execution("cpu", "float32", 7, "contiguous", False)
    assert resolve(tiny_config(threads=None, use_cuda=False), stored.as_dict()) == stored


def test_another_way_to_compute_than_the_checkpoints_is_taken_with_a_warning(tiny_config):
    stored = Execution("cpu", "float32", 7, "contiguous", False).as_dict()
    with pytest.warns(UserWarning, match="precision float32 -> bfloat16, threads 7 -> 1"):
        assert resolve(tiny_config(precision="bfloat16", use_cuda=False), stored).threads == 1
    with pytest.warns(UserWarning, match="device cuda -> cpu"):
        assert resolve(tiny_config(use_cuda=False), stored | {"device": "cuda"}).device == "cpu"


def test_a_checkpoint_of_other_versions_is_taken_with_a_warning(tiny_config, tiny_splits):
    state = next(train(tiny_config(), splits=tiny_splits)).snapshot()
    state["versions"]["torch"] = "1.0"
    with pytest.warns(UserWarning, match=r"other versions \(torch 1.0 -> "):
        next(train(tiny_config(), state, tiny_splits))


def test_extending_a_cosine_run_warns_that_its_rate_rises_again(tiny_config, tiny_splits):
    def config(num_epochs, **optim):
        return tiny_config(num_epochs=num_epochs, optim={"schedule": "cosine", "lr": 0.01, **optim})

    state = last(train(config(2), splits=tiny_splits))
    text = (
        "num_epochs was 2 and is now 4, and the cosine spans all epochs: "
        "the learning rate goes on from 0.005 instead of 0"
    )
    with pytest.warns(UserWarning, match=f"^{text}$"):
        assert next(train(config(4), state, tiny_splits)).learning_rate == pytest.approx(0.005)
    assert list(train(config(2), state, tiny_splits)) == []  # nothing to warn of: warnings are errors here


def test_going_on_with_a_cosine_run_warns_of_nothing_while_its_epochs_stay(tiny_config, tiny_splits):
    cosine = tiny_config(num_epochs=2, optim={"schedule": "cosine"})
    state = next(train(cosine, splits=tiny_splits)).snapshot()
    next(train(cosine, state, tiny_splits))  # warnings are errors here
    next(train(tiny_config(num_epochs=4), state, tiny_splits))  # another schedule, and on purpose


def test_a_cosine_run_that_is_asked_for_fewer_epochs_than_it_has_warns_of_nothing(tiny_config, tiny_splits):
    cosine = {"schedule": "cosine"}
    state = last(train(tiny_config(num_epochs=2, optim=cosine), splits=tiny_splits))
    assert list(train(tiny_config(num_epochs=1, optim=cosine), state, tiny_splits)) == []


def test_training_imports_nothing_that_it_does_not_need():
    code = "import sys, capsnet.training; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    unwanted = {"torchvision", "sklearn", "tensorboard", "rich", "matplotlib", "ray", "mlflow", "runner"}
    assert unwanted & set(loaded.stdout.split()) == set()
    assert "torch" in loaded.stdout.split()
