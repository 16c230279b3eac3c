"""The schema of a run: the configuration read from a file, and the message about each mistake in it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from capsnet import config as schema
from capsnet import yamlfile
from capsnet.config import (
    Checkpoint,
    Config,
    ConfigError,
    Cosine,
    Exponential,
    FashionMNIST,
    MarginLoss,
    MultiStep,
)

CLASSIC = Path(__file__).with_name("classic.yaml")


def read(text: str, *overrides: str, folder: Path) -> Config:
    file = folder / "a.yaml"
    file.write_text(text)
    return schema.load(file, overrides)


@pytest.fixture
def loaded(tmp_path):
    """Load YAML text with overrides."""
    return lambda text, *overrides: read(text, *overrides, folder=tmp_path)


@pytest.fixture
def mistakes(tmp_path, monkeypatch):
    """The mistakes in YAML text with overrides, without the file's name: `["3: optim.lr: must be …"]`."""
    monkeypatch.chdir(tmp_path)

    def lines(text: str, *overrides: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            read(text, *overrides, folder=Path())
        return [line.removeprefix("a.yaml:").strip() for line in str(caught.value).splitlines()]

    return lines


def test_a_classic_file_runs_unchanged_as_the_papers_network_on_mnist():
    config = schema.load(CLASSIC)
    assert (
        config.model_dump()
        == Config(
            name="classic",
            num_epochs=2200,
            batch_size=256,
            loss=MarginLoss(rc_loss_weight=0.0005),
            optim=MultiStep(lr=0.002, step_decay=0.5, milestone=(40, 100, 160, 300, 2000)),
            dataloader=schema.DataLoader(num_workers=4, pin_memory=True),
            checkpoint=Checkpoint(model_path="./checkpoints/", log_dir="./logs/"),
        ).model_dump()
    )
    assert (config.dataset, config.model) == (schema.MNIST(), schema.CapsNetModel())


def test_a_classic_file_may_turn_its_switches_off_and_keep_what_they_switch():
    off = ["loss.with_reconstruction=false", "use_cuda=no", "checkpoint.use_checkpoint=false"]
    config = schema.load(CLASSIC, off)
    assert config.loss == MarginLoss(with_reconstruction=False, rc_loss_weight=0.0005)
    assert config.dataloader.pin_memory


def test_the_name_defaults_to_the_files(loaded, tmp_path):
    assert loaded("seed: 1").name == "a"
    odd = tmp_path / "my run (2)!.yaml"
    odd.write_text("seed: 1")
    assert schema.load(odd).name == "my-run-2"
    (tmp_path / "…").write_text("seed: 1")
    assert schema.load(tmp_path / "…").name == "run"


def test_the_runner_block_is_left_to_the_runner(loaded):
    assert loaded("seed: 1\nrunner: {whatever: 1}").seed == 1


def test_a_whole_number_will_do_for_a_number(loaded):
    assert loaded("optim: {lr: 1}").optim.lr == 1.0


def test_every_mistake_is_reported_at_once_with_its_line(mistakes):
    text = """\
num_epoch: 5
batch_size: 128.0
route_iters: 11
use_cuda: maybe
precision: float23
optim:
  lr: 0
  milestone: [40, 20]
  step_decay: .nan
checkpoint:
  use_best: true
  interval_seconds: "30"
dataset: 3
loss:
"""
    assert mistakes(text, "optim.lrr=1", "model.decoder.hidden=[1, 0]", "seed=-1") == [
        "1: num_epoch: unknown key; did you mean `num_epochs`?",
        "2: batch_size: must be a whole number (got 128.0)",
        "3: route_iters: must be at most 10 (got 11)",
        '4: use_cuda: must be true or false (got "maybe")',
        '5: precision: must be one of float32, tf32, bfloat16, auto; did you mean `float32`? (got "float23")',
        "7: optim.lr: must be above 0 (got 0)",
        "8: optim.milestone: must rise from one to the next (got [40, 20])",
        "9: optim.step_decay: must be a finite number (got nan)",
        "11: checkpoint.use_best: says which weights to go on with: it needs checkpoint.use_checkpoint: true",
        '12: checkpoint.interval_seconds: must be a number (got "30")',
        "13: dataset: must be a section of keys; leave it out to take its defaults (got 3)",
        "14: loss: must be a section of keys; leave it out to take its defaults (got null)",
        "--set seed=-1: must be at least 0 (got -1)",
        "--set model.decoder.hidden=[1, 0]: model.decoder.hidden.1: must be at least 1 (got 0)",
        "--set optim.lrr=1: unknown key; did you mean `optim.lr`?",
    ]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("epochs: 5", "num_epochs"),
        ("batch-size: 5", "batch_size"),
        ("Seed: 5", "seed"),
        ("lr: 5", "optim.lr"),
        ("milestones: [5]", "optim.milestone"),
        ("optim: {learning_rate: 5}", None),
        ("optim: {milestones: [5]}", "optim.milestone"),
        ("optim: {schedule: cosine, flor: 5}", "optim.floor"),
        ("model: {route_iters: 5}", "route_iters"),
        ("model: {decoder: {hiden: 5}}", "model.decoder.hidden"),
        ("runer: {gpus: 1}", "runner"),
        ("loss: {rc_weight: 1}", "loss.rc_loss_weight"),
        ("xyzzy: 1", None),
    ],
)
def test_a_misspelt_key_is_answered_with_the_nearest_known_one(text, meant, mistakes):
    (line,) = mistakes(text)
    assert line.endswith(f"unknown key; did you mean `{meant}`?" if meant else line)
    assert ("did you mean" in line) == (meant is not None)


