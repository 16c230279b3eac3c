"""SmallNORB's matrix files: read, scaled, checked, refused."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from small_sets import matrix_bytes, patterned, training_losses, write_smallnorb

from capsnet import augmentation, binary_matrix, datasets, smallnorb
from capsnet import config as config_module
from capsnet.config import SmallNORB
from capsnet.images import DataError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TRAIN = "smallnorb-5x46789x9x18x6x2x96x96-training"
TEST = "smallnorb-5x01235x9x18x6x2x96x96-testing"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path):
    write_smallnorb(tmp_path)
    return tmp_path / "smallnorb"


def refusal(root):
    with pytest.raises(DataError) as caught:
        smallnorb.load(root, 48)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_both_cameras_are_channels_and_a_pixel_is_the_mean_of_four(folder, tmp_path):
    train, test = smallnorb.load(tmp_path, 48)
    pixels, labels = patterned(60, 2, 96, 5, seed=0)
    expected = pixels.reshape(60, 2, 48, 2, 48, 2).astype(np.float64).mean((3, 5))
    assert np.array_equal(train.images.numpy(), np.rint(expected))
    assert train.labels.tolist() == labels.tolist()
    assert (train.images.dtype, train.labels.dtype) == (torch.uint8, torch.int64)
    assert test.images.shape == (20, 2, 48, 48)


def test_in_their_own_size_images_are_as_they_were_written(folder, tmp_path):
    train, _ = smallnorb.load(tmp_path, 96)
    assert np.array_equal(train.images.numpy(), patterned(60, 2, 96, 5, seed=0)[0])


@pytest.mark.parametrize("size", [32, 40, 64, 95])
def test_another_size_takes_the_mean_of_what_a_pixel_touches(folder, tmp_path, size):
    pixels = patterned(60, 2, 96, 5, seed=0)[0][:3].astype(np.float64)
    edges = [(row * 96 // size, -(-(row + 1) * 96 // size)) for row in range(size)]
    rows = np.stack([pixels[:, :, top:bottom].mean(2) for top, bottom in edges], axis=2)
    expected = np.stack([rows[:, :, :, left:right].mean(3) for left, right in edges], axis=3)
    train, _ = smallnorb.load(tmp_path, size)
    assert np.abs(train.images[:3].numpy() - expected).max() < 0.501


def test_reading_in_parts_changes_nothing(folder):
    path = folder / f"{TRAIN}-dat.mat"
    whole = binary_matrix.read(path, binary_matrix.BYTES, (2, 96, 96))
    parts = list(binary_matrix.parts(path, binary_matrix.BYTES, (2, 96, 96), rows=7))
    assert [len(part) for part in parts] == [7] * 8 + [4]
    assert np.array_equal(np.concatenate(parts), whole)


def test_packed_files_are_read_too(folder, tmp_path):
    write_smallnorb(tmp_path / "packed", gzipped=True)
    for expected, packed in zip(
        smallnorb.load(tmp_path, 48), smallnorb.load(tmp_path / "packed", 48), strict=True
    ):
        assert torch.equal(packed.images, expected.images)
        assert torch.equal(packed.labels, expected.labels)


def test_a_header_is_read_as_the_format_says():
    assert matrix_bytes(np.array([3, 1], "<i4")) == bytes.fromhex(
        "544c3d1e 01000000 02000000 01000000 01000000 03000000 01000000"
    )


def test_the_way_each_image_was_taken_is_kept(folder, tmp_path):
    info = smallnorb.read_info(tmp_path, "test")
    assert info.dtype == torch.int64
    assert info.shape == (20, 4)
    assert info[13].tolist() == [3, 4, 26, 1]
    assert smallnorb.INFO == ("instance", "elevation", "azimuth", "lighting")


def test_images_are_read_without_the_info_files_and_info_without_the_images(folder, tmp_path):
    for path in folder.glob("*-info.mat"):
        path.rename(tmp_path / path.name)
    assert len(smallnorb.load(tmp_path, 48)[0]) == 60
    with pytest.raises(DataError, match=f"smallnorb lacks {TRAIN}-info.mat: get them from https://"):
        smallnorb.read_info(tmp_path, "train")
    for path in tmp_path.glob("*-info.mat"):
        path.rename(folder / path.name)
    for path in folder.glob("*-dat.mat"):
        path.unlink()
    assert len(smallnorb.read_info(tmp_path, "train")) == 60


def test_the_test_shows_the_middle_of_each_image(folder, tmp_path):
    dataset = SmallNORB(root=str(tmp_path))
    splits = datasets.load(dataset, seed=0)
    assert splits.train.images.shape == (60, 2, 48, 48)
    assert splits.test.images.shape == (20, 2, 32, 32)
    _, whole = smallnorb.load(tmp_path, 48)
    assert torch.equal(splits.test.images, whole.images[:, :, 8:40, 8:40])
    assert datasets.shape(dataset) == datasets.ImageShape(2, 32, 32, classes=5)


def lights_effect(dataset):
    """The root mean square of what light changes about the network's inputs."""
    images = datasets.load(dataset, seed=0).train
    draws = augmentation.draw(dataset, seed=0, epoch=1, count=len(images))
    unlit = {name: drawn for name, drawn in draws.items() if name not in augmentation.LIGHT}
    one, other = (augmentation.augment(images, each, dataset).inputs for each in (draws, unlit))
    return (one - other).square().mean().sqrt().item()


