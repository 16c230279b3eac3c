"""Reading MATLAB's files of version 5, as far as data sets come in them: arrays and structs of numbers.

The format is published as "MAT-File Format". All lengths that a file names are checked against its bytes
before anything is read, so that a damaged file leads to an error and nothing worse. Arrays share the memory
that the file, or what it unpacks to, was read into: large ones are in memory once.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import numpy as np

Order = Literal["<", ">"]  # of bytes
Value = np.ndarray | dict[str, np.ndarray]  # an array, or the fields of a struct that are arrays

HEADER = 128  # bytes, of which the last four say the version and the order of bytes
ORDERS: dict[bytes, Order] = {b"\0\1IM": "<", b"\1\0MI": ">"}
PACKED, MATRIX = 15, 14  # types of elements
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
STRUCT = 2  # class of a matrix; those of numbers:
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
COMPLEX = 0x800  # flag of a matrix that has imaginary numbers, too
PIECE = 1 << 16  # bytes that are unpacked at a time


class MatError(Exception):
    """Error where a file is damaged or of another format; the message follows the file's name."""


def read(path: Path, names: Collection[str]) -> dict[str, Value]:
    """Read the variables `names` that the file holds as arrays of real numbers, or one struct with such.

    Raises OSError where the file cannot be read, MatError where it is damaged or none of version 5.
    """
    content = np.fromfile(path, np.uint8).data
    order = ORDERS.get(bytes(content[HEADER - 4 : HEADER]))
    if order is None:
        raise MatError("is no MATLAB 5 file")
    found, elements = {}, _Elements(content[HEADER:], order)
    while not elements.ended:
        name, value = _matrix(_elements_of(*_unpacked(*elements.following(), order), order))
        if name in names and value is not None:
            found[name] = value
    return found


class _Elements:
    """Reader of the elements that follow one another in `data`."""

    def __init__(self, data: memoryview, order: Order) -> None:
        self.data, self.place = data, 0
        self.order: Order = order

    @property
    def ended(self) -> bool:
        return self.place >= len(self.data)

    def following(self) -> tuple[int, memoryview]:
        """Return the type and bytes of the next element."""
        kind, start, size, self.place = self._tag()
        if start + size > len(self.data):
            raise MatError("is cut off")
        return kind, self.data[start : start + size]

    def _tag(self) -> tuple[int, int, int, int]:
        """Return the next element's type, its bytes' start and number, and the start of the one after it."""
        place = self.place
        if place + 8 > len(self.data):
            raise MatError("is cut off")
        kind, size = struct.unpack_from(f"{self.order}II", self.data, place)
        if kind >> 16:  # up to four bytes lie within the tag
            size, kind = kind >> 16, kind & 0xFFFF
            if size > 4:
                raise MatError(f"is damaged: {size} bytes are said to be in 4")
            return kind, place + 4, size, place + 8
        return kind, place + 8, size, place + 8 + size + (0 if kind == PACKED else -size % 8)

    def numbers(self) -> np.ndarray:
        """Return the next element, which must be of numbers: [count]."""
        kind, data = self.following()
        if kind not in STORED:
            raise MatError(f"is damaged: an element of type {kind} is where numbers should be")
        dtype = np.dtype(STORED[kind]).newbyteorder(self.order)
        if len(data) % dtype.itemsize:
            raise MatError(f"is damaged: {len(data)} bytes are no numbers of {dtype.itemsize} bytes each")
        return np.frombuffer(data, dtype) if len(data) else np.empty(0, dtype)

    def text(self) -> str:
        return self.following()[1].tobytes().decode("latin-1")


def _unpacked(kind: int, data: memoryview, order: Order) -> tuple[int, memoryview]:
    """Return an element as it is, or the one that is packed in it."""
    if kind != PACKED:
        return kind, data
    return _Elements(memoryview(_inflated(data, order)), order).following()


def _elements_of(kind: int, data: memoryview, order: Order) -> _Elements:
    """Return the elements that a matrix consists of; MatError where the element is no matrix."""
    if kind != MATRIX:
        raise MatError(f"is damaged: an element of type {kind} is where a matrix should be")
    return _Elements(data, order)


def _inflated(data: memoryview, order: Order) -> bytearray:
    """Unpack one element with its tag, which limits its length."""
    inflate, whole = zlib.decompressobj(), bytearray()
    try:
        for start in range(0, len(data), PIECE):
            whole += inflate.decompress(data[start : start + PIECE])
            if len(whole) >= 8 and len(whole) > 8 + struct.unpack_from(f"{order}II", whole)[1]:
                raise MatError("is damaged: it unpacks to more than it says")
    except zlib.error as error:
        raise MatError(f"is damaged ({error})") from error
    if not inflate.eof:
        raise MatError("is cut off")
    return whole


def _matrix(elements: _Elements, in_struct: bool = False) -> tuple[str, Value | None]:
    """Return a matrix's name and value; None for a kind that cannot be read here.

    A struct in a struct is such a kind: structs may be nested deeper than Python's calls can be.
    """
    if elements.ended:
        return "", None
    flags = elements.numbers()
    if flags.dtype.kind != "u" or not len(flags):
        raise MatError("is damaged: a matrix does not say its class")
    kind = int(flags[0]) & 0xFF
    if kind != STRUCT and kind not in CLASSES:
        return "", None
    shape, name = _shape(elements), elements.text()
    if int(flags[0]) & COMPLEX:
        return name, None
    if kind == STRUCT:
        return name, None if in_struct or math.prod(shape) != 1 else _fields(elements)
    return name, _array(elements.numbers(), np.dtype(CLASSES[kind]), shape)


def _shape(elements: _Elements) -> tuple[int, ...]:
    shape = tuple(elements.numbers().tolist())
    if len(shape) < 2 or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise MatError(f"is damaged: a matrix has the size {list(shape)[:8]}")
    return shape


def _array(values: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Return numbers, perhaps stored in a shorter type than `dtype`, as an array in column order."""
    if len(values) != math.prod(shape):
        raise MatError(f"is damaged: {len(values)} numbers are no {'×'.join(map(str, shape))}")
    if not np.can_cast(values.dtype, dtype):
        raise MatError(f"is damaged: numbers of type {dtype} are stored as {values.dtype}")
    try:
        return values.astype(dtype, copy=False).reshape(shape, order="F")
    except ValueError as error:  # more dimensions than NumPy has, or an empty one beside huge ones
        raise MatError(f"is damaged ({error})") from error


def _fields(elements: _Elements) -> dict[str, np.ndarray]:
    """Return the fields of a struct that are arrays of numbers."""
    lengths, names = elements.numbers(), elements.text()
    length = int(lengths[0]) if len(lengths) and lengths.dtype.kind in "iu" else 0
    if length < 1 or len(names) % length:
        raise MatError("is damaged: the names of a struct's fields have no length")
    fields = {}
    for start in range(0, len(names), length):
        _, value = _matrix(_elements_of(*elements.following(), elements.order), in_struct=True)
        if isinstance(value, np.ndarray):
            fields[names[start : start + length].partition("\0")[0]] = value
    return fields
