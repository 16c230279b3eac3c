"""Images in folders named after their classes: found, converted, scaled, refused."""

import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_sets import patterned, training_losses, write_folder

from capsnet import datasets, folder, folder_files
from capsnet.config import ConfigError, Folder, parse
from capsnet.images import DataError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def root(tmp_path):
    """Three classes of 16×16 pixels, 20 images of each to train on and 6 to test."""
    write_folder(tmp_path)
    return tmp_path


def load(root, **keys):
    return folder.load(root, Folder(root=str(root), **{"size": 16, "classes": 3, **keys}))


def refusal(root, **keys):
    with pytest.raises(DataError) as caught:
        load(root, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def one_image(root, image, name="image.png", **keys):
    """Save an image as every image of a data set, load the set and return the first one, uint8 [C, H, W]."""
    for part in ("train", "test"):
        for kind in ("a", "b"):
            (root / part / kind).mkdir(parents=True, exist_ok=True)
            image.save(root / part / kind / name)
    train, _ = load(root, **{"size": image.width, "classes": 2, **keys})
    return train.images[0]


def test_images_are_read_by_class_and_name(root):
    train, test = load(root)
    pixels, labels = patterned(60, 3, 16, 3, seed=0)
    order = np.argsort(labels, kind="stable")
    assert np.array_equal(train.images.numpy(), pixels[order])
    assert train.labels.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    assert (train.images.dtype, train.labels.dtype, len(test)) == (torch.uint8, torch.int64, 18)


def test_the_same_files_are_found_in_the_same_order_as_by_torchvision(root):
    from torchvision.datasets import ImageFolder

    image = root / "train/a/000.png"
    names = "z/deep/1.png z.x/1.PNG Z/2.png b/1.png 1.png 10.png notes.png.txt"
    for name in names.split():
        copy = root / "train/b" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, copy)
    (root / "train/c/linked").symlink_to(root / "train/a", target_is_directory=True)
    (root / "train/notes.txt").write_text("no class")
    theirs = ImageFolder(root / "train")
    train, _ = load(root)
    assert train.labels.tolist() == theirs.targets
    expected = np.stack([np.asarray(image) for image, _ in theirs]).transpose(0, 3, 1, 2)
    assert np.array_equal(train.images.numpy(), expected)


def test_torchvision_knows_the_same_endings():
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert folder_files.ENDINGS == IMG_EXTENSIONS


def test_the_classes_of_a_folder_are_those_of_the_yaml(root):
    dataset = Folder(root=str(root), size=16, classes=3, crop=12, validation=5)
    splits = datasets.load(dataset, seed=0)
    assert datasets.shape(dataset) == datasets.ImageShape(3, 12, 12, classes=3)
    assert splits.test.images.shape == (18, 3, 12, 12)
    assert splits.train.images.shape == (55, 3, 16, 16)


def test_the_yaml_must_say_where_the_images_lie_and_of_which_size():
    with pytest.raises(ConfigError) as caught:
        parse("dataset: {name: folder}")
    assert str(caught.value).splitlines() == [
        f"configuration:1: dataset.{key}: is required" for key in ("root", "size", "classes")
    ]


def test_the_choice_between_numbers_of_channels_is_listed():
    with pytest.raises(ConfigError) as caught:
        parse("dataset: {name: folder, root: images, size: 32, classes: 3, channels: 2}")
    assert str(caught.value) == "configuration:1: dataset.channels: must be one of 1, 3 (got 2)"


