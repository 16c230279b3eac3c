"""CIFAR-10's pickles: read, checked, refused, downloaded; the small ones here are as Python 2 wrote them."""

import hashlib
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from small_sets import files_of, patterned, python2_pickle, served, training_losses, write_cifar10

from capsnet import cifar10, datasets, pickled
from capsnet.config import CIFAR10
from capsnet.images import DataError

pytestmark = pytest.mark.usefixtures("one_thread")


def publish(monkeypatch, sums):
    """Let these checksums be the published ones."""
    monkeypatch.setattr(cifar10, "TRAIN", {name: sums[name] for name in sorted(sums) if "data" in name})
    monkeypatch.setattr(cifar10, "TEST", {"test_batch": sums["test_batch"]})


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The folder with six files of 20 images each."""
    publish(monkeypatch, write_cifar10(tmp_path))
    return tmp_path / "cifar-10-batches-py"


@pytest.fixture
def replace(published, monkeypatch):
    """Puts other content in the place of a file, and its checksum in the place of the published one."""

    def put(name, content):
        (published / name).write_bytes(content)
        sums = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in published.iterdir()}
        publish(monkeypatch, sums)
        return published / name

    return put


def batch(images, labels):
    """A batch as Python 3 pickles it."""
    return pickle.dumps({b"data": images, b"labels": labels}, protocol=3)


def refusal(root):
    with pytest.raises(DataError) as caught:
        cifar10.load(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_images_and_labels_are_read_as_they_were_written(published, tmp_path):
    train, test = cifar10.load(tmp_path)
    expected = np.concatenate([patterned(20, 3, 32, 10, seed)[0] for seed in range(5)])
    assert np.array_equal(train.images.numpy(), expected)
    assert np.array_equal(test.images.numpy(), patterned(20, 3, 32, 10, seed=5)[0])
    assert (train.images.dtype, train.labels.dtype) == (torch.uint8, torch.int64)
    assert train.labels.tolist() == [*range(10)] * 10


def test_torchvision_reads_the_small_files_likewise(published, tmp_path, monkeypatch):
    from torchvision import datasets as theirs

    monkeypatch.setattr(theirs.CIFAR10, "train_list", [[name, None] for name in cifar10.TRAIN])
    monkeypatch.setattr(theirs.CIFAR10, "test_list", [[name, None] for name in cifar10.TEST])
    monkeypatch.setattr(theirs.CIFAR10, "_load_meta", lambda self: None)
    expected = theirs.CIFAR10(tmp_path, train=True)
    train, _ = cifar10.load(tmp_path)
    assert np.array_equal(train.images.permute(0, 2, 3, 1).numpy(), expected.data)
    assert train.labels.tolist() == expected.targets


def test_a_batch_that_numpy_2_has_pickled_is_read_too(published, replace, tmp_path):
    before, _ = cifar10.load(tmp_path)
    images, labels = patterned(20, 3, 32, 10, seed=0)
    replace("data_batch_1", batch(images.reshape(20, -1), labels.tolist()))
    again, _ = cifar10.load(tmp_path)
    assert torch.equal(before.images, again.images)


def test_the_test_shows_the_middle_of_each_image(published, tmp_path):
    splits = datasets.load(CIFAR10(root=str(tmp_path), validation=10), seed=0)
    assert splits.validation is not None
    assert splits.train.images.shape == (90, 3, 32, 32)
    assert splits.validation.images.shape == (10, 3, 24, 24)
    whole = patterned(20, 3, 32, 10, seed=5)[0]
    assert np.array_equal(splits.test.images.numpy(), whole[:, :, 4:28, 4:28])


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c + b"\0", lambda c: b"", lambda c: c[::-1]])
def test_a_file_that_is_not_as_published_is_named_with_its_checksum(published, tmp_path, damage):
    file = published / "data_batch_3"
    damaged = damage(file.read_bytes())
    file.write_bytes(damaged)
    message = refusal(tmp_path)
    assert message.startswith(f"{file} ({len(damaged)} bytes) has the MD5 sum ")
    assert message.endswith(": put an undamaged copy there, or delete it to have it downloaded again")
    assert file.read_bytes() == damaged


def test_a_single_changed_pixel_is_noticed(published, tmp_path):
    file = published / "test_batch"
    content = bytearray(file.read_bytes())
    content[-500] ^= 1
    file.write_bytes(content)
    assert refusal(tmp_path).startswith(f"{file} ({len(content)} bytes) has the MD5 sum ")


IMAGES = np.zeros((20, 3072), np.uint8)
LABELS = [*range(10)] * 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (batch(IMAGES, LABELS[:-1]), "has 20 images and 19 labels"),
        (batch(IMAGES, np.array(LABELS)), "has 20 images and no labels"),
        (batch(IMAGES[:0], []), "has 0 images and 0 labels"),
        (batch(IMAGES[:, :784], LABELS), "holds 20×784 values, not 3072 for each image"),
        (batch(IMAGES.reshape(20, 3, 32, 32), LABELS), "holds 20×3×32×32 values, not 3072"),
        (batch(IMAGES, [*LABELS[:-1], 10]), "has the label 10, the last class is 9"),
        (batch(IMAGES, [-1, *LABELS[1:]]), "has the label -1, the last class is 9"),
        (batch(IMAGES, ["cat", *LABELS[1:]]), "has the label cat"),
        (batch(IMAGES.astype(np.float32), LABELS), "holds no array of bytes"),
        (batch([[0] * 3072] * 20, LABELS), "holds something else in the place of its pixels"),
        (pickle.dumps({b"data": IMAGES}, 3), "does not hold the data and the labels"),
        (pickle.dumps([1, 2]), "does not hold the data and the labels"),
        (python2_pickle(IMAGES, LABELS)[:-100], "is no whole pickle (pickle data was truncated)"),
        (b"", "is no whole pickle (Ran out of input)"),
        (b"\x89PNG", "is no whole pickle (A load persistent id instruction was encountered, but"),
    ],
)
def test_a_batch_of_other_content_is_refused_whatever_its_checksum(replace, tmp_path, content, words):
    file = replace("data_batch_2", content)
    message = refusal(tmp_path)
    assert message.startswith(f"{file} {words}")
    assert message.endswith(": put an undamaged copy there, or delete it to have it downloaded again")


class Harmful:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_code_runs_none(replace, tmp_path, protocol):
    file = replace("data_batch_1", pickle.dumps({"data": Harmful(tmp_path / "harm")}, protocol))
    assert refusal(tmp_path).startswith(f"{file} would run posix.mkdir, which has no place in such a file")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "name", ["builtins\neval", "os\nsystem", "numpy\nload", "numpy.core.multiarray\nfromstring"]
)
def test_no_function_is_found_but_those_of_arrays(name):
    module, function = name.split("\n")
    with pytest.raises(pickled.PickledError, match=rf"would run {module}\.{function}, which"):
        pickled.load(f"c{name}\n.".encode())


def test_an_array_of_objects_or_of_a_wrong_size_is_none():
    for kind in (np.array([{}, []], object), np.array(["a"])):
        with pytest.raises(pickled.PickledError, match="no array of bytes"):
            pickled.array(pickled.load(pickle.dumps(kind, 3)))
    cut = pickle.dumps(np.arange(6, dtype=np.uint8), 3).replace(b"K\x06\x85", b"K\x07\x85")
    with pytest.raises(pickled.PickledError, match="no array of bytes"):
        pickled.array(pickled.load(cut))


def test_an_array_by_columns_is_read_as_it_was_meant():
    values = np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    assert np.array_equal(pickled.array(pickled.load(pickle.dumps(values, 3))), values)


def test_absent_files_without_a_network_name_the_folder_and_both_ways_out(published, tmp_path, monkeypatch):
    import torchvision

    (published / "data_batch_4").unlink()
    (published / "test_batch").unlink()
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    message = refusal(tmp_path)
    assert message.startswith(f"{published} lacks data_batch_4, test_batch, and downloading failed (")
    assert message.endswith(
        "): put the files there, or set dataset.root or CAPSNET_DATA to the folder that holds "
        "cifar-10-batches-py"
    )


def test_only_absent_files_are_taken_from_the_download(published, tmp_path, monkeypatch):
    import torchvision

    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(published, published.name)
    content = archive.read_bytes()
    expected, _ = cifar10.load(tmp_path)
    root = tmp_path / "new"
    shutil.copytree(published, root / published.name)
    (root / published.name / "data_batch_5").unlink()
    before = (root / published.name / "data_batch_1").stat()
    with served(files_of(tmp_path)) as address:
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", f"{address}/{archive.name}")
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", hashlib.md5(content).hexdigest())
        train, _ = cifar10.load(root)
    assert torch.equal(train.images, expected.images)
    assert (root / published.name / "data_batch_1").stat().st_mtime_ns == before.st_mtime_ns
    assert sorted(path.name for path in root.iterdir()) == [".download.lock", published.name]


def test_a_small_network_learns_from_small_files(published, tmp_path):
    first, *_, last = training_losses({"name": "cifar10", "root": str(tmp_path)})
    assert np.isfinite(first)
    assert last < first


needs_data = pytest.mark.skipif(
    not os.environ.get("CAPSNET_DATA"), reason="CAPSNET_DATA names no folder with the published files"
)


@needs_data
def test_the_published_files_are_read_as_they_were_published():
    train, test = cifar10.load(Path(os.environ["CAPSNET_DATA"]))
    assert train.images.shape == (50000, 3, 32, 32)
    assert train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert train.labels.bincount().tolist() == [5000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10
    means = (train.images.sum((0, 2, 3), dtype=torch.float64) / (50000 * 1024 * 255)).tolist()
    assert [round(mean, 4) for mean in means] == [0.4914, 0.4822, 0.4465]  # what everybody normalises with


@needs_data
def test_a_small_network_learns_from_the_published_files():
    from capsnet import training
    from capsnet.config import Config
    from capsnet.images import Splits

    config = Config.model_validate(
        {
            "num_epochs": 1,
            "threads": 1,
            "use_cuda": False,
            "dataset": {"name": "cifar10"},
            "model": {"conv_channels": 16, "primary_types": 4, "decoder": {"hidden": [16]}},
        }
    )
    whole = datasets.load(config.dataset, seed=0)
    splits = Splits(whole.train[:2560], None, whole.test[:500])
    losses = [progress.loss for progress in training.train(config, splits=splits, interval_seconds=0)]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.9 * losses[0]