def test_without_a_near_one_the_known_keys_are_listed(mistakes):
    assert mistakes("optim: {nesterov: yes}") == [
        "1: optim.nesterov: unknown key; known here: name, epsilon, weight_decay, lr, warmup_epochs, "
        "clip_norm, schedule, step_decay, milestone"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "optim: {schedule: cosine, milestone: [3]}",
            "1: optim.milestone: `milestone` means nothing with schedule: cosine; "
            "it belongs to schedule: multistep",
        ),
        (
            "optim: {floor: 0}",
            "1: optim.floor: `floor` means nothing with schedule: multistep, the default here; "
            "it belongs to schedule: exponential or cosine",
        ),
        (
            "optim: {momentum: 0.9}",
            "1: optim.momentum: `momentum` means nothing with name: adam, the default here; "
            "it belongs to name: sgd",
        ),
        (
            "optim: {name: sgd, epsilon: 0.1}",
            "1: optim.epsilon: `epsilon` means nothing with name: sgd; it belongs to name: adam or adamw",
        ),
        (
            "optim: {name: sgd, schedule: cosine, milestone: [3]}",
            "1: optim.milestone: `milestone` means nothing with schedule: cosine; "
            "it belongs to schedule: multistep",
        ),
        (
            "optim: {name: adamw, floor: 0}",
            "1: optim.floor: `floor` means nothing with schedule: multistep, the default here; "
            "it belongs to schedule: exponential or cosine",
        ),
        (
            "preset: authors\noptim:\n  milestone: [3]",
            "3: optim.milestone: `milestone` means nothing with schedule: exponential, the default here; "
            "it belongs to schedule: multistep",
        ),
        (
            "dataset: {name: digits, root: data}",
            "1: dataset.root: `root` means nothing with name: digits; "
            "it belongs to name: mnist, fashion_mnist, shifted_mnist, affnist, affine_mnist, multi_mnist, "
            "cifar10, svhn, smallnorb or folder",
        ),
        (
            "dataset: {size: 28}",
            "1: dataset.size: `size` means nothing with name: mnist, the default here; "
            "it belongs to name: digits, smallnorb or folder",
        ),
        (
            "model: {name: cnn, primary_types: 8}",
            "1: model.primary_types: `primary_types` means nothing with name: cnn; "
            "it belongs to name: capsnet or matrix_capsnet",
        ),
        (
            "model: {name: cnn}\nloss: {with_reconstruction: true}",
            "2: loss.with_reconstruction: true needs a decoder, and model.name: cnn has none: "
            "set it to false",
        ),
        (
            "model: {routing: {name: self, gradient: full}}",
            "1: model.routing.gradient: `gradient` means nothing with name: self; "
            "it belongs to name: dynamic",
        ),
    ],
)
def test_a_key_of_another_kind_is_told_where_it_belongs(text, message, mistakes):
    assert mistakes(text) == [message]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "optim: {schedule: exponentail}",
            "1: optim.schedule: must be one of multistep, exponential, cosine; did you mean `exponential`? "
            '(got "exponentail")',
        ),
        ("optim:\n  schedule: 3", "2: optim.schedule: must be one of multistep, exponential, cosine (got 3)"),
        (
            "optim: {name: adamax}",
            '1: optim.name: must be one of adam, adamw, sgd; did you mean `adam`? (got "adamax")',
        ),
        (
            "optim: {name: sgd, schedule: step}",
            "1: optim.schedule: must be one of multistep, exponential, cosine; did you mean `multistep`? "
            '(got "step")',
        ),
        (
            "dataset: {name: [mnist]}",
            "1: dataset.name: must be one of digits, mnist, fashion_mnist, shifted_mnist, affnist, "
            'affine_mnist, multi_mnist, cifar10, svhn, smallnorb, folder (got ["mnist"])',
        ),
        (
            "model: {name: capsnett}",
            "1: model.name: must be one of capsnet, matrix_capsnet, efficient_capsnet, cnn; "
            'did you mean `capsnet`? (got "capsnett")',
        ),
        (
            "model: {routing: {name: em}}",
            "1: model.routing.name: must be one of dynamic, attention, self; em is the routing of "
            'model.name: matrix_capsnet (got "em")',
        ),
    ],
)
def test_an_unknown_kind_is_answered_with_the_choices(text, message, mistakes):
    assert mistakes(text) == [message]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "checkpoint: {use_best: true, use_checkpoint: true, model_path: a.pt}",
            "1: checkpoint.use_best: needs a validation split to know the best by: "
            "set dataset.validation, as in 5000",
        ),
        (
            "dataset: {validation: 10}\ncheckpoint: {use_best: true, model_path: a.pt}",
            "2: checkpoint.use_best: says which weights to go on with: it needs "
            "checkpoint.use_checkpoint: true",
        ),
        (
            "checkpoint:\n  use_checkpoint: true",
            "2: checkpoint.use_checkpoint: needs checkpoint.model_path, the file to go on from",
        ),
        ("optim: {schedule: cosine, floor: 0.1}", "1: optim.floor: is above optim.lr (0.001)"),
        ("optim: {name: sgd, schedule: cosine, floor: 0.1}", "1: optim.floor: is above optim.lr (0.001)"),
        (
            "optim: {name: sgd, step_decay: 0.5}",
            "1: optim.step_decay: is applied at each milestone, and there is none: set optim.milestone, "
            "as in [30, 40]",
        ),
        (
            "stop_after_epochs_without_gain: 5",
            "1: stop_after_epochs_without_gain: needs a validation split to tell a gain by: "
            "set dataset.validation, as in 5000",
        ),
        (
            "dataset: {name: svhn, clip: false}",
            "1: dataset.clip: false is about brightness and contrast, and both are off: set it to true",
        ),
        (
            "dataset: {name: cifar10, standardise: first}",
            "1: dataset.brightness: 63 would leave nothing of an image: with dataset.standardise: first it "
            "counts standard deviations, as in 2.0",
        ),
        (
            "dataset: {name: cifar10, standardise: before}",
            '1: dataset.standardise: must be first, last or false (got "before")',
        ),
        (
            "optim: {schedule: exponential, lr: 1e-3, floor: 1e-2}",
            "1: optim.floor: is above optim.lr (0.001)",
        ),
        (
            "optim: {step_decay: 0.5}",
            "1: optim.step_decay: is applied at each milestone, and there is none: "
            "set optim.milestone, as in [30, 40]",
        ),
        (
            "loss: {with_reconstruction: false}\nmodel: {decoder: {hidden: [10]}}",
            "2: model.decoder: is configured, but loss.with_reconstruction: false leaves the decoder out",
        ),
        (
            "loss: {name: spread}\nmodel: {decoder: {name: deconv}}",
            "2: model.decoder: is configured, but loss.name: spread leaves the decoder out",
        ),
        (
            "batch_size: 1\nmodel: {name: efficient_capsnet}",
            "1: batch_size: 1 leaves the batch normalisation of model.name: efficient_capsnet "
            "nothing to learn its statistics of: set 2 or more",
        ),
        (
            "batch_size: 1\nmodel: {decoder: {name: deconv, batch_norm: true}}",
            "1: batch_size: 1 leaves the batch normalisation of model.decoder.batch_norm: true "
            "nothing to learn its statistics of: set 2 or more",
        ),
        (
            "dataset: {shift: 28}",
            "1: dataset.shift: 28 can move all of an image out of sight: it must be less than 28 pixels",
        ),
        (
            "dataset: {name: svhn, crop: 24, shift: 40}",
            "1: dataset.shift: 40 can move all of an image out of sight: it must be less than 32 pixels",
        ),
        (
            "dataset: {name: multi_mnist, pad: 3, shift: 31}",
            "1: dataset.shift: 31 can move all of an image out of sight: it must be less than 31 pixels",
        ),
        (
            "dataset: {name: mnist, roam: true}",
            "1: dataset.roam: true moves images within their margins, and dataset.shift by pixels: "
            "set dataset.shift to 0",
        ),
        (
            "dataset: {squeeze: 15}",
            "1: dataset.squeeze: 15 leaves too little of images of 28 pixels a side: at most 14",
        ),
        (
            "dataset: {name: digits, size: 20, erase: 10}",
            "1: dataset.erase: 10 is too large a square for images of 20 pixels a side: at most 9",
        ),
        (
            "dataset: {name: fashion_mnist, rotate: 181}",
            "1: dataset.rotate: must be at most 180 (got 181)",
        ),
        (
            "model: {name: cnn}\nloss: {name: margin}",
            "2: loss.name: margin is taken of capsules; model.name: cnn has none",
        ),
        (
            "loss: {name: cross_entropy}",
            "1: loss.name: cross_entropy is taken of logits; the lengths of model.name: capsnet are none",
        ),
        (
            "dataset: {name: multi_mnist}\nloss: {name: spread}",
            "2: loss.name: spread sets one class apart; each image of multi_mnist shows 2",
        ),
        (
            "loss: {name: spread, first_margin: 0.5, last_margin: 0.4}",
            "1: loss.first_margin: is above loss.last_margin (0.4)",
        ),
        (
            "model: {name: cnn, kernel_sizes: [5]}",
            "1: model.kernel_sizes: has 1 sizes for the 3 of model.conv_channels",
        ),
        (
            "model: {name: efficient_capsnet, primary_dim: 7}",
            "1: model.primary_dim: 7 does not divide the last of model.conv_channels (128)",
        ),
        (
            "model: {name: matrix_capsnet}\nloss: {name: margin}",
            "2: loss.with_reconstruction: true needs a decoder, and model.name: matrix_capsnet has none: "
            "set it to false",
        ),
        (
            "model: {decoder: {name: none}}\nloss: {with_reconstruction: true}",
            "2: loss.with_reconstruction: true contradicts model.decoder.name: none",
        ),
        (
            "model: {none_of_the_above: true, routing: {name: attention}}",
            "1: model.none_of_the_above: true is for dynamic routing; attention has no couplings to no class",
        ),
        (
            "model: {none_of_the_above: true, routing: {name: self}}",
            "1: model.none_of_the_above: true is for dynamic routing; self has no couplings to no class",
        ),
        (
            "model: {routing: {name: self}, class_bias: true}",
            "1: model.class_bias: true is for dynamic and attention routing; "
            "self has no bias on its capsules: set it to false",
        ),
        (
            "model: {routing: {name: self}}\ndataset: {name: multi_mnist}",
            "1: model.routing.name: self is trained by the cross-entropy of one class; "
            "each image of multi_mnist shows 2: set loss.name: margin",
        ),
        (
            "model: {routing: {name: self}, decoder: {name: none}}\nloss: {with_reconstruction: true}",
            "2: loss.with_reconstruction: true contradicts model.decoder.name: none",
        ),
        (
            "model: {routing: {name: self}, decoder: {hidden: [9]}}\nloss: {with_reconstruction: false}",
            "1: model.decoder: is configured, but loss.with_reconstruction: false leaves the decoder out",
        ),
        (
            "dataset: {name: cifar10, crop: 33}",
            "1: dataset.crop: 33 is more than the 32 pixels that an image has a side",
        ),
        (
            "dataset: {name: svhn, contrast: [2, 1]}",
            "1: dataset.contrast: must be a lower and an upper bound, as in [0.2, 1.8] (got [2, 1])",
        ),
        *(
            (
                f"dataset: {{name: svhn, contrast: {value}}}",
                f"1: dataset.contrast: must be a list of 2, as in [0.2, 1.8] (got {value})",
            )
            for value in ("[]", "[1]", "[1, 2, 3]", "1", "null")
        ),
        ("dataset: {name: svhn, contrast: [1, a]}", '1: dataset.contrast.1: must be a number (got "a")'),
        (
            "model: {name: matrix_capsnet}\ndataset: {name: digits, size: 12}",
            "1: model.capsule_types: [32, 32] leaves no capsules of images of 12×12 pixels: "
            "(12 - 5) // 2 + 1 = 4 after the first convolution, (4 - 3) // 2 + 1 = 1 after the second, "
            "1 - 3 + 1 = -1 after the third; images need at least 17 pixels a side",
        ),
        (
            "model: {name: cnn, pool: 4}",
            "1: model.pool: 4 leaves no pixels of images of 28×28 pixels: (28 - 4) // 4 + 1 = 7 "
            "after the first pooling, (7 - 4) // 4 + 1 = 1 after the second, "
            "(1 - 4) // 4 + 1 = 0 after the third; images need at least 64 pixels a side",
        ),
        ("optim: {milestone: [3, 3]}", "1: optim.milestone: must rise from one to the next (got [3, 3])"),
        ("checkpoint: {log_dir: ''}", '1: checkpoint.log_dir: must be a path (got "")'),
        ('checkpoint: {model_path: "a\\0b"}', '1: checkpoint.model_path: must be a path (got "a\\x00b")'),
        (
            "name: a/b",
            '1: name: must be at most 100 letters, digits and . _ -, the first a letter or digit (got "a/b")',
        ),
    ],
)
def test_a_contradiction_is_an_error(text, message, mistakes):
    assert mistakes(text) == [message]


