"""SVHN's MATLAB files: read, checked, refused, downloaded."""

import hashlib

import numpy as np
import pytest
import torch
from small_sets import files_of, patterned, served, training_losses, write_svhn

from capsnet import datasets, svhn
from capsnet.config import SVHN
from capsnet.images import DataError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path):
    write_svhn(tmp_path / "SVHN")
    return tmp_path / "SVHN"


def refusal(root):
    with pytest.raises(DataError) as caught:
        svhn.load(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_images_are_read_as_they_were_written_and_label_10_is_the_digit_0(folder, tmp_path):
    train, test = svhn.load(tmp_path)
    pixels, digits = patterned(100, 3, 32, 10, seed=0)
    assert np.array_equal(train.images.numpy(), pixels)
    assert train.labels.tolist() == digits.tolist()
    assert set(digits.tolist()) == set(range(10))
    assert (train.images.dtype, train.labels.dtype, len(test)) == (torch.uint8, torch.int64, 30)


def test_torchvision_reads_the_files_likewise(folder, tmp_path, monkeypatch):
    from torchvision import datasets as theirs

    monkeypatch.setattr(theirs.SVHN, "_check_integrity", lambda self: True)
    expected = theirs.SVHN(folder, split="test")
    _, test = svhn.load(tmp_path)
    assert np.array_equal(test.images.numpy(), expected.data)
    assert test.labels.tolist() == expected.labels.tolist()


def test_files_may_lie_in_the_root_itself_where_torchvision_puts_them(folder, tmp_path):
    expected, _ = svhn.load(tmp_path)
    (folder / "train_32x32.mat").rename(tmp_path / "train_32x32.mat")
    train, test = svhn.load(tmp_path)
    assert torch.equal(train.images, expected.images)
    assert len(test) == 30


def test_the_shape_is_known_without_loading(folder, tmp_path):
    dataset = SVHN(root=str(tmp_path), crop=28)
    splits = datasets.load(dataset, seed=0)
    assert datasets.shape(dataset) == datasets.ImageShape(3, 28, 28, 10)
    assert splits.test.images.shape == (30, 3, 28, 28)
    assert splits.train.images.shape == (100, 3, 32, 32)


@pytest.mark.parametrize(
    "damage", [lambda c: c[:1000], lambda c: c[:-1], lambda c: b"", lambda c: b"x" * 500]
)
def test_a_damaged_file_is_named(folder, tmp_path, damage):
    file = folder / "train_32x32.mat"
    damaged = damage(file.read_bytes())
    file.write_bytes(damaged)
    message = refusal(tmp_path)
    assert message.startswith(f"{file} ")
    assert message.endswith(": put an undamaged copy there, or delete it to have it downloaded again")
    assert file.read_bytes() == damaged


def test_a_changed_byte_is_noticed(folder, tmp_path):
    file = folder / "test_32x32.mat"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert refusal(tmp_path).startswith(f"{file} ")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_with_an_altered_byte_is_one_line_or_read(folder, tmp_path, compressed):
    from scipy.io import savemat

    file = folder / "test_32x32.mat"
    savemat(file, {"X": X, "y": Y}, do_compression=compressed)
    content = file.read_bytes()
    for place in [*range(116, min(512, len(content))), *range(len(content) - 40, len(content))]:
        altered = bytearray(content)
        altered[place] ^= 1 + place % 255
        file.write_bytes(altered)
        try:
            svhn._read(tmp_path, "test")
        except DataError as error:
            assert str(error).startswith(f"{file} ")
            assert "\n" not in str(error)


X = np.zeros((32, 32, 3, 4), np.uint8)
Y = np.array([[1], [2], [3], [10]], np.uint8)


@pytest.mark.parametrize(
    ("matrices", "words"),
    [
        ({"X": X, "y": Y[:3]}, "has 4 images and 3 labels"),
        ({"X": X[..., :0], "y": Y[:0]}, "has 0 images and 0 labels"),
        ({"X": X.transpose(3, 0, 1, 2), "y": Y}, "holds uint8 images of 4×32×32×3, not uint8 of 32×32×3×N"),
        ({"X": X[:28, :28], "y": Y}, "holds uint8 images of 28×28×3×4, not uint8 of 32×32×3×N"),
        ({"X": X / 255, "y": Y}, "holds float64 images of 32×32×3×4, not uint8 of 32×32×3×N"),
        ({"X": X, "y": Y + 1}, "has the label 11; they go from 1 to 10"),
        ({"X": X, "y": Y - 1}, "has the label 0; they go from 1 to 10"),
        ({"X": X, "y": Y + 0.5}, "has the label 1.5; they go from 1 to 10"),
        ({"X": X}, "holds no matrix y of numbers"),
        ({"y": Y}, "holds no matrix X of numbers"),
        ({"X": "text", "y": Y}, "holds no matrix X of numbers"),
        ({"X": {"a": X}, "y": Y}, "holds no matrix X of numbers"),
        ({"X": X * 1j, "y": Y}, "holds no matrix X of numbers"),
        ({"X": X, "y": "1234"}, "holds no matrix y of numbers"),
        ({"X": X, "y": {"a": Y}}, "holds no matrix y of numbers"),
        ({"X": X, "y": Y * 1j}, "holds no matrix y of numbers"),
        ({"X": X, "y": np.array([1, "a", {}, Y], object)}, "holds no matrix y of numbers"),
        ({"X": X, "y": np.array([1, np.nan, 2, 3])}, "has the label nan; they go from 1 to 10"),
        ({"X": X, "y": np.array([1, np.inf, 2, 3])}, "has the label inf; they go from 1 to 10"),
        ({"X": X, "y": np.zeros((4, 4))}, "has 4 images and 16 labels"),
        ({"X": X[..., 0], "y": Y}, "holds uint8 images of 32×32×3, not uint8 of 32×32×3×N"),
        ({"X": np.uint8(3), "y": Y}, "holds uint8 images of 1×1, not uint8 of 32×32×3×N"),
    ],
)
def test_a_file_of_other_content_is_refused(folder, tmp_path, matrices, words):
    from scipy.io import savemat

    savemat(folder / "train_32x32.mat", matrices)
    assert refusal(tmp_path).startswith(f"{folder / 'train_32x32.mat'} {words}")


def test_absent_files_without_a_network_name_the_folder_and_both_ways_out(folder, tmp_path, monkeypatch):
    import torchvision

    (folder / "test_32x32.mat").unlink()
    address = ["http://127.0.0.1:9/test_32x32.mat", "test_32x32.mat", ""]
    monkeypatch.setitem(torchvision.datasets.SVHN.split_list, "test", address)
    message = refusal(tmp_path)
    assert message.startswith(f"{folder} lacks test_32x32.mat, and downloading failed (")
    assert message.endswith(
        "): put the files there, or set dataset.root or CAPSNET_DATA to the folder that holds SVHN"
    )


@pytest.fixture
def download(folder, tmp_path, monkeypatch):
    """Function that loads from a server into a new root and returns the splits and the requested paths."""
    import torchvision

    files = {part: folder / name for part, name in svhn.NAMES.items()}
    sums = {part: hashlib.md5(file.read_bytes()).hexdigest() for part, file in files.items()}

    def load(root):
        asked = []
        with served(files_of(folder, asked)) as address:
            for part, file in files.items():
                row = [f"{address}/{file.name}", file.name, sums[part]]
                monkeypatch.setitem(torchvision.datasets.SVHN.split_list, part, row)
            return svhn.load(root), asked

    return load


def test_only_absent_files_are_downloaded(folder, tmp_path, download):
    (tmp_path / "new").mkdir()
    (tmp_path / "new/test_32x32.mat").write_bytes((folder / "test_32x32.mat").read_bytes())
    (train, test), asked = download(tmp_path / "new")
    assert set(asked) == {"/train_32x32.mat"}
    assert (len(train), len(test)) == (100, 30)
    assert [path.name for path in (tmp_path / "new/SVHN").iterdir()] == ["train_32x32.mat"]


def test_a_download_with_another_checksum_is_refused_and_not_kept(folder, tmp_path, download):
    file = folder / "test_32x32.mat"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(
        DataError, match=r"downloading failed \(File not found or corrupted\.\): put the files"
    ):
        download(tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".download.lock"]


def test_a_small_network_learns_from_small_files(folder, tmp_path):
    first, *_, last = training_losses({"name": "svhn", "root": str(tmp_path)})
    assert np.isfinite(first)
    assert last < first
