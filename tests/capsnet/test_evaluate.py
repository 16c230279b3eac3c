"""`python -m capsnet evaluate`: ensembles, other data sets, and checkpoints that cannot be used."""

import json
import os
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import small_mnist
import torch
from small_sets import write_folder

from capsnet import augmentation, checkpoint, datasets, multi_mnist
from capsnet.cli import main
from capsnet.commands.evaluate import _matrix, ensemble
from capsnet.commands.trained import Trained, load_trained
from capsnet.config import AffineMNIST, Config
from capsnet.execution import resolve
from capsnet.images import DataError, Images, shape
from capsnet.models import build
from capsnet.state import CheckpointError

pytestmark = pytest.mark.usefixtures("one_thread")

DIGITS = """\
num_epochs: 2
batch_size: 256
threads: 1
dataset: {name: digits, size: 12, validation: 100}
model: {conv_channels: 8, kernel_size: 5, primary_types: 3, decoder: {hidden: [16]}}
"""
FRAMED = """\
num_epochs: 1
batch_size: 32
threads: 1
dataset: {name: shifted_mnist}
model: {conv_channels: 4, primary_types: 2}
loss: {with_reconstruction: false}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with three networks trained on the digits, two on shifted_mnist, and these data sets."""
    folder = tmp_path_factory.mktemp("runs")
    small_mnist.write(folder / "data", train=64)
    before = Path.cwd()
    os.chdir(folder)
    try:
        for seed, name in enumerate("abc"):
            _train(folder, name, DIGITS, f"seed={seed}")
        for seed, name in enumerate(("framed", "framed2")):
            _train(folder, name, FRAMED, f"seed={seed}", "dataset.root=data")
    finally:
        os.chdir(before)
    return folder


def _train(folder, name, text, *settings):
    (folder / f"{name}.yaml").write_text(text)
    assert main(["train", f"{name}.yaml", *(f"--set={setting}" for setting in settings)]) == 0