@pytest.mark.parametrize(
    "text",
    [
        "loss: {name: spread}",
        "loss: {name: spread}\nmodel: {decoder: {name: none}}",
        "loss: {name: spread}\nmodel: {decoder: {hidden: [512, 1024]}}",  # as a resolved file says it
        "batch_size: 1",
        "batch_size: 2\nmodel: {name: efficient_capsnet}",
        "dataset: {shift: 27}",
        "dataset: {shift: 0, rotate: 180, roam: true, squeeze: 14, erase: 13}",
        "dataset: {name: affnist, shift: 33}",
        "dataset: {name: shifted_mnist, pad: 1, shift: 28}",
        "model: {name: cnn, hidden: [], dropout: 0.5}",  # of what the convolutions give
        "model: {routing: {name: self}, decoder: {name: none}}",
        "model: {routing: {name: self}, decoder: {name: none}}\nloss: {name: margin}",
        "model: {routing: {name: self}}\nloss: {with_reconstruction: false}",
        "model: {routing: {name: self}}\nloss: {name: spread}",
        "model: {routing: {name: self}}\nloss: {name: margin}\ndataset: {name: multi_mnist}",
        "preset: authors\nmodel: {routing: {name: self}, class_bias: false}",
    ],
)
def test_what_comes_near_a_contradiction_is_none(text):
    assert schema.parse(text).num_epochs == 50


