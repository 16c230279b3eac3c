import gzip
import http.server
import shutil
import struct
import threading
import urllib.request
from functools import partial
from hashlib import md5

import numpy as np
import pytest
import torch

from capsnet import datasets, idx
from capsnet.config import MNIST, Digits, FashionMNIST
from capsnet.dataset_files import MNIST as MNIST_FILES
from capsnet.datasets import DataError, Images


def idx_bytes(array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_small_set(raw, train=50, test=20):
    """Four files in MNIST's format, with random pixels."""
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        pixels = random.integers(0, 256, (count, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(pixels))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(count) % 10))


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    write_small_set(folder)
    return folder


@pytest.fixture
def no_network(monkeypatch):
    """Direct every connection to a port of this machine on which no server listens."""
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxies of its first use


def load(root, **options):
    return datasets.load(MNIST(root=str(root), **options), seed=0)


def test_digits_are_split_and_scaled_up_alike_whatever_the_seed():
    splits = datasets.load(Digits(size=28), seed=0)
    assert splits.train.images.shape == (1437, 1, 28, 28)
    assert splits.test.images.shape == (360, 1, 28, 28)
    assert splits.train.images.dtype == torch.uint8
    assert splits.train.labels[:10].tolist() == list(range(10))
    assert torch.equal(splits.test.images, datasets.load(Digits(size=28), seed=1).test.images)


def test_digits_in_their_own_size_are_the_originals_times_255_over_16():
    from sklearn.datasets import load_digits

    pixels, _ = load_digits(return_X_y=True)
    expected = np.round(np.asarray(pixels).reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    splits = datasets.load(Digits(size=8), seed=0)
    images = torch.cat([splits.train.images, splits.test.images])
    assert (images[:, 0].numpy() == expected).all()


def test_images_and_labels_are_read_as_they_were_written(raw, tmp_path):
    splits = load(tmp_path)
    expected = np.random.default_rng(0).integers(0, 256, (50, 28, 28))
    assert (splits.train.images[:, 0].numpy() == expected).all()
    assert splits.train.labels.tolist() == [i % 10 for i in range(50)]
    assert splits.validation is None
    assert len(splits.test) == 20


def test_packed_files_are_read_too(raw, tmp_path):
    expected = load(tmp_path)
    for file in list(raw.iterdir()):
        (raw / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert torch.equal(load(tmp_path).train.images, expected.train.images)


@pytest.mark.parametrize("dataset", [Digits(), MNIST(), FashionMNIST()])
def test_the_shape_is_known_without_loading(dataset):
    assert datasets.shape(dataset) == datasets.ImageShape(channels=1, height=28, width=28, classes=10)


def test_capsnet_data_names_the_folder_where_the_yaml_does_not(raw, tmp_path, monkeypatch):
    monkeypatch.setenv("CAPSNET_DATA", str(tmp_path))
    assert len(datasets.load(MNIST(), seed=0).train) == 50


def as_rows(images):
    """The set of (pixels, label)."""
    return {
        (image.numpy().tobytes(), int(label))
        for image, label in zip(images.images, images.labels, strict=True)
    }


def test_the_validation_split_takes_each_image_once_by_seed(raw, tmp_path):
    whole, splits = load(tmp_path), load(tmp_path, validation=15)
    assert splits.validation is not None
    assert (len(splits.train), len(splits.validation)) == (35, 15)
    held_back, kept = as_rows(splits.validation), as_rows(splits.train)
    assert not held_back & kept
    assert held_back | kept == as_rows(whole.train)
    other = datasets.load(MNIST(root=str(tmp_path), validation=15), seed=1).validation
    assert other is not None
    assert not torch.equal(other.images, splits.validation.images)


def test_a_validation_split_that_leaves_nothing_to_train_on_is_refused():
    images = Images(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.zeros(10, dtype=torch.int64))
    with pytest.raises(DataError, match="validation is 10, but there are only 10 training images"):
        datasets.hold_back(images, 10, seed=0)


def cut(content):
    return content[:-1]


def lengthened(content):
    return content + b"\0"


def emptied(content):
    return b""


def other_magic(content):
    return b"\0\0\x0d" + content[3:]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "is cut off: 39199 values where its header says 39200"),
        (lengthened, "has bytes after its end"),
        (emptied, "ends after 0 bytes, within its header"),
        (other_magic, "begins with 00000d03, not with 00000803"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_file_is_named_with_its_fault(raw, tmp_path, damage, words, packed):
    file = raw / "train-images-idx3-ubyte"
    content = damage(file.read_bytes())
    if packed:
        file.unlink()
        file = raw / f"{file.name}.gz"
        content = gzip.compress(content)
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"{file} {words}")
    assert "put an undamaged copy there" in str(caught.value)


@pytest.mark.parametrize("damage", [cut, lengthened, emptied, lambda content: b"no gzip" + content])
def test_a_packed_file_that_is_damaged_itself_is_named(raw, tmp_path, damage):
    file = raw / "t10k-labels-idx1-ubyte"
    packed = raw / f"{file.name}.gz"
    packed.write_bytes(damage(gzip.compress(file.read_bytes())))
    file.unlink()
    if damage is lengthened:  # gzip ignores zeros after its end
        assert len(load(tmp_path).test) == 20
    else:
        with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz (cannot be unpacked|ends after 0)"):
            load(tmp_path)


def test_a_label_beyond_the_classes_is_refused(raw, tmp_path):
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.full(20, 10)))
    with pytest.raises(DataError, match="t10k has the label 10, the last class is 9"):
        load(tmp_path)


