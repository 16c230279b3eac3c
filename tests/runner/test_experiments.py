"""The YAML files that come with the project: each is valid, and the sample shows all keys."""

import math
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from generated import splits_of
from pydantic import TypeAdapter

from capsnet import yamlfile
from capsnet.config import CNNModel, Config, MultiStep, Section
from capsnet.images import shape
from capsnet.models import build
from capsnet.schema import dotted_keys
from capsnet.training import train
from runner import loading
from runner.spec import Spec

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "cfg_sample.yaml"
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))


def keys_of(data: dict, prefix: str = "") -> set[str]:
    """Every key of nested mappings, dotted."""
    return {
        key
        for name, value in data.items()
        for key in (
            {prefix + name} | (keys_of(value, f"{prefix}{name}.") if isinstance(value, dict) else set())
        )
    }


def alternatives(text: str) -> list[str]:
    """The sections that the sample shows in comments, for another kind than the default, as YAML."""
    blocks = re.findall(r"(?:^# (?:\w+:$| {2,}\w+:).*\n)+", text, re.MULTILINE)
    return [re.sub(r"^# ", "", block, flags=re.MULTILINE) for block in blocks]


@pytest.mark.parametrize("file", [*EXPERIMENTS, SAMPLE], ids=lambda file: file.stem)
def test_every_file_that_comes_along_is_valid(file):
    assert loading.load(file).config.num_epochs >= 1


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_every_experiment_opens_by_saying_what_it_shows(file):
    comment = re.match(r"(#.*\n){3,}\n", file.read_text())
    assert comment, "opens with a comment: what it shows, what to expect, on what hardware"
    assert re.search("GPU|CPU", comment.group())


def submissions(file: Path) -> list[list[str]]:
    """The words of each `submit` in the comments of an experiment.

    A line may go on in the next one, but not within quotes, where a shell would keep the backslash.
    """
    comment = "".join(re.findall(r"^#(.*\n)", file.read_text(), re.MULTILINE))
    commands = re.findall(r"python -m runner submit ((?:\\\n|[^;\n])*)", comment)
    return [[word for line in found.split("\\\n") for word in shlex.split(line)] for found in commands]


def settings(words: list[str]) -> list[str]:
    """Return the values of a command's `--set` options; variables of a shell's loop become numbers."""
    values = [value for option, value in pairwise(words) if option == "--set"]
    return [re.sub(r"\$\w", lambda variable: VARIABLES[variable.group()], value) for value in values]


# One value of each loop in the comments.
VARIABLES = {"$s": "3", "$r": "5", "$d": "deconv", "$n": "true"}


def test_the_commands_in_the_comments_can_be_run():
    commands = [(file, words) for file in EXPERIMENTS for words in submissions(file)]
    assert len(commands) >= 5
    for file, words in commands:
        assert words[0] == f"experiments/{file.name}"
        assert {word for word in words if word.startswith("--")} <= {"--set", "--name"}
        assert all("=" in value for value in settings(words))
        assert loading.load(file, settings(words)).config != loading.load(file).config


def test_what_the_comments_say_to_set_is_valid():
    found = [
        (file, value) for file in EXPERIMENTS for value in re.findall(r"`--set ([^`$]+)`", file.read_text())
    ]
    assert len(found) >= 5
    for file, value in found:
        loading.load(file, [value])


def test_the_baseline_of_multi_mnist_is_the_papers():
    file = ROOT / "experiments/multi_mnist.yaml"
    ((_, *words),) = submissions(file)
    assert loading.load(file, settings(words)).config.model == CNNModel(
        conv_channels=(512, 256), kernel_sizes=(9, 5), pool=2, hidden=(1024,), dropout=0
    )


