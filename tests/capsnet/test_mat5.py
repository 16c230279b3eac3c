"""MATLAB's files: those that SciPy writes are read, damaged ones are refused."""

import struct
import zlib

import numpy as np
import pytest

from capsnet import mat5
from capsnet.mat5 import MatError

TYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


def written(path, compressed=False, **variables):
    from scipy.io import savemat

    savemat(path / "file.mat", variables, do_compression=compressed)
    return path / "file.mat"


def element(kind, data, order="<"):
    """An element as a file has it, padded."""
    return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(order, kind, shape, name, *parts, flags=0):
    parts = [
        element(6, struct.pack(f"{order}II", kind | flags, 0), order),
        element(5, struct.pack(f"{order}{len(shape)}i", *shape), order),
        element(1, name.encode(), order),
        *parts,
    ]
    return element(14, b"".join(parts), order)


def header(order):
    return bytes(124) + {"<": b"\0\1IM", ">": b"\1\0MI"}[order]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_arrays_of_all_types_are_read_as_they_were_written(tmp_path, dtype, compressed):
    random = np.random.default_rng(0)
    shapes = {"a": (1, 1), "b": (7, 3), "c": (4, 3, 2, 5), "d": (0, 3), "long_name": (1, 9)}
    arrays = {name: random.integers(0, 100, shape).astype(dtype) for name, shape in shapes.items()}
    found = mat5.read(written(tmp_path, compressed, **arrays), arrays)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        value = found[name]
        assert isinstance(value, np.ndarray)
        assert (value.dtype, value.shape) == (array.dtype, array.shape)
        assert np.array_equal(value, array)


@pytest.mark.parametrize("compressed", [False, True])
def test_the_numeric_fields_of_a_struct_are_read(tmp_path, compressed):
    fields = {"info": "text", "image": np.arange(6, dtype=np.uint8).reshape(2, 3), "in": {"it": 3}, "x": 2.5}
    found = mat5.read(written(tmp_path, compressed, data=fields, other=3), ["data"])
    assert found.keys() == {"data"}
    assert isinstance(found["data"], dict)
    assert found["data"].keys() == {"image", "x"}
    assert np.array_equal(found["data"]["image"], fields["image"])
    assert found["data"]["x"].tolist() == [[2.5]]


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_orders_of_bytes_and_shorter_numbers_than_they_stand_for(tmp_path, order):
    halves = element(4, np.array([1, 2, 300, 4, 5, 6], f"{order}u2").tobytes(), order)
    doubles = element(9, np.array([0.5, -1.5], f"{order}f8").tobytes(), order)
    small = struct.pack(f"{order}I", 3 << 16 | 2) + b"\x07\x08\x09\0"
    content = header(order) + matrix(order, 6, (3, 2), "a", halves) + matrix(order, 6, (1, 2), "b", doubles)
    packed = zlib.compress(matrix(order, 9, (3, 1), "c", small))
    content += struct.pack(f"{order}II", 15, len(packed)) + packed
    (tmp_path / "file.mat").write_bytes(content + matrix(order, 6, (1, 2), "d", doubles))
    found = mat5.read(tmp_path / "file.mat", "abcd")
    expected = {"a": [[1, 4], [2, 5], [300, 6]], "b": [[0.5, -1.5]], "c": [[7], [8], [9]], "d": [[0.5, -1.5]]}
    assert {name: np.asarray(value).tolist() for name, value in found.items()} == expected
    assert all(np.asarray(value).dtype.isnative for value in found.values())


def test_other_kinds_of_variables_are_passed_over(tmp_path):
    from scipy.sparse import csc_array

    others = {
        "text": "abc",
        "cells": np.array([1, "a"], object),
        "complex": np.array([1j]),
        "sparse": csc_array(np.eye(3)),
        "structs": np.array([(1,), (2,)], [("a", "O")]),
    }
    found = mat5.read(written(tmp_path, **others, a=np.eye(2)), [*others, "a"])
    assert found.keys() == {"a"}


def test_arrays_can_be_written_to(tmp_path):
    """PyTorch shares an array's memory without a warning only if it is writable."""
    for compressed in (False, True):
        found = mat5.read(written(tmp_path, compressed, a=np.arange(500, dtype=np.uint8)), "a")
        assert np.asarray(found["a"]).flags.writeable