def test_grey_images_become_three_channels_and_colours_one(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    three = one_image(tmp_path / "grey", Image.fromarray(grey), size=8)
    assert np.array_equal(three.numpy(), np.stack([grey] * 3))
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[..., 1] = 200
    one = one_image(tmp_path / "colour", Image.fromarray(colour), channels=1)
    assert one.shape == (1, 8, 8)
    assert one.unique().tolist() == [117]  # 0.587 of 200


@pytest.mark.parametrize("name", ["image.png", "image.tif"])
def test_of_16_bits_of_grey_the_upper_8_are_read(tmp_path, name):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    image = one_image(tmp_path, Image.fromarray(values), name, channels=1)
    assert np.array_equal(image[0].numpy(), values >> 8)


def test_palettes_are_looked_up_with_or_without_a_transparent_colour(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert one_image(tmp_path / "plain", image).flatten(1).unique(dim=1).tolist() == [[10], [20], [30]]
    image.info["transparency"] = b"\x00\x80"
    assert one_image(tmp_path / "clear", image).flatten(1).unique(dim=1).tolist() == [[10], [20], [30]]


@pytest.mark.parametrize("mode", ["1", "LA", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_other_modes_are_converted(tmp_path, mode):
    name = "image.tif" if mode in ("CMYK", "YCbCr", "LAB") else "image.png"
    image = Image.new("RGB", (8, 8), "white").convert(mode)
    assert one_image(tmp_path, image, name).min() >= 254


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_32_bits_are_refused(tmp_path, mode):
    with pytest.raises(DataError) as caught:
        one_image(tmp_path, Image.new(mode, (8, 8)), "image.tif")
    assert str(caught.value) == (
        f"{tmp_path}/train/a/image.tif cannot be read (it has 32 bits a pixel; save it with 8): "
        "replace or remove it"
    )


def test_an_image_of_another_size_is_named_with_both_sizes(root):
    file = root / "train/b/odd.png"
    Image.new("RGB", (16, 20)).save(file)
    assert refusal(root) == (
        f"{file} is 16×20 pixels, not 16×16: give all images the size dataset.size, "
        "or set dataset.resize: true to scale and crop them"
    )


@pytest.mark.parametrize("size", [(16, 48), (32, 8), (4, 12), (2, 2)])
def test_resizing_scales_the_shorter_side_and_crops_the_middle_as_torchvision_does(tmp_path, size):
    from torchvision.transforms import CenterCrop, Compose, Resize

    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    expected = np.asarray(Compose([Resize(8), CenterCrop(8)])(image)).transpose(2, 0, 1)
    assert np.array_equal(one_image(tmp_path, image, size=8, resize=True).numpy(), expected)


def test_resizing_leaves_images_of_the_right_size_alone(root):
    assert torch.equal(load(root, resize=True)[0].images, load(root)[0].images)


def test_resizing_averages_rather_than_picks(tmp_path):
    stripes = np.zeros((32, 32), np.uint8)
    stripes[::2] = 200
    image = one_image(tmp_path, Image.fromarray(stripes), size=4, resize=True, channels=1)
    assert (image.float() - 100).abs().max() < 15


def test_no_such_folder(tmp_path):
    assert refusal(tmp_path / "absent") == (
        f"{tmp_path}/absent is no folder: dataset.root must name the one that holds train/ and test/"
    )


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_part_that_is_missing_is_named(root, part):
    shutil.rmtree(root / part)
    assert refusal(root) == f"{root} has no folder {part}/: put images at {root}/{part}/CLASS/"


def test_a_single_class_is_none_to_tell_apart(root):
    for part in ("train", "test"):
        for kind in ("b", "c"):
            shutil.rmtree(root / part / kind)
    words = f"{root}/train must hold a folder for each class, two at least: there is "
    assert refusal(root) == f"{words}only a/"
    shutil.rmtree(root / "train/a")
    assert refusal(root) == f"{words}none"


def test_classes_that_only_one_part_has_are_named(root):
    (root / "train/b").rename(root / "train/d")
    assert refusal(root) == (
        f"{root}: train/ and test/ must hold the same classes: only train/ has d, only test/ has b"
    )
    for number in range(7):
        (root / f"test/x{number}").mkdir()
    assert refusal(root).endswith("only train/ has d, only test/ has b, x0, x1, x2, x3 and 3 more")


def test_another_number_of_classes_than_the_yaml_says(root):
    assert refusal(root, classes=4) == f"{root}/train holds 3 classes, but dataset.classes is 4"


def test_a_class_without_images_is_named(root):
    for file in (root / "test/c").iterdir():
        file.rename(file.with_suffix(".gif"))
    assert refusal(root).startswith(f"{root}/test/c holds no image; they are told by their endings: .jpg, ")


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif", "webp", "ppm"])
@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"no image at all"])
def test_a_file_that_pillow_cannot_read_is_named(root, damage, ending):
    file = root / f"train/b/damaged.{ending}"
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    damaged = damage(file.read_bytes())
    file.write_bytes(damaged)
    message = refusal(root)
    assert message.startswith((f"{file} cannot be read (", f"{file} is no image that Pillow knows"))
    assert message.endswith(": replace or remove it")
    assert file.read_bytes() == damaged


def test_a_link_to_nowhere_is_named(root):
    (root / "train/a/gone.png").symlink_to(root / "nowhere.png")
    assert refusal(root).startswith(f"{root}/train/a/gone.png cannot be read (")


def test_photographs_are_turned_as_the_camera_says_that_it_was_held(tmp_path):
    values = np.zeros((8, 8), np.uint8)
    values[0, 4:] = 200
    image = Image.fromarray(values)
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    for part in ("train", "test"):
        for kind in "ab":
            (tmp_path / part / kind).mkdir(parents=True)
            image.save(tmp_path / part / kind / "turned.png", exif=exif)
    train, _ = load(tmp_path, size=8, classes=2, channels=1)
    assert np.array_equal(train.images[0, 0].numpy(), np.rot90(values, -1))


@pytest.mark.parametrize(
    "links",
    [{"train/a/again": "train/a"}, {"train/b/up": "train"}, {"train/a/x": "train/b", "train/b/y": "train/a"}],
)
def test_links_that_lead_back_are_refused_rather_than_followed_without_end(root, links):
    for link, target in links.items():
        (root / link).symlink_to(root / target, target_is_directory=True)
        (root / f"{link}2").symlink_to(root / target, target_is_directory=True)
    message = refusal(root)
    assert message.startswith(f"{root}/train/")
    assert message.endswith("is a link to a folder around it, without an end: remove the link")


def test_images_that_memory_has_no_room_for_are_counted(root):
    image = root / "train/a/000.png"
    for number in range(400):
        (root / f"train/a/more-{number}.png").symlink_to(image)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**27, before[1]))
    try:
        message = refusal(root, size=512, resize=True)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert message == (
        f"{root}/train holds 460 images of 3×512×512 bytes, 0.4 GB together, which is more memory than there "
        "is: set a smaller dataset.size, with dataset.resize: true"
    )