def test_standardised_first_the_light_reaches_the_network_and_last_it_hardly_does(folder, tmp_path):
    config = config_module.load(EXPERIMENTS / "smallnorb_em.yaml", [f"dataset.root={tmp_path}"])
    assert isinstance(config.dataset, SmallNORB)
    # By at most 2 deviations, evenly: √(4/3); and by contrast, 0.5 to 1.5 times: √(1/12) of the crop's own.
    assert lights_effect(config.dataset) == pytest.approx((4 / 3 + 1 / 12) ** 0.5, rel=0.15)
    of_before = {"standardise": "last", "brightness": 32.0, "contrast": (0.5, 1.5), "clip": True}
    assert lights_effect(config.dataset.model_copy(update=of_before)) < 0.1


@pytest.mark.parametrize("part", ["validation", "test"])
def test_standardised_first_a_test_goes_by_the_whole_image(folder, tmp_path, part):
    dataset = SmallNORB(root=str(tmp_path), standardise="first", brightness=1.0, validation=10)
    found = getattr(datasets.load(dataset, seed=0), part)
    train, test = smallnorb.load(tmp_path, 48)
    whole = test if part == "test" else datasets.hold_back(train, 10, 0)[1]
    assert whole is not None
    expected = augmentation.standardised(whole.images / 255)[:, :, 8:40, 8:40]
    torch.testing.assert_close(augmentation.for_test(found, dataset).inputs, expected)


def with_count(content, count):
    return content[:8] + struct.pack("<I", count) + content[12:]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda c: c[:-1], "is cut off: 59 whole rows where its header says 60"),
        (lambda c: c[: 24 + 18432 * 7], "is cut off: 7 whole rows where its header says 60"),
        (lambda c: c + b"\0", "has bytes after its end"),
        (lambda c: b"", "ends within its header"),
        (lambda c: c[:20], "ends within its header"),
        (lambda c: b"\x1e\x3d\x4c\x55" + c[4:], "begins with 1e3d4c55, not with 554c3d1e"),
        (lambda c: with_count(c, 61), "is cut off: 60 whole rows where its header says 61"),
        (lambda c: with_count(c, 59), "has bytes after its end"),
        (lambda c: with_count(c, 2**32 - 1), "is cut off: 60 whole rows where its header says 4294967295"),
        (lambda c: with_count(c, 0), "holds 0×2×96×96 values, not N×2×96×96"),
        (lambda c: c[:16] + struct.pack("<I", 48) + c[20:], "holds 60×2×48×96 values, not N×2×96×96"),
        (lambda c: c[:4] + struct.pack("<I", 3) + c[8:], "has 3 dimensions, not 4"),
        (lambda c: c[:4] + struct.pack("<I", 2**31) + c[8:], "has 2147483648 dimensions, not 4"),
    ],
)
def test_a_damaged_file_is_named_with_its_fault(folder, tmp_path, damage, words, packed):
    file = folder / f"{TRAIN}-dat.mat"
    content = damage(file.read_bytes())
    if packed:
        file.unlink()
        file = Path(f"{file}.gz")
        content = gzip.compress(content, 1)
    file.write_bytes(content)
    message = refusal(tmp_path)
    assert message.startswith(f"{file} {words}")
    assert message.endswith(
        "put an undamaged copy there, from https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/"
    )
    assert file.read_bytes() == content


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c[: len(c) // 2], lambda c: b"no gzip" + c])
def test_a_packed_file_that_is_damaged_itself_is_named(folder, tmp_path, damage):
    file = folder / f"{TEST}-cat.mat"
    packed = Path(f"{file}.gz")
    packed.write_bytes(damage(gzip.compress(file.read_bytes())))
    file.unlink()
    assert refusal(tmp_path).startswith(f"{packed} cannot be unpacked: ")


def test_a_file_of_another_type_is_refused(folder, tmp_path):
    file = folder / f"{TRAIN}-cat.mat"
    file.write_bytes(matrix_bytes(np.zeros(60, np.uint8)))
    assert refusal(tmp_path).startswith(f"{file} begins with 554c3d1e, not with 544c3d1e")


@pytest.mark.parametrize("label", [5, -1])
def test_a_label_beyond_the_classes_is_refused(folder, tmp_path, label):
    file = folder / f"{TEST}-cat.mat"
    file.write_bytes(matrix_bytes(np.full(20, label, "<i4")))
    assert refusal(tmp_path).startswith(
        f"{file} has the label {label}, the last class is 4: put an undamaged"
    )


def test_images_without_their_labels_are_refused(folder, tmp_path):
    (folder / f"{TRAIN}-cat.mat").write_bytes(matrix_bytes(np.zeros(59, "<i4")))
    words = f"{folder}/{TRAIN}-dat.mat has 60 images, but {TRAIN}-cat.mat 59 labels"
    assert refusal(tmp_path).startswith(words)


def test_absent_files_are_named_with_the_folder_and_the_address(folder, tmp_path):
    (folder / f"{TRAIN}-cat.mat").unlink()
    (folder / f"{TEST}-dat.mat").unlink()
    assert refusal(tmp_path) == (
        f"{folder} lacks {TRAIN}-cat.mat, {TEST}-dat.mat: get them from "
        "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/ and put the files there, gzipped or not, or set "
        "dataset.root or CAPSNET_DATA to the folder that holds smallnorb"
    )


def test_a_small_network_learns_from_small_files(folder, tmp_path):
    first, *_, last = training_losses({"name": "smallnorb", "root": str(tmp_path)})
    assert np.isfinite(first)
    assert last < first