def test_a_contradiction_is_seen_beside_other_mistakes(mistakes):
    assert mistakes(
        "seeed: 1\ncheckpoint: {use_checkpoint: true}\noptim: {schedule: cosine, lr: 0.1, floor: 1}"
    ) == [
        "1: seeed: unknown key; did you mean `seed`?",
        "2: checkpoint.use_checkpoint: needs checkpoint.model_path, the file to go on from",
        "3: optim.floor: is above optim.lr (0.1)",
    ]


def test_what_only_follows_from_another_mistake_is_not_reported(mistakes):
    text = "dataset: {validaton: 9}\ncheckpoint: {use_best: true, use_checkpoint: true, model_path: a.pt}"
    assert mistakes(text) == ["1: dataset.validaton: unknown key; did you mean `dataset.validation`?"]
    assert mistakes("optim: {schedule: cosine, lr: x, floor: 0.1}") == [
        '1: optim.lr: must be a number (got "x")'
    ]


def test_milestones_after_the_last_epoch_are_allowed_so_that_a_run_can_be_shortened(loaded):
    assert loaded("optim: {milestone: [30]}", "num_epochs=1").num_epochs == 1


def test_values_from_code_are_held_to_the_same():
    with pytest.raises(ValidationError, match=r"checkpoint\.use_best needs a validation split"):
        Config(checkpoint=Checkpoint(use_best=True))
    with pytest.raises(ValidationError, match="must rise"):
        MultiStep(milestone=(2, 1))