@pytest.fixture
def here(runs, tmp_path, monkeypatch):
    """A copy of that folder to work in."""
    shutil.copytree(runs, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("CAPSNET_DATA", raising=False)
    return tmp_path / "here"


@pytest.fixture
def evaluated(capsys):
    """Function that calls `evaluate --json` and returns its parsed output."""

    def call(*arguments):
        capsys.readouterr()
        assert main(["evaluate", *arguments, "--json"]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        return json.loads(printed.out)

    return call


@pytest.fixture
def refused(capsys):
    """Function that calls `evaluate` with a user's mistake and returns its one line of error."""

    def call(*arguments):
        capsys.readouterr()
        assert main(["evaluate", *arguments]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")

    return call


def lengths(path, images):
    trained = load_trained(path)
    with torch.no_grad():
        return trained.network(images.images.float() / 255).lengths.double()


def added(lengths):
    """Add the lengths of several networks, each float64 [N, J]."""
    return torch.stack(lengths).sum(0)


# ---- ensembles


def test_the_lengths_of_an_ensemble_are_added(here, evaluated):
    paths = [f"out/{name}" for name in "abc"]
    found = evaluated(*paths)
    test = load_trained("out/a").test()
    each = [lengths(path, test) for path in paths]
    right = added(each).argmax(1) == test.labels
    assert found["accuracy"] == pytest.approx(right.double().mean().item(), abs=1e-9)
    assert found["error"] == pytest.approx(1 - found["accuracy"])
    assert found["images"] == 360
    assert found["dataset"] == "digits"
    confusion = torch.tensor(found["confusion"])
    assert confusion.sum(1).tolist() == test.labels.bincount().tolist()
    assert confusion.diagonal().sum() == right.sum()
    votes = torch.stack([one.argmax(1) for one in each]).mode(0).values
    assert (votes != added(each).argmax(1)).any()  # or a vote would have done as well


def test_each_member_is_shown_as_it_is_by_itself(here, evaluated, capsys):
    paths = ["out/a", "out/b/checkpoint.pt", "out/c/"]
    members = evaluated(*paths)["members"]
    assert [member["checkpoint"] for member in members] == paths
    for path, member in zip(paths, members, strict=True):
        alone = evaluated(path)
        assert member["accuracy"] == pytest.approx(alone["accuracy"], abs=1e-9)
        assert (member["epoch"], member["step"]) == (alone["epoch"], alone["step"]) == (2, 0)
    assert len({member["accuracy"] for member in members}) > 1
    assert main(["evaluate", *paths]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "3 networks, the lengths they give added, on 360 test images of digits"
    for path, member in zip(paths, members, strict=True):
        assert f"  accuracy             {member['accuracy']:.2%}  {path}, after 2 epochs" in table


def test_a_network_and_its_twin_judge_as_it_does_alone(here, evaluated):
    alone, twice = evaluated("out/a"), evaluated("out/a", "out/a")
    assert twice["accuracy"] == pytest.approx(alone["accuracy"], abs=1e-9)
    assert twice["confusion"] == alone["confusion"]


def test_the_best_weights_of_each_member_count(here, evaluated):
    best = [evaluated(f"out/{name}", "--best") for name in "ab"]
    members = evaluated("out/a", "out/b", "--best")["members"]
    assert [member["epoch"] for member in members] == [each["epoch"] for each in best]
    for member, each in zip(members, best, strict=True):
        assert member["accuracy"] == pytest.approx(each["accuracy"], abs=1e-9)


def photographs(**keys):
    values = {
        "use_cuda": False,
        "batch_size": 8,
        "dataset": {"name": "svhn", **keys},
        "model": {"conv_channels": 4, "primary_types": 2},
        "loss": {"with_reconstruction": False},
    }
    return Config.model_validate(values)


def test_each_member_sees_the_images_as_it_was_trained_to():
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(0, 256, (20, 3, 32, 32), dtype=np.uint8))
    images = Images(pixels, torch.arange(20) % 10)
    networks, expected = [], []
    for standardise in (False, True):
        config = photographs(standardise=standardise)
        network = build(config, shape(config.dataset)).eval()
        networks.append(Trained(config, network, resolve(config), 1, Path("checkpoint.pt"), 0))
        inputs = augmentation.standardised(pixels / 255) if standardise else pixels / 255
        with torch.no_grad():
            expected.append(network(inputs).lengths.double())
    found = ensemble(networks, images)
    assert found["accuracy"] == (added(expected).argmax(1) == images.labels).double().mean().item()
    answers = added(expected).argmax(1)
    assert torch.tensor(found["confusion"]).sum(0).tolist() == answers.bincount(minlength=10).tolist()


def test_members_that_are_not_tested_on_the_same_images_are_refused(here, refused):
    assert refused("out/a", "out/framed") == (
        "out/a/checkpoint.pt and out/framed/checkpoint.pt are not tested on the same images: "
        'dataset.name is "digits" for the first and "shifted_mnist" for the second'
    )
    _train(here, "d", DIGITS, "num_epochs=1", "dataset.size=13")
    assert refused("out/a", "out/d").endswith("dataset.size is 12 for the first and 13 for the second")


def test_members_may_differ_in_what_concerns_their_training_only(here, evaluated):
    _train(here, "d", DIGITS, "num_epochs=1", "dataset.validation=50", "dataset.shift=0", "batch_size=100")
    assert len(evaluated("out/a", "out/d")["members"]) == 2


# ---- other data sets


def test_a_network_is_tested_on_another_data_set_of_the_same_size(here, evaluated):
    found = evaluated("out/framed", "--dataset", "affine_mnist")
    test = datasets.load(AffineMNIST(root="data"), seed=0).test
    right = lengths("out/framed", test).argmax(1) == test.labels
    assert found["dataset"] == "affine_mnist"
    assert found["images"] == len(test) == 20
    assert found["accuracy"] == pytest.approx(right.double().mean().item(), abs=1e-9)
    again = evaluated("out/framed", "out/framed2", "--dataset", "affine_mnist")
    assert again["dataset"] == "affine_mnist"
    assert again["members"][0]["accuracy"] == found["accuracy"]


def test_the_table_names_the_data_set(here, capsys):
    assert main(["evaluate", "out/framed", "--dataset", "affine_mnist"]) == 0
    assert "after 1 epoch, on 20 test images of affine_mnist" in capsys.readouterr().out


def test_a_network_is_tested_on_affnist(here, evaluated):
    from scipy.io import savemat

    labels = np.arange(40) % 10
    images = np.pad(small_mnist.signs(labels, 5), ((0, 0), (3, 9), (10, 2)))
    (here / "data/affNIST").mkdir()
    fields = {"image": images.reshape(40, 1600).T, "label_int": labels[None].astype(np.uint8)}
    savemat(here / "data/affNIST/test.mat", {"affNISTdata": fields})
    found = evaluated("out/framed", "--dataset", "affnist")
    assert (found["dataset"], found["images"]) == ("affnist", 40)
    test = Images(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels))
    right = lengths("out/framed", test).argmax(1) == test.labels
    assert found["accuracy"] == pytest.approx(right.double().mean().item(), abs=1e-9)


def test_the_other_data_set_lies_where_data_says(here, evaluated, refused):
    small_mnist.write(here / "elsewhere", t10k=7)
    assert evaluated("out/framed", "--dataset", "affine_mnist", "--data", "elsewhere")["images"] == 7
    shutil.rmtree(here / "data")
    assert evaluated("out/framed", "--dataset", "affine_mnist", "--data", "elsewhere")["images"] == 7
    assert "--data elsewhere: the data set digits lies in no folder" in refused(
        "out/a", "--dataset", "digits", "--data", "elsewhere"
    )


def test_naming_a_networks_own_data_set_changes_nothing(here, evaluated):
    assert evaluated("out/framed", "--dataset", "shifted_mnist") == evaluated("out/framed")
    assert evaluated("out/a", "--dataset", "digits") == evaluated("out/a")


@pytest.mark.parametrize(
    ("network", "name", "words"),
    [
        ("framed", "mnist", "out/framed/checkpoint.pt was trained on images of 1×40×40 with 10 classes"),
        ("framed", "mnist", "and not on images of 1×28×28 with 10 classes"),
        ("framed", "multi_mnist", "and not on images of 1×40×40 with 2 of 10 classes"),
        ("a", "cifar10", "and not on images of 3×"),
        ("framed", "affinist", "did you mean `affnist`"),
        ("framed", "folder", "--dataset folder: say with --data in which folder its images lie"),
        ("framed", "affnist", "affNIST/test.mat"),
    ],
)
def test_a_data_set_that_cannot_be_tested_on_is_one_line(here, refused, network, name, words):
    assert words in refused(f"out/{network}", "--dataset", name)


@pytest.mark.parametrize("classes", [2, 30, 31])
def test_the_counts_of_many_classes_are_not_printed(classes):
    lines = _matrix(torch.eye(classes, dtype=torch.int64).tolist(), labels=1)
    if classes > 30:
        assert lines == ["  confusion            of 31 classes is too wide to print; --json has it"]
    else:
        assert len(lines) == classes + 2


def test_counts_that_are_wider_than_the_terminal_are_not_printed():
    counts = (1000 * torch.eye(10, dtype=torch.int64)).tolist()
    widest = max(map(len, _matrix(counts, labels=1)[1:]))
    assert _matrix(counts, 1, terminal=widest) == _matrix(counts, 1)
    too_wide = ["  confusion            of 10 classes is too wide to print; --json has it"]
    assert _matrix(counts, 1, terminal=widest - 1) == too_wide


def test_images_smaller_than_the_crop_are_one_line(here, refused):
    write_folder(here / "own", side=40, train=100)
    own = "name: folder, root: own, size: 40, classes: 3, crop: 36"
    _train(here, "toys", DIGITS.replace("name: digits, size: 12, validation: 100", own))
    assert refused("out/toys", "--dataset", "svhn") == (
        "--dataset svhn: its images have 32 pixels a side, and out/toys/checkpoint.pt takes 36×36 of them "
        "(dataset.crop)"
    )


# ---- several labels


def test_the_confusion_of_pairs_counts_both_digits(here, monkeypatch, evaluated, capsys):
    monkeypatch.setattr(multi_mnist, "TEST_PAIRS", 30)
    text = FRAMED.replace("shifted_mnist", "multi_mnist")
    _train(here, "pairs", text, "dataset.root=data")
    _train(here, "pairs2", text, "dataset.root=data", "seed=1")
    test = load_trained("out/pairs").test()
    for paths in (["out/pairs"], ["out/pairs", "out/pairs2"]):
        found = evaluated(*paths)
        assert found["images"] == 30
        confusion = torch.tensor(found["confusion"])
        assert confusion.sum(1).tolist() == test.labels.flatten().bincount(minlength=10).tolist()
        each = [lengths(path, test) for path in paths]
        longest = added(each).topk(2).indices.sort(1).values
        right = (longest == test.labels.sort(1).values).all(1)
        assert found["accuracy"] == pytest.approx(right.double().mean().item(), abs=1e-9)
        assert main(["evaluate", *paths]) == 0
        heading = "confusion (rows: true class, columns: predicted; each of the 2 classes of an image counts)"
        assert heading in capsys.readouterr().out.splitlines()


def test_pairs_that_are_shifted_otherwise_are_other_images(here, monkeypatch, refused):
    monkeypatch.setattr(multi_mnist, "TEST_PAIRS", 30)
    for shift in (3, 4):
        text = FRAMED.replace("shifted_mnist", "multi_mnist")
        _train(here, f"by{shift}", text, "dataset.root=data", f"dataset.shift={shift}")
    assert refused("out/by3", "out/by4").endswith("dataset.shift is 3 for the first and 4 for the second")


# ---- runs of the experiment runner, named by their numbers


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["1"], "there is no checkpoint 1/checkpoint.pt; of a run: `python -m runner evaluate 1`"),
        (
            ["out/a", "2", "4-6"],
            "there is no checkpoint 2/checkpoint.pt; of a run: `python -m runner evaluate 2 4-6`",
        ),
        (
            ["runs/7-a"],
            "there is no checkpoint runs/7-a/checkpoint.pt; of a run: `python -m runner evaluate 7`",
        ),
    ],
)
def test_the_number_of_a_run_is_refused_with_the_command_that_works(here, refused, paths, words):
    (here / "runs/7-a/attempts/2").mkdir(parents=True)  # an attempt that has saved nothing
    assert refused(*paths) == words