HIDDEN = [
    "train/a/.ipynb_checkpoints/0-checkpoint.png",
    "train/a/deep/._0.png",
    "train/a/._0.png",
    "train/.ipynb_checkpoints/0.png",
    "test/__MACOSX/a/0.png",
    "test/c/@eaDir/0.png/thumbnail.png",
]


def test_hidden_files_and_folders_are_skipped_and_counted(root, caplog):
    caplog.set_level("INFO", "capsnet")
    before = load(root)
    assert caplog.messages == []
    for name in HIDDEN:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"no image" if "._" in name else (root / "train/a/000.png").read_bytes())
    for part, expected in zip(load(root), before, strict=True):
        assert torch.equal(part.images, expected.images)
        assert torch.equal(part.labels, expected.labels)
    first = "test/__MACOSX"
    assert caplog.messages == [f"{root}: skipped 6 hidden files and folders, such as {first}"]


def test_a_hidden_folder_is_not_even_looked_into(root):
    (root / "train/a/.trash").mkdir()
    (root / "train/a/.trash/again").symlink_to(root / "train/a", target_is_directory=True)
    assert len(load(root)[0]) == 60


def test_the_data_set_itself_may_lie_in_a_hidden_folder(root):
    (root / ".data").mkdir()
    for part in ("train", "test"):
        (root / part).rename(root / ".data" / part)
    assert len(load(root / ".data")[0]) == 60


def test_of_a_class_with_nothing_but_hidden_images_they_are_counted(root):
    for file in (root / "test/c").iterdir():
        file.rename(file.with_name(f"._{file.name}"))
    assert refusal(root).startswith(f"{root}/test/c holds no image beside 6 hidden files and folders; they ")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_small_network_learns_from_small_files(root, channels):
    keys = {"name": "folder", "root": str(root), "size": 16, "classes": 3, "channels": channels}
    first, *_, last = training_losses(keys)
    assert np.isfinite(first)
    assert last < first
