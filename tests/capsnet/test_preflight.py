"""Obstacles of a run that are found before a network is built, by the names of files alone."""

from pathlib import Path

import pytest

from capsnet import dataset_files, preflight
from capsnet.cli import main
from capsnet.config import Dataset, Digits, MultiMNIST, parse
from capsnet.cpus import available_cpus
from capsnet.schema import sections, tags

FOLDER = "{name: folder, root: pets, size: 28, classes: 2}"
KINDS = [tags(kind)["name"] for kind in sections(Dataset)]
BY_HAND = ("smallnorb", "affnist", "folder")  # nothing downloads these
DOWNLOADED = [name for name in KINDS if name not in (*BY_HAND, "digits")]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAPSNET_DATA", raising=False)
    return tmp_path


def touch(*files):
    """Files without anything in them, which nothing could read."""
    for file in map(Path, files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def touch_folder(train=3, test=1):
    """A folder of images in two classes."""
    for part, count in (("train", train), ("test", test)):
        touch(*(f"pets/{part}/{name}/{number}.png" for name in ("cat", "dog") for number in range(count)))


def found(text, *, by=preflight.obstacles):
    """List each obstacle: its key, whether it exists on every host, and its message."""
    return [(".".join(map(str, one.path)), one.everywhere, one.message) for one in by(parse(text))]


@pytest.mark.parametrize("name", ["digits", *DOWNLOADED])
def test_a_data_set_that_is_downloaded_is_missing_nowhere(name):
    assert found(f"dataset: {{name: {name}}}") == []


@pytest.mark.parametrize("name", DOWNLOADED)
@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("dtaa/mnist", "there is no folder {here}/dtaa to put mnist/{place} in: correct dataset.root or "),
        ("file", "{here}/file is no folder to put {place} in: correct dataset.root or CAPSNET_DATA"),
    ],
)
def test_a_place_that_no_download_can_make_is_an_obstacle(name, root, said, folder):
    touch("file")
    [(key, everywhere, message)] = found(f"dataset: {{name: {name}, root: {root}}}")
    place = dataset_files.TRAINED_ON[name].folder
    assert (key, everywhere) == ("dataset.root", False)
    assert message.startswith(said.format(here=folder, place=place))


def test_the_folder_that_the_environment_names_is_blamed_on_the_data_sets_name(monkeypatch, folder):
    monkeypatch.setenv("CAPSNET_DATA", str(folder / "no/data"))
    [(key, everywhere, message)] = found("dataset: {name: mnist}")
    assert (key, everywhere) == ("dataset.name", False)
    assert message.startswith(f"there is no folder {folder}/no to put data/MNIST/raw in")


def test_a_root_that_the_system_refuses_is_an_obstacle_too():
    [(key, everywhere, message)] = found(f"dataset: {{name: mnist, root: {'x' * 300}}}")
    assert (key, everywhere) == ("dataset.root", False)
    assert message.endswith("-ubyte cannot be read: File name too long")


def test_smallnorb_lacks_what_is_neither_there_nor_packed(folder):
    *there, absent = dataset_files.SMALLNORB.names
    packed = [f"norb/smallnorb/{name}.gz" for name in there[1:]]
    touch(f"norb/smallnorb/{there[0]}", *packed)
    [(key, everywhere, message)] = found("dataset: {name: smallnorb, root: norb}")
    assert (key, everywhere) == ("dataset.root", False)
    assert message.startswith(f"{folder}/norb/smallnorb lacks {absent}: get them from https://cs.nyu.edu/")
    touch(f"norb/smallnorb/{absent}")
    assert found("dataset: {name: smallnorb, root: norb}") == []


@pytest.mark.parametrize("file", ["test.mat", "test_batches/7.mat"])
def test_affnist_lacks_its_test_images_and_downloads_those_it_trains_on(file, folder):
    [(key, _, message)] = found("dataset: {name: affnist}")
    assert key == "dataset.name"
    assert message.startswith(f"there is neither {folder}/data/affNIST/test.mat nor any ")
    touch(f"data/affNIST/{file}")
    assert found("dataset: {name: affnist}") == []


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        ("pets", "{here}/pets is no folder: dataset.root must name the one that holds train/ and test/"),
        ("pets/test", "{here}/pets has no folder test/: "),
        ("pets/train/dog", "{here}/pets/train must hold a folder for each class, two at least: there is "),
        ("pets/test/cat/0.png", "{here}/pets/test/cat holds no image; "),
    ],
)
def test_a_folder_of_images_lacks_a_part_a_class_or_images(break_it, said, folder):
    touch_folder(train=100)
    assert found(f"dataset: {FOLDER}") == []
    Path(break_it).rename("aside")
    [(key, everywhere, message)] = found(f"dataset: {FOLDER}")
    assert (key, everywhere) == ("dataset.root", False)
    assert message.startswith(said.format(here=folder))