def test_the_authors_preset_changes_what_is_left_out_and_nothing_else(loaded):
    config = loaded("preset: authors\nmodel: {class_bias: false}\noptim: {lr: 0.01}")
    assert config.optim == Exponential(lr=0.01, decay=0.96, per="step", every=2000, floor=1e-6)
    assert (config.model.primary_routing, config.model.class_bias) == ("softmax", False)
    assert (config.model.init, config.loss.margin) == ("authors", "authors")


@pytest.mark.parametrize(
    ("text", "routing"),
    [
        ("preset: authors\nmodel: {none_of_the_above: true}", "leaky"),
        ("preset: authors\nmodel: {none_of_the_above: true, primary_routing: softmax}", "softmax"),
        ("preset: authors\nmodel: {none_of_the_above: false}", "softmax"),
        ("model: {none_of_the_above: true}", "squash"),
    ],
)
def test_in_the_authors_preset_both_layers_leak_or_none(text, routing, loaded):
    assert loaded(text).model.primary_routing == routing


def test_in_the_authors_preset_both_layers_leak_by_set_as_well(loaded):
    config = loaded("preset: authors", "model.none_of_the_above=true")
    assert config.model.primary_routing == "leaky"
    assert loaded(schema.to_yaml(config)) == config


def test_standardise_true_is_what_it_was_before_there_were_two_orders(loaded):
    for name, words in (("true", "last"), ("last", "last"), ("first", "first"), ("false", False)):
        config = loaded(f"dataset: {{name: svhn, standardise: {name}}}")
        assert config.dataset.standardise == words
        assert loaded(schema.to_yaml(config)) == config