def test_a_folder_named_like_a_number_or_a_run_is_what_it_holds(here, evaluated):
    for folder in ("1", "runs/7-a/attempts/1"):
        (here / folder).mkdir(parents=True)
        shutil.copy(here / "out/a/checkpoint.pt", here / folder)
    (here / "runs/7-a/checkpoint.pt").symlink_to("attempts/1/checkpoint.pt")
    assert evaluated("1")["accuracy"] == evaluated("runs/7-a")["accuracy"] == evaluated("out/a")["accuracy"]


# ---- checkpoints that cannot be used


class Malicious:
    """An object whose unpickling calls `os.mkdir("owned")`."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


def _text(path, state):
    path.write_text("num_epochs: 2\n")


def _pickle(path, state):
    path.write_bytes(pickle.dumps(Malicious()))


def _code(path, state):
    torch.save(state | {"history": [Malicious()]}, path)


def _cut_off(path, state):
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-1000])


def _altered(path, state):
    torch.save(state, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def _empty(path, state):
    path.write_bytes(b"")


def _folder(path, state):
    path.mkdir()


def _weights_only(path, state):
    torch.save(state["model"], path)


def _newer(path, state):
    torch.save(state | {"format": 999}, path)


def _other_keys(path, state):
    torch.save(state | {"config": state["config"] | {"wings": 2}}, path)


def _no_config(path, state):
    torch.save(state | {"config": 3}, path)


def _fewer_keys(path, state):
    torch.save({key: value for key, value in state.items() if key != "model"}, path)


def _other_network(path, state):
    torch.save(state | {"model": {"conv.weight": torch.zeros(3)}}, path)


def _other_size(path, state):
    model = state["config"]["model"] | {"primary_types": 4}
    torch.save(state | {"config": state["config"] | {"model": model}}, path)


def _more_weights(path, state):
    torch.save(state | {"model": state["model"] | {"wings.weight": torch.zeros(3)}}, path)


def _no_weights(path, state):
    torch.save(state | {"model": None}, path)


def _numbers_for_weights(path, state):
    torch.save(state | {"model": dict.fromkeys(state["model"], 1.0)}, path)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (_text, "bad.pt is not a checkpoint, or was cut off"),
        (_pickle, "bad.pt is not a checkpoint, or was cut off"),
        (_code, "bad.pt holds more than tensors and plain values, which could run code: it is not loaded"),
        (_cut_off, "bad.pt is not a checkpoint, or was cut off"),
        (_altered, "bad.pt is damaged (checksum of"),
        (_empty, "bad.pt is not a checkpoint, or was cut off"),
        (_folder, "there is no checkpoint bad.pt/checkpoint.pt"),
        (_weights_only, "bad.pt holds no state of a run, perhaps weights only"),
        (_newer, "bad.pt was written by a newer version (format 999, this one reads 1)"),
        (_other_keys, "bad.pt: the checkpoint's configuration is of another version"),
        (_no_config, "bad.pt: the checkpoint's configuration is of another version"),
        (_fewer_keys, "bad.pt lacks model"),
        (
            _other_network,
            "bad.pt holds other weights than those of the network that it describes (",
        ),
        (_other_size, "network that it describes (primary.weight is 24×8×5×5, not 32×8×5×5): it was"),
        (_more_weights, "(wings.weight belongs to none of its layers)"),
        (_no_weights, "bad.pt holds other weights than those of the network that it describes (no dict"),
        (_numbers_for_weights, "bad.pt holds other weights than those of the network that it describes (no "),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_a_checkpoint_that_cannot_be_used_is_one_line_and_stays(here, refused, write, words, beside):
    write(here / "bad.pt", checkpoint.load(here / "out/a/checkpoint.pt"))
    before = contents(here)
    line = refused(*(["out/a"] if beside else []), "bad.pt")
    assert words in line
    assert contents(here) == before  # and no folder that the code in a file would make
    with pytest.raises(CheckpointError):
        load_trained("bad.pt")


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def test_no_best_weights_are_one_line_that_names_the_file(here, refused):
    line = refused("out/a", "out/framed", "--best")
    assert line.startswith("out/framed/checkpoint.pt: the checkpoint has no best weights")


def test_a_damaged_checkpoint_with_the_one_before_it_is_warned_of(here, capsys):
    path = here / "out/a/checkpoint.pt"
    path.with_name("checkpoint.previous.pt").write_bytes(path.read_bytes())
    path.write_bytes(path.read_bytes()[:-1000])
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # not an error, as elsewhere in tests
        assert main(["evaluate", "out/a"]) == 0
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("warning: out/a/checkpoint.pt is not a checkpoint, or was cut off; going on from")


# ---- what commands share


def test_a_trained_network_comes_with_what_it_was_trained_on(here):
    trained = load_trained("out/a")
    assert trained.path == Path("out/a/checkpoint.pt")
    assert (trained.epoch, trained.step) == (2, 0)
    assert not trained.network.training
    assert next(trained.network.parameters()).device.type == trained.execution.device
    splits = datasets.load(trained.config.dataset, trained.config.seed)
    assert torch.equal(trained.test().images, splits.test.images)
    assert torch.equal(trained.train().images, splits.train.images)
    assert trained.test() is trained.test()  # read once
    assert trained.config.dataset.validation == 100


def test_the_best_weights_are_those_of_their_epoch(here):
    state = checkpoint.load(here / "out/a/checkpoint.pt")
    best = state["best"] | {"epoch": 1, "model": {k: v + 1 for k, v in state["best"]["model"].items()}}
    torch.save(state | {"best": best, "step": 7}, "marked.pt")
    trained, last = load_trained("marked.pt", best=True), load_trained("marked.pt")
    assert (trained.epoch, trained.step) == (1, 0)
    assert (last.epoch, last.step) == (2, 7)
    for name, weights in trained.network.state_dict().items():
        assert torch.equal(weights, best["model"][name])
        assert torch.equal(last.network.state_dict()[name], state["model"][name])


def test_the_data_of_a_trained_network_may_have_moved(here):
    shutil.move(here / "data", here / "moved")
    assert len(load_trained("out/framed", data="moved").train()) == 64
    with pytest.raises(DataError, match="lies in no folder"):
        load_trained("out/a", data="moved")