ONE = element(2, b"\1")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no MATLAB 5 file"),
        (bytes(500), "is no MATLAB 5 file"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(500), "is no MATLAB 5 file"),
        (header("<") + b"\0", "is cut off"),
        (header("<") + matrix("<", 9, (1, 1), "a", ONE)[:-9], "is cut off"),
        (header("<") + matrix("<", 9, (1, 1), "a"), "is cut off"),
        (header("<") + element(9, bytes(8)), "an element of type 9 is where a matrix should be"),
        (header("<") + matrix("<", 9, (1, 2), "a", ONE), "1 numbers are no 1×2"),
        (header("<") + matrix("<", 9, (-1, -1), "a", ONE), r"a matrix has the size \[-1, -1\]"),
        (header("<") + matrix("<", 9, (1,), "a", ONE), r"a matrix has the size \[1\]"),
        (header("<") + matrix("<", 9, (1,) * 99, "a", ONE), "is damaged"),
        (header("<") + matrix("<", 9, (0, *[2**31 - 1] * 9), "a", element(2, b"")), "is damaged"),
        (header("<") + matrix("<", 8, (1, 1), "a", ONE), "numbers of type int8 are stored as uint8"),
        (header("<") + matrix("<", 9, (1, 1), "a", element(4, b"\1")), "1 bytes are no numbers of 2 bytes"),
        (header("<") + matrix("<", 9, (1, 1), "a", element(99, b"\1")), "an element of type 99"),
        (header("<") + matrix("<", 2, (1, 1), "a", element(5, bytes(4)), element(1, b"a")), "have no length"),
        (header("<") + struct.pack("<HHI", 2, 5, 0), "5 bytes are said to be in 4"),
    ],
)
def test_damage_is_named(tmp_path, content, words):
    (tmp_path / "file.mat").write_bytes(content)
    with pytest.raises(MatError, match=words):
        mat5.read(tmp_path / "file.mat", "a")


def test_what_unpacks_to_more_than_it_says_is_refused_before_all_of_it_is_there(tmp_path):
    packed = zlib.compress(element(14, bytes(8))[:8] + bytes(10**8))
    (tmp_path / "file.mat").write_bytes(header("<") + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(MatError, match="it unpacks to more than it says"):
        mat5.read(tmp_path / "file.mat", "a")


def test_structs_in_structs_are_not_gone_into(tmp_path):
    inner = matrix("<", 9, (1, 1), "", ONE)
    for _ in range(3000):
        inner = matrix("<", 2, (1, 1), "", element(5, struct.pack("<i", 2)), element(1, b"a\0"), inner)
    (tmp_path / "file.mat").write_bytes(header("<") + inner)
    assert mat5.read(tmp_path / "file.mat", [""]) == {"": {}}


def tried(file, content):
    """Return whether altered content is read; if not, the reader refuses it with one line."""
    file.write_bytes(content)
    try:
        mat5.read(file, ["X", "data"])
    except MatError as error:
        assert "\n" not in str(error)
        return False
    return True


@pytest.mark.parametrize("compressed", [False, True])
def test_any_altered_byte_is_refused_or_read(tmp_path, compressed):
    random = np.random.default_rng(1)
    image = random.integers(0, 256, (40, 30), np.uint8)
    file = written(
        tmp_path, compressed, X=image, data={"info": "text", "image": image, "label": np.arange(9.0)}
    )
    content = file.read_bytes()
    places = [*range(min(512, len(content))), *random.integers(0, len(content), 100)]
    found = []
    for place in places:
        for value in {content[place] ^ 1, content[place] ^ 128, int(random.integers(256))}:
            altered = bytearray(content)
            altered[place] = value
            found.append(tried(file, altered))
    assert True in found
    assert False in found


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_cut_off_anywhere_is_refused_or_read(tmp_path, compressed):
    file = written(tmp_path, compressed, X=np.arange(99.0), data={"image": np.arange(9)})
    content = file.read_bytes()
    found = [tried(file, content[:length]) for length in range(len(content))]
    assert found.count(True) <= 20  # the header alone, one of two variables, and padding that is not missed