def test_an_optimizer_and_a_schedule_are_chosen_by_themselves(loaded):
    config = loaded("optim: {name: sgd, schedule: cosine, momentum: 0.5, floor: 0.0001}")
    assert isinstance(config.optim, schema.SGD) and isinstance(config.optim, schema.CosineSchedule)
    assert (config.optim.momentum, config.optim.floor, config.optim.weight_decay) == (0.5, 0.0001, 0.0)
    changed = loaded("optim: {name: adamw}", "optim.schedule=exponential", "optim.clip_norm=2")
    assert (changed.optim.name, changed.optim.decay, changed.optim.clip_norm) == ("adamw", 0.96, 2.0)
    assert (changed.optim.weight_decay, changed.optim.warmup_epochs) == (0.01, 0.0)


def test_both_words_of_an_optimizer_that_are_wrong_are_said_at_once(mistakes):
    assert [line.split(": ")[1] for line in mistakes("optim: {name: a, schedule: b}")] == [
        "optim.name",
        "optim.schedule",
    ]


def test_a_presets_defaults_for_another_schedule_do_not_apply(loaded):
    assert loaded("preset: authors\noptim: {schedule: cosine}").optim == Cosine()
    assert loaded("preset: authors\noptim: {schedule: multistep, milestone: [3]}").optim == MultiStep(
        milestone=(3,)
    )


def test_a_resolved_preset_loads_back_equal(loaded):
    config = loaded("preset: authors\nmodel: {init: paper}")
    assert loaded(schema.to_yaml(config)) == config


@pytest.mark.parametrize(
    ("override", "section", "kind"),
    [
        ("dataset=digits", "dataset", "digits"),
        (" dataset = digits", "dataset", "digits"),
        ("dataset='digits'", "dataset", "digits"),
        ("model=cnn", "model", "cnn"),
        ("loss=spread", "loss", "spread"),
        ("optim=sgd", "optim", "sgd"),
    ],
)
def test_a_word_that_is_set_for_a_section_is_the_name_of_its_kind(override, section, kind, loaded):
    assert getattr(loaded("seed: 1", override), section).name == kind


def test_a_word_that_is_set_for_a_section_in_a_section_is_the_name_of_its_kind(loaded):
    assert loaded("seed: 1", "model.decoder=none").decoder is None
    assert loaded("seed: 1", "model.routing=self").model.routing.name == "self"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "dataset=mnst",
            "--set dataset=mnst: must be one of digits, mnist, fashion_mnist, shifted_mnist, affnist, "
            "affine_mnist, multi_mnist, cifar10, svhn, smallnorb, folder; did you mean `mnist`? (got "
            '"mnst")',
        ),
        (
            "dataset=3",
            "--set dataset=3: must be a section of keys; leave it out to take its defaults (got 3)",
        ),
        ("checkpoint=x", "--set checkpoint=x: must be a section of keys"),
        ("dataset=[", "--set dataset=[: is not valid YAML"),
        (
            "model.routing=self",
            "--set model.routing=self: model.routing: `routing` means nothing with name: cnn",
        ),
    ],
)
def test_a_word_that_is_no_kind_is_answered_as_it_was_given(override, message, mistakes):
    [line] = mistakes("model: {name: cnn}", override)
    assert line.startswith(message)


KINDS = """\
preset: authors
dataset: {name: cifar10, crop: 28, clip: false, shift: 1}
model:
  conv_channels: 64
  class_dim: 12
  routing: {name: dynamic, gradient: detached}
  decoder: {hidden: [32]}
optim: {floor: 0.001, every: 7}
"""