def test_the_networks_compared_on_affnist_are_as_large_as_the_comment_says():
    file = ROOT / "experiments/affnist.yaml"
    ((_, *words),) = submissions(file)
    for overrides in ([], settings(words)):
        config = loading.load(file, overrides).config
        size = sum(parameter.numel() for parameter in build(config, shape(config.dataset)).parameters())
        assert f"{size:,}" in file.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_every_experiment_takes_a_step_and_is_tested(file):
    """The images are few and generated, as not every machine has all data sets' files."""
    settings = ["num_epochs=1", "batch_size=4", "dataset.validation=0"]
    config = loading.load(file, settings).config
    *_, end = train(config, splits=splits_of(config.dataset, train=4, test=4))
    assert (end.phase, end.epoch, end.step) == ("epoch_end", 1, 1)
    assert end.metrics is not None and math.isfinite(end.metrics["test/loss"])


def test_the_experiments_of_the_readme_are_there():
    names = {"quickstart", "mnist_3iter", "mnist_1iter", "fashion_mnist"}
    names |= {"mnist_3iter_no_reconstruction", "mnist_1iter_no_reconstruction"}
    names |= {
        "mnist_routing",
        "mnist_decoders",
        "mnist_cnn",
        "mnist_small",
        "efficient_mnist",
        "multi_mnist",
        "affnist",
    }
    names |= {"cifar10", "svhn", "smallnorb", "smallnorb_em", "digits_em", "digits_self"}
    assert names == {file.stem for file in EXPERIMENTS}


@pytest.mark.parametrize("iterations", [1, 3])
def test_the_mnist_experiments_differ_in_nothing_but_what_they_compare(iterations):
    base = loading.load(ROOT / "experiments/mnist_3iter.yaml").config
    with_decoder = loading.load(ROOT / f"experiments/mnist_{iterations}iter.yaml").config
    without = loading.load(ROOT / f"experiments/mnist_{iterations}iter_no_reconstruction.yaml").config
    same = {"name": base.name, "route_iters": base.route_iters}
    assert with_decoder.model_copy(update=same) == base
    assert with_decoder.route_iters == without.route_iters == iterations
    assert without.model_copy(update={**same, "loss": base.loss}) == base
    assert without.decoder is None


def test_mnist_is_trained_until_the_learning_rate_is_almost_zero():
    config = loading.load(ROOT / "experiments/mnist_3iter.yaml").config
    assert isinstance(config.optim, MultiStep)
    assert max(config.optim.milestone) < config.num_epochs
    assert config.optim.lr * config.optim.step_decay ** len(config.optim.milestone) <= 1e-3 * config.optim.lr


def test_the_sample_shows_every_default():
    sample = loading.load(SAMPLE)
    assert (sample.config, sample.spec) == (Config(), Spec())
    data = yamlfile.read(SAMPLE).data
    assert keys_of(data) == keys_of({**Config().model_dump(), "runner": Spec().model_dump()})


def test_the_sample_shows_every_key_of_every_kind():
    text = SAMPLE.read_text()
    shown = keys_of(yamlfile.read(SAMPLE).data)
    for block in alternatives(text):
        data = yamlfile.parse(block, "cfg_sample.yaml").data
        (section,) = data
        assert shown >= {section}
        shown |= keys_of(data)
    assert shown == {*dotted_keys(Config), "runner", *(f"runner.{key}" for key in dotted_keys(Spec))}


def test_the_kinds_in_the_samples_comments_show_their_defaults():
    blocks = alternatives(SAMPLE.read_text())
    assert len(blocks) == 23
    for block in blocks:
        chosen = innermost(block)
        assert chosen.model_fields_set == type(chosen).model_fields.keys()
        for name, field in type(chosen).model_fields.items():
            assert field.is_required() or getattr(chosen, name) == field.default


def innermost(block: str) -> Section:
    """Return the innermost section of a block: `decoder` in "model: {decoder: {name: deconv, ...}}"."""
    ((key, data),) = yamlfile.parse(block, "cfg_sample.yaml").data.items()
    kinds: Any = Config.model_fields[key].annotation
    section = TypeAdapter(kinds).validate_python(data)
    while len(data) == 1 and isinstance(next(iter(data.values())), dict):
        ((key, data),) = data.items()
        section = getattr(section, key)
    return section


def test_every_key_of_the_sample_is_explained():
    keys = [line for line in SAMPLE.read_text().splitlines() if re.match(r" *\w+: \S", line)]
    assert [line for line in keys if "  # " not in line] == []