def test_images_without_their_labels_are_refused(raw, tmp_path):
    (raw / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(49)))
    with pytest.raises(DataError, match="train has 50 images and 49 labels"):
        load(tmp_path)


def test_images_of_another_size_are_refused(raw, tmp_path):
    (raw / "train-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((50, 32, 32))))
    with pytest.raises(DataError, match="train images are 32×32 pixels, not 28×28"):
        load(tmp_path)


def test_absent_files_without_a_network_name_the_folder_and_both_ways_out(tmp_path, no_network):
    with pytest.raises(DataError) as caught:
        load(tmp_path / "absent")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/absent/MNIST/raw lacks train-images-idx3-ubyte, ")
    assert "put the files there" in message
    assert "set dataset.root or CAPSNET_DATA to the folder that holds MNIST/raw" in message
    assert "\n" not in message


def test_only_the_absent_files_are_asked_for(raw, tmp_path, no_network):
    (raw / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(DataError, match=r"raw lacks t10k-images-idx3-ubyte, and"):
        load(tmp_path)


def test_a_folder_that_cannot_be_made_is_no_traceback_either(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"/file is no folder to put MNIST/raw in: correct dataset\.root"):
        load(tmp_path / "file")


def test_absent_files_are_downloaded_into_their_place(raw, tmp_path, monkeypatch, capsys):
    from torchvision.datasets import FashionMNIST as Downloaded

    published = tmp_path / "published"
    published.mkdir()
    sums = []
    for name in MNIST_FILES.names:
        packed = gzip.compress((raw / name).read_bytes())
        (published / f"{name}.gz").write_bytes(packed)
        sums.append((f"{name}.gz", md5(packed).hexdigest()))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(published))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(Downloaded, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(Downloaded, "resources", sums)
        splits = datasets.load(FashionMNIST(root=str(tmp_path / "new")), seed=0)
        server.shutdown()
    assert torch.equal(splits.train.images, load(tmp_path).train.images)
    folder = tmp_path / "new" / "FashionMNIST" / "raw"
    assert sorted(file.name for file in folder.iterdir()) == sorted(MNIST_FILES.names)
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [".download.lock", "FashionMNIST"]
    assert capsys.readouterr().out == ""
    shutil.rmtree(published)
    assert len(datasets.load(FashionMNIST(root=str(tmp_path / "new")), seed=0).test) == 20


def test_a_file_that_may_not_be_read_says_so(tmp_path):
    with pytest.raises(idx.IdxError, match="cannot be read: Is a directory"):
        idx.read(tmp_path, 1)