@pytest.mark.parametrize(
    ("overrides", "notes"),
    [
        (["dataset=mnist"], ["dataset.name=mnist: dropped dataset.crop, dataset.clip of cifar10"]),
        (["dataset.name=smallnorb"], []),
        (["dataset.name=cifar10"], []),
        (
            ["model.name=cnn"],
            [
                "model.name=cnn: dropped model.conv_channels, model.class_dim, model.routing.name, "
                "model.routing.gradient, model.decoder.hidden of capsnet"
            ],
        ),
        (
            ["model=efficient_capsnet"],
            [
                "model.name=efficient_capsnet: dropped model.conv_channels, model.routing.name, "
                "model.routing.gradient of capsnet"
            ],
        ),
        (
            ["model.routing=attention", "model.decoder=deconv"],
            [
                "model.routing.name=attention: dropped model.routing.gradient of dynamic",
                "model.decoder.name=deconv: dropped model.decoder.hidden of fc",
            ],
        ),
        (
            ["optim.schedule=multistep"],  # by its preset the file's schedule is exponential
            ["optim.schedule=multistep: dropped optim.floor, optim.every of exponential"],
        ),
        (["optim.schedule=cosine"], ["optim.schedule=cosine: dropped optim.every of exponential"]),
        (["optim=sgd"], []),
        (
            ["preset=paper"],  # whose schedule is another
            ["optim.schedule=multistep: dropped optim.floor, optim.every of exponential"],
        ),
    ],
)
def test_another_kind_drops_the_files_keys_that_only_the_former_has_and_says_so(overrides, notes):
    document = schema.with_overrides(yamlfile.parse(KINDS, "a.yaml"), overrides)
    assert sorted(document.notes) == sorted(f"a.yaml: {note}" for note in notes)
    schema.Config.model_validate(document.data)


@pytest.mark.parametrize("kind", ["model=cnn", "model.name=cnn"])
@pytest.mark.parametrize("first", [True, False])
def test_a_key_that_is_set_itself_is_never_dropped(kind, first, mistakes):
    own = "model.routing.gradient=full"
    text = "model: {class_dim: 12, routing: {name: dynamic}}"
    [line] = mistakes(text, *([own, kind] if first else [kind, own]))
    assert line == (
        "--set model.routing.gradient=full: model.routing: `routing` means nothing with name: cnn; "
        "it belongs to name: capsnet"
    )


def test_a_key_in_a_section_that_is_set_whole_is_never_dropped(mistakes):
    text = "dataset: {name: smallnorb, crop: 32}"
    [line] = mistakes(text, "dataset={name: mnist, crop: 24}")
    assert "`crop` means nothing with name: mnist" in line


def test_the_home_of_a_user_that_there_is_not_is_a_mistake(mistakes):
    [line] = mistakes("dataset: {name: mnist, root: ~nosuchuser/data}")
    assert line.endswith('1: dataset.root: there is no user nosuchuser (got "~nosuchuser/data")')


def test_an_empty_section_that_only_the_former_kind_has_is_dropped_too():
    document = schema.with_overrides(yamlfile.parse("model: {decoder: {}}", "a.yaml"), ["model=cnn"])
    assert document.data == {"model": {"name": "cnn"}}
    assert document.notes == ("a.yaml: model.name=cnn: dropped model.decoder of capsnet",)


def test_a_misspelt_key_is_an_error_for_another_kind_too(mistakes):
    [line] = mistakes("dataset:\n  name: digits\n  sise: 9\n  size: 20", "dataset=mnist")
    assert line.startswith("3: dataset.sise: unknown key")


def test_a_whole_section_that_is_set_replaces_the_files(loaded):
    text = "optim:\n  step_decay: 0.5\n  milestone: [3]"
    assert loaded(text, "optim={schedule: cosine}").optim == Cosine()


def test_overrides_reach_every_kind_of_value(loaded):
    config = loaded(
        "seed: 1", "optim.milestone=[1, 2]", "dataset={name: fashion_mnist}", "dataset.shift=0", "seed=2"
    )
    assert config.optim == MultiStep(milestone=(1, 2))
    assert (config.dataset, config.seed) == (FashionMNIST(shift=0), 2)


def test_relative_paths_become_absolute_and_the_data_folder_is_settled(tmp_path):
    config = Config(checkpoint=Checkpoint(model_path="runs/a.pt", log_dir="/logs"))
    moved = schema.with_absolute_paths(config, tmp_path, {"CAPSNET_DATA": "store"})
    assert moved.checkpoint == Checkpoint(model_path=str(tmp_path / "runs/a.pt"), log_dir="/logs")
    assert moved.dataset == schema.MNIST(root=str(tmp_path / "store"))
    assert schema.with_absolute_paths(moved, Path("/elsewhere"), {}) == moved
    home = Config(dataset=FashionMNIST(root="~/images"))
    assert schema.with_absolute_paths(home, tmp_path, {}).dataset == FashionMNIST(
        root=str(Path.home() / "images")
    )
    digits = Config(dataset=schema.Digits())
    assert schema.with_absolute_paths(digits, tmp_path, {}) == digits


