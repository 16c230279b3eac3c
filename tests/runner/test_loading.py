"""From a file to a submission: the keys of capsnet and of the runner are checked together."""

from pathlib import Path

import pytest

from capsnet.config import Config, ConfigError, Exponential, FashionMNIST
from runner import loading
from runner.spec import Spec

TEXT = """\
# An experiment with both blocks.
preset: authors
dataset: {name: fashion_mnist, root: images}
checkpoint:
  model_path: out/model.pt
runner:
  gpus: 0.5
  tags: {student: Ada}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "both.yaml"
    path.write_text(TEXT)
    return path


def test_both_blocks_are_loaded_and_the_text_is_kept(file):
    experiment = loading.load(file, ["seed=7", "runner.priority=2"])
    assert experiment.config.name == "both"
    assert experiment.config.seed == 7
    assert experiment.spec == Spec(gpus=0.5, priority=2, tags={"student": "Ada"})
    assert (experiment.source, experiment.file) == (TEXT, str(file))


def test_a_file_without_a_runner_block_takes_its_defaults():
    assert loading.parse("seed: 1", "run 3").spec == Spec()


def test_the_resolved_text_stands_for_itself_anywhere(file, tmp_path):
    text = loading.load(file, ["runner.gpus=1"]).resolved(Path("/home/ada"), {})
    there = loading.parse(text, "run 3")
    assert there.config.dataset == FashionMNIST(root="/home/ada/images")
    assert there.config.checkpoint.model_path == "/home/ada/out/model.pt"
    assert there.config.optim == Exponential(per="step", every=2000, floor=1e-6)
    assert (there.config.name, there.spec.gpus) == ("both", 1)
    assert there.resolved(tmp_path, {"CAPSNET_DATA": "/other"}) == text


def test_the_folder_of_data_is_settled_at_submission(monkeypatch):
    monkeypatch.setenv("CAPSNET_DATA", "/data")
    text = loading.parse("seed: 1", "a.yaml").resolved(Path("/home/ada"))
    assert "root: /data\n" in text


def test_without_an_environment_the_folder_of_data_is_left_to_whoever_trains(monkeypatch):
    monkeypatch.setenv("CAPSNET_DATA", "/data")
    directory = Path("/home/ada")
    assert "root: null\n" in loading.parse("seed: 1", "a.yaml").resolved(directory, None)
    named = loading.parse("dataset: {name: mnist, root: images}", "a.yaml")
    assert "root: /home/ada/images\n" in named.resolved(directory, None)


def test_the_paths_that_depend_on_where_a_run_is_submitted_are_known_by_their_keys(file):
    assert loading.load(file).relative_paths() == {
        "dataset.root": "images",
        "checkpoint.model_path": "out/model.pt",
    }
    settings = ["dataset.root=/images", "checkpoint.model_path=~/a.pt", "checkpoint.log_dir=/logs"]
    assert loading.load(file, settings).relative_paths() == {"checkpoint.model_path": "~/a.pt"}
    assert loading.parse("dataset: {name: digits}", "a.yaml").relative_paths() == {}


def test_mistakes_of_both_blocks_and_of_reading_come_together_once_each_in_order():
    text = "runner: {gpus: x, gpsu: 1}\nseed: -1\nname: a\nname: b\nbatch_size: 08"
    with pytest.raises(ConfigError) as caught:
        loading.parse(text, "a.yaml", ["runner.cpu=1", "oops"])
    assert str(caught.value).splitlines() == [
        'a.yaml:1: runner.gpus: must be auto, a whole number, or a share of one GPU, as in 0.25 (got "x")',
        "a.yaml:1: runner.gpsu: unknown key; did you mean `runner.gpus`?",
        "a.yaml:2: seed: must be at least 0 (got -1)",
        "a.yaml:4: name: duplicate key, first on line 3",
        "a.yaml:5: batch_size: a leading zero makes it octal or decimal, depending on the YAML version; "
        "drop the zero (got 08)",
        "--set oops: must read key=value, as in optim.lr=0.01",
        "--set runner.cpu=1: unknown key; did you mean `runner.cpus`?",
    ]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("runer: {gpus: 1}", "runner"),
        ("gpus: 1", "runner.gpus"),
        ("priorty: 1", "runner.priority"),
        ("runner: {num_epochs: 1}", "num_epochs"),
        ("runner: {lr: 1}", "optim.lr"),
    ],
)
def test_a_key_in_the_wrong_block_is_answered_with_its_place(text, meant):
    with pytest.raises(ConfigError, match=f"unknown key; did you mean `{meant}`"):
        loading.parse(text, "a.yaml")


@pytest.mark.parametrize("block", ["null", "3", "[gpus]"])
def test_a_runner_block_that_is_none_is_one_line(block):
    with pytest.raises(ConfigError) as caught:
        loading.parse(f"seed: 1\nrunner: {block}", "a.yaml")
    assert str(caught.value).startswith("a.yaml:2: runner: must be a section of keys")
    assert len(caught.value.mistakes) == 1


def test_a_stored_run_takes_overrides_when_it_is_resumed(file):
    stored = loading.load(file).resolved(Path("/home/ada"), {})
    resumed = loading.parse(stored, "run 3", ["num_epochs=200"])
    assert resumed.config == loading.parse(stored, "run 3").config.model_copy(update={"num_epochs": 200})
    with pytest.raises(ConfigError, match=r"^--set num_epochs=0: must be at least 1"):
        loading.parse(stored, "run 3", ["num_epochs=0"])


def test_what_is_read_is_what_capsnet_alone_reads(file):
    from capsnet import config

    experiment = loading.load(file)
    assert experiment.config == config.load(file)
    assert isinstance(experiment.config, Config)
