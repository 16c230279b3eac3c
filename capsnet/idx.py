"""Reading the IDX files in which MNIST and its relatives are published.

http://yann.lecun.com/exdb/mnist: two zero bytes, a type (8: unsigned byte), the number of
dimensions, each dimension as a big-endian 32-bit number, then the values, row by row.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

UNSIGNED_BYTE = 8


class IdxError(Exception):
    """Error in an IDX file; the message is a few words that follow the file's name."""


def read(path: Path, dimensions: int) -> np.ndarray:
    """The array of unsigned bytes in an IDX file, packed by gzip or not.

    Raises IdxError when the file is damaged, of another kind, shorter or longer than it claims.
    """
    content = _content(path)
    header_size = 4 + 4 * dimensions
    if len(content) < header_size:
        raise IdxError(f"ends after {len(content)} bytes, within its header")
    zero, kind, found = struct.unpack(">HBB", content[:4])
    if zero != 0 or kind != UNSIGNED_BYTE or found != dimensions:
        raise IdxError(f"begins with {content[:4].hex()}, not with {UNSIGNED_BYTE << 8 | dimensions:08x}")
    shape = struct.unpack(f">{dimensions}I", content[4:header_size])
    values = len(content) - header_size
    if values != math.prod(shape):
        fault = "is cut off" if values < math.prod(shape) else "has bytes after its end"
        raise IdxError(f"{fault}: {values} values where its header says {math.prod(shape)}")
    return np.frombuffer(content, np.uint8, offset=header_size).reshape(shape)


def _content(path: Path) -> bytearray:
    """The unpacked bytes, writable, because PyTorch warns of arrays that are not."""
    try:
        raw = path.read_bytes()
        return bytearray(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise IdxError(f"cannot be unpacked: {error}") from error
    except OSError as error:
        raise IdxError(f"cannot be read: {error.strerror}") from error