def fields(section: type, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key of the schema, with its path; of a union, every kind's."""
    from capsnet.schema import sections

    found = []
    for name, field in section.model_fields.items():
        below = sections(field.annotation)
        found += [(*path, name)] if not below else [p for kind in below for p in fields(kind, (*path, name))]
    return list(dict.fromkeys(found))


WRONG = [None, True, -1, 0, 2**62, -0.5, 1e300, "", "text", "\0", [], [-1], [[]], {}, {"a": 1}]


@pytest.mark.parametrize("key", [".".join(path) for path in fields(Config)])
def test_no_key_answers_a_wrong_value_in_the_words_of_a_library(key):
    """Every key is tried with values of every type: it takes them, or says in our words what is allowed."""
    for value in WRONG:
        data: Any = value
        for part in reversed(key.split(".")):
            data = {part: data}
        try:
            schema.parse(schema.yamlfile.dump(data), "a.yaml")
        except ConfigError as error:
            text = str(error)
            assert len(text.splitlines()) == len(error.mistakes)
            assert "Input should" not in text
            assert "is not allowed here" not in text


def optims() -> st.SearchStrategy[dict[str, Any]]:
    lr = st.floats(1e-3, 10)
    floor = st.floats(0, 1e-3)
    milestones = st.sets(st.integers(1, 10**6)).map(sorted)
    return st.one_of(
        st.fixed_dictionaries(
            {"schedule": st.just("multistep"), "milestone": milestones},
            optional={"lr": lr, "step_decay": st.floats(1e-6, 1)},
        ),
        st.fixed_dictionaries(
            {"schedule": st.just("exponential"), "lr": lr, "floor": floor},
            optional={"per": st.sampled_from(["step", "epoch"]), "every": st.integers(1, 10**6)},
        ),
        st.fixed_dictionaries(
            {"schedule": st.just("cosine"), "lr": lr, "floor": floor, "name": st.just("sgd")},
            optional={"momentum": st.floats(0, 0.99), "clip_norm": st.none() | st.floats(1e-6, 1e6)},
        ),
        st.fixed_dictionaries(
            {"name": st.just("adamw")},
            optional={"weight_decay": st.floats(0, 1), "warmup_epochs": st.floats(0, 100)},
        ),
    )


paths = st.none() | st.text(min_size=1).filter(lambda text: text.strip() and "\0" not in text)
files = st.fixed_dictionaries(
    {},
    optional={
        "preset": st.sampled_from(["paper", "authors"]),
        "name": st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,30}\Z"),
        "seed": st.integers(0, 2**63 - 1),
        "use_cuda": st.booleans(),
        "threads": st.none() | st.integers(1, 4096),
        "dataset": st.fixed_dictionaries(
            {"name": st.sampled_from(["mnist", "fashion_mnist", "affnist", "multi_mnist", "cifar10"])},
            optional={"root": paths},
        )
        | st.fixed_dictionaries({"name": st.just("digits")}, optional={"validation": st.integers(0, 99)}),
        "model": st.fixed_dictionaries(
            {},
            optional={
                "class_bias": st.booleans(),
                "decoder": st.fixed_dictionaries({"hidden": st.lists(st.integers(1, 99), min_size=1)}),
            },
        ),
        "loss": st.fixed_dictionaries({}, optional={"rc_loss_weight": st.floats(0, 1e9)}),
        "optim": optims(),
        "checkpoint": st.fixed_dictionaries(
            {}, optional={"model_path": paths, "interval_seconds": st.floats(1e-9, 1e9)}
        ),
    },
)


@settings(deadline=None)
@given(files)
def test_a_resolved_configuration_loads_back_equal_and_writes_every_key(file):
    config = Config.model_validate(file)
    text = schema.to_yaml(config)
    again = schema.parse(text)
    assert again == config
    assert schema.to_yaml(again) == text
    assert Config.model_validate(config.model_dump()) == config
    assert Config.model_validate(config.model_dump(mode="json")) == config
    assert schema.yamlfile.parse(text, "a.yaml").data.keys() == Config.model_fields.keys()
