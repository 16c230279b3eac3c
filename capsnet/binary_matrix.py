"""Reading the binary matrix files in which NORB is published.

https://cs.nyu.edu/~ylclab/data/norb-v1.0-small: all numbers little-endian with 32 bits; a magic number that
tells the type of the values, the number of dimensions, each dimension (three at least, those beyond the
number are 1), then the values, row by row.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path

import numpy as np

BYTES = 0x1E3D4C55
INTEGERS = 0x1E3D4C54
TYPES = {BYTES: np.dtype("u1"), INTEGERS: np.dtype("<i4")}


class MatrixError(Exception):
    """Error in a matrix file; the message is a few words that follow the file's name."""


def read(path: Path, kind: int, row: tuple[int, ...] = ()) -> np.ndarray:
    """The array [N, *row] in a file, packed by gzip or not; `kind` is BYTES or INTEGERS.

    Raises MatrixError when the file is damaged, of another kind or shape, shorter or longer than it claims.
    """
    return np.concatenate(list(parts(path, kind, row)))


def parts(path: Path, kind: int, row: tuple[int, ...], rows: int = 512) -> Iterator[np.ndarray]:
    """Yield the array that `read` returns in parts of at most `rows` rows; there is at least one part."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from _parts(file, kind, row, rows)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise MatrixError(f"cannot be unpacked: {error}") from error
    except OSError as error:
        raise MatrixError(f"cannot be read: {error.strerror}") from error


def _parts(file: BufferedIOBase, kind: int, row: tuple[int, ...], rows: int) -> Iterator[np.ndarray]:
    count = _count(file, kind, row)
    for first in range(0, count, rows):
        shape = (min(rows, count - first), *row)
        wanted = math.prod(shape) * TYPES[kind].itemsize
        content = bytearray(file.read(wanted))  # writable, because PyTorch warns of arrays that are not
        if len(content) < wanted:
            whole = first + len(content) * shape[0] // wanted
            raise MatrixError(f"is cut off: {whole} whole rows where its header says {count}")
        yield np.frombuffer(content, TYPES[kind]).reshape(shape)
    if file.read(1):
        raise MatrixError("has bytes after its end")


def _count(file: BufferedIOBase, kind: int, row: tuple[int, ...]) -> int:
    """Read the header and return the number of rows that it announces."""
    start = _bytes(file, 8)
    magic, dimensions = struct.unpack("<II", start)
    if magic != kind:
        raise MatrixError(f"begins with {start[:4].hex()}, not with {struct.pack('<I', kind).hex()}")
    if dimensions != 1 + len(row):
        raise MatrixError(f"has {dimensions} dimensions, not {1 + len(row)}")
    stored = max(3, dimensions)
    shape = struct.unpack(f"<{stored}I", _bytes(file, 4 * stored))[:dimensions]
    if shape[1:] != row or shape[0] == 0:
        found, expected = "×".join(map(str, shape)), "×".join(map(str, ("N", *row)))
        raise MatrixError(f"holds {found} values, not {expected}")
    return shape[0]


def _bytes(file: BufferedIOBase, count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise MatrixError("ends within its header")
    return content