@pytest.mark.parametrize("name", KINDS)
def test_the_sizes_of_a_batch_and_of_the_validation_split_are_held_against_each_data_set(name):
    touch_folder()
    section = FOLDER if name == "folder" else f"{{name: {name}}}"
    config = parse(f"dataset: {section}\nbatch_size: 1")
    count = dataset_files.training_images(config.dataset, Path("pets"), enough=10**6)
    assert count == {"digits": 1437, "folder": 6}.get(name) or count >= 24_300

    def sizes(batch, held_back):
        text = f"batch_size: {batch}\ndataset: {section[:-1]}, validation: {held_back}}}"
        return [(key, everywhere) for key, everywhere, _ in found(text, by=preflight.of_sizes)]

    everywhere = name != "folder"
    assert sizes(batch=count, held_back=0) == sizes(batch=1, held_back=count - 1) == []
    assert sizes(batch=count + 1, held_back=0) == [("batch_size", everywhere)]
    assert sizes(batch=2, held_back=count - 1) == [("batch_size", everywhere)]
    assert sizes(batch=1, held_back=count) == [("dataset.validation", everywhere)]


def test_what_is_said_of_sizes_names_the_numbers():
    text = "batch_size: 2000\ndataset: {name: digits, validation: "
    [(_, _, message)] = found(text + "0}")
    assert message == "2000 is more than the 1437 training images of digits: set 1437 or less"
    [(_, _, message)] = found(text + "37}")
    assert message == (
        "2000 is more than the 1400 training images that dataset.validation leaves: set 1400 or less"
    )
    [(_, _, message)] = found(text + "1437}")
    assert message == "1437 leaves none of the 1437 training images of digits to train on: set it to less"


def test_sizes_are_said_beside_files_that_are_missing():
    text = "batch_size: 30_000\ndataset: {name: smallnorb}"
    assert [(key, everywhere) for key, everywhere, _ in found(text)] == [
        ("dataset.name", False),
        ("batch_size", True),
    ]


def test_more_threads_than_cpus_are_an_obstacle_here():
    cpus = available_cpus()
    assert found(f"dataset: {{name: digits}}\nthreads: {cpus}") == []
    [(key, everywhere, message)] = found(f"dataset: {{name: digits}}\nthreads: {cpus + 1}")
    assert (key, everywhere) == ("threads", False)
    assert message.startswith(f"{cpus + 1} is more than the {cpus} CPUs ")


def test_the_digits_are_as_many_as_there_are():
    pytest.importorskip("sklearn")
    from capsnet import datasets

    splits = datasets.load(Digits(size=8), seed=0)
    assert len(splits.train) == dataset_files.training_images(Digits(), Path(), enough=0)
    assert len(splits.test) == dataset_files.DIGITS_FOR_TEST


def test_pairs_are_counted_by_their_first_digits():
    assert dataset_files.training_images(MultiMNIST(), Path(), enough=0) == 60_000


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("dataset:\n  name: smallnorb", [], "a.yaml:2: dataset.name: "),
        ("dataset: {name: digits}\nbatch_size: 1438", [], "a.yaml:2: batch_size: 1438 is more than "),
        ("dataset: {name: digits}", ["--set", "threads=4096"], "--set threads=4096: 4096 is more than "),
        ("dataset: {name: smallnorb}\nthreads: 4096", ["--resume"], "a.yaml:1: dataset.name: "),
    ],
)
def test_train_says_it_in_one_line_before_it_builds_a_network(text, words, said, folder, capsys, monkeypatch):
    monkeypatch.setattr("capsnet.commands.train.train", lambda *_: pytest.fail("training has begun"))
    Path("a.yaml").write_text(text)
    assert main(["train", "a.yaml", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(said)
    assert [path.name for path in folder.iterdir()] == ["a.yaml"]
