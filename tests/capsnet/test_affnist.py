"""affNIST's files, written here as they are published."""

import os
from pathlib import Path

import numpy as np
import pytest
import small_mnist
import torch

from capsnet import affnist, datasets, mnist
from capsnet.affine import warp
from capsnet.config import AffNIST, ShiftedMNIST
from capsnet.framed_mnist import draw_maps, framed
from capsnet.images import DataError, ImageShape

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def mnist_files(tmp_path):
    return small_mnist.write(tmp_path)


def digits(count=30, seed=9):
    """Signs somewhere on 40×40 pixels, and their labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) * 3 % 10
    images = np.zeros((count, 40, 40), np.uint8)
    for image, sign in zip(images, small_mnist.signs(labels, seed), strict=True):
        down, right = random.integers(0, 13, 2)
        image[down : down + 28, right : right + 28] = sign
    return images, labels


def columns(images):
    """Images [N, 40, 40] as the files have them: [1600, N]."""
    return images.reshape(-1, 1600).T


def save(file, images, labels, **changes):
    from scipy.io import savemat

    file.parent.mkdir(parents=True, exist_ok=True)
    fields = {
        "affNISTinfo": "32 transformed versions of each",
        "human_readable_transform": np.zeros((6, images.shape[1])),
        "image": images,
        "label_int": labels[None].astype(np.uint8),
        "label_one_of_n": np.eye(10)[labels].T,
    }
    fields = {name: value for name, value in (fields | changes).items() if value is not None}
    savemat(file, {"affNISTdata": fields}, do_compression=True)


def load(root, **keys):
    return datasets.load(AffNIST(root=str(root), **keys), seed=0)


def failure(root):
    with pytest.raises(DataError) as caught:
        load(root)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_images_and_labels_are_read_as_they_were_written(tmp_path):
    images, labels = digits()
    save(tmp_path / "affNIST/test.mat", columns(images), labels)
    test = load(tmp_path).test
    assert test.images.dtype == torch.uint8
    assert test.images.is_contiguous()
    assert (test.images[:, 0].numpy() == images).all()
    assert test.labels.dtype == torch.int64
    assert test.labels.tolist() == labels.tolist()


def test_images_that_are_stored_column_by_column_are_turned_upright(tmp_path):
    images, labels = digits()
    save(tmp_path / "affNIST/test.mat", columns(images.transpose(0, 2, 1)), labels)
    assert (load(tmp_path).test.images[:, 0].numpy() == images).all()


@pytest.mark.skipif(not os.environ.get("CAPSNET_DATA"), reason="CAPSNET_DATA names no folder with MNIST")
@pytest.mark.parametrize("count", [100, 1000])
def test_mnists_digits_under_affine_maps_show_which_way_up_they_are(tmp_path, count):
    _, test = mnist.load(Path(os.environ["CAPSNET_DATA"]))
    for seed in range(3):
        some = framed(test, 6)[seed * 3000 : seed * 3000 + count]
        images = warp(some.images, draw_maps(some.images, seed))[:, 0].numpy()
        for stored in (images, images.transpose(0, 2, 1)):
            assert (affnist._upright(np.ascontiguousarray(stored)) == images).all()


def test_training_images_are_those_of_shifted_mnist_on_40_pixels(tmp_path):
    images, labels = digits()
    save(tmp_path / "affNIST/test.mat", columns(images), labels)
    splits = load(tmp_path, validation=10)
    expected = datasets.load(ShiftedMNIST(root=str(tmp_path), validation=10), seed=0)
    assert torch.equal(splits.train.images, expected.train.images)
    assert splits.validation is not None
    assert expected.validation is not None
    assert torch.equal(splits.validation.images, expected.validation.images)
    assert datasets.shape(AffNIST()) == ImageShape(1, 40, 40, classes=10)


def test_all_batches_are_read_in_the_order_of_their_numbers(tmp_path):
    images, labels = digits(60)
    folder = tmp_path / "affNIST/test_batches"
    for number, part in ((1, slice(0, 10)), (2, slice(10, 30)), (10, slice(30, 60))):
        save(folder / f"{number}.mat", columns(images[part]), labels[part])
    test = load(tmp_path).test
    assert (test.images[:, 0].numpy() == images).all()
    assert test.labels.tolist() == labels.tolist()


def test_the_whole_file_comes_before_the_batches(tmp_path):
    images, labels = digits()
    save(tmp_path / "affNIST/test.mat", columns(images), labels)
    save(tmp_path / "affNIST/test_batches/1.mat", columns(images[:7]), labels[:7])
    assert len(load(tmp_path).test) == 30


def test_labels_may_be_numbers_of_any_type(tmp_path):
    images, labels = digits()
    save(tmp_path / "affNIST/test.mat", columns(images), labels, label_int=labels[None].astype(np.float64))
    assert load(tmp_path).test.labels.tolist() == labels.tolist()


def test_absent_files_are_asked_for_by_address_and_folder_before_anything_is_read(tmp_path):
    message = failure(tmp_path / "nothing")  # not even MNIST, which would be downloaded
    assert message.startswith(f"there is neither {tmp_path}/nothing/affNIST/test.mat nor any ")
    assert f"{tmp_path}/nothing/affNIST/test_batches/*.mat" in message
    assert "http://www.cs.toronto.edu/~tijmen/affNIST/" in message
    assert message.endswith(f"in {tmp_path}/nothing/affNIST")


def test_the_untransformed_files_of_the_same_name_are_refused(tmp_path, mnist_files):
    images, labels = mnist_files["t10k"]
    save(tmp_path / "affNIST/test.mat", columns(np.pad(images, ((0, 0), (6, 6), (6, 6)))), labels)
    message = failure(tmp_path)
    assert message.startswith(f"{tmp_path}/affNIST/test.mat has MNIST's digits as they are, not transformed")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": None}, "affNISTdata has no image and label_int in it"),
        ({"label_int": None}, "affNISTdata has no image and label_int in it"),
        ({"image": "text"}, "affNISTdata has no image and label_int in it"),
        ({"label_int": {"a": 1}}, "affNISTdata has no image and label_int in it"),
        ({"image": np.zeros((784, 30), np.uint8)}, "its images are 784×30 of uint8, not 1600×N of uint8"),
        ({"image": np.zeros((1600, 30))}, "its images are 1600×30 of float64"),
        ({"image": np.zeros((1600, 29), np.uint8)}, "it has 29 images and 30 labels"),
        ({"label_int": np.full((1, 30), 10)}, "it has labels that are no digits"),
        ({"label_int": np.full((1, 30), 0.5)}, "it has labels that are no digits"),
        ({"label_int": np.full((1, 30), -1)}, "it has labels that are no digits"),
        ({"label_int": np.full((1, 30), np.nan)}, "it has labels that are no digits"),
    ],
)
def test_a_file_with_other_things_in_it_is_named_with_what_is_wrong(tmp_path, changes, words):
    images, labels = digits()
    file = tmp_path / "affNIST/test.mat"
    save(file, columns(images), labels, **changes)
    message = failure(tmp_path)
    assert message.startswith(f"{file} is no file of affNIST's: {words}")
    assert "put an undamaged copy there (http://www.cs.toronto.edu/~tijmen/affNIST/" in message


def test_a_matlab_file_without_the_struct_is_refused(tmp_path):
    from scipy.io import savemat

    (tmp_path / "affNIST").mkdir()
    for held in ({"digits": np.zeros(3)}, {"affNISTdata": np.zeros(3)}, {"affNISTdata": "text"}):
        savemat(tmp_path / "affNIST/test.mat", held)
        assert "it holds no struct affNISTdata" in failure(tmp_path)


def test_files_that_are_no_matlab_files_or_cut_off_anywhere_are_one_line(tmp_path):
    images, labels = digits()
    file = tmp_path / "affNIST/test.mat"
    save(file, columns(images), labels)
    content = file.read_bytes()
    cuts = [content[:length] for length in range(0, len(content), len(content) // 40)]
    hdf5 = b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(500)
    for damaged in (*cuts, b"no MATLAB file at all, but long enough to be one " * 10, b"PK\3\4", hdf5):
        file.write_bytes(damaged)
        assert failure(tmp_path).startswith(f"{file} is no file of affNIST's: it ")


def test_a_file_with_altered_bytes_is_one_line_or_read(tmp_path):
    images, labels = digits()
    file = tmp_path / "affNIST/test.mat"
    save(file, columns(images), labels)
    content = file.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for place in random.integers(0, len(content), 200):
        altered = bytearray(content)
        altered[place] ^= int(random.integers(1, 256))
        file.write_bytes(altered)
        try:
            load(tmp_path)
        except DataError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 150
