"""Files that grow, in a store whose objects do not: a first piece under the file's own name, then others.

All pieces but the last are of one size. So a file that is shorter than a piece is an object like any other,
and of a longer one only the last piece is written anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from runner.objects import Item, Objects

PIECE_BYTES = 4 * 2**20
PIECE = re.compile(r"(?P<key>.*)\.piece-(?P<number>\d{6})")


def key_of(key: str, number: int) -> str:
    """Return the key of a piece (from 0) of the file with this key."""
    return f"{key}.piece-{number:06d}" if number else key


def whole(items: Mapping[str, Item]) -> dict[str, int]:
    """Return the files in a listing, by key, with their bytes: pieces count as what they are pieces of."""
    sizes: dict[str, int] = {}
    for key, item in items.items():
        found = PIECE.fullmatch(key)
        file = found["key"] if found else key
        sizes[file] = sizes.get(file, 0) + item.size
    return sizes


def upload(objects: Objects, key: str, file: Path, start: int) -> int:
    """Copy a file from byte `start` on, where all before that is there; return the byte copied up to."""
    with file.open("rb") as content:
        for number in range(start // PIECE_BYTES, 1 + content.seek(0, os.SEEK_END) // PIECE_BYTES):
            content.seek(number * PIECE_BYTES)
            piece = content.read(PIECE_BYTES)
            if piece or not number:
                objects.put(key_of(key, number), piece)
            start = number * PIECE_BYTES + len(piece)
    return start


def download(objects: Objects, key: str, size: int, file: Path) -> None:
    """Complete a file, which holds a beginning, to so many bytes; several processes may do so at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for at, piece in _pieces(objects, key, os.fstat(descriptor).st_size, size):
            os.pwrite(descriptor, piece, at)
    finally:
        os.close(descriptor)


def _pieces(objects: Objects, key: str, start: int, size: int) -> Iterator[tuple[int, bytes]]:
    for number in range(start // PIECE_BYTES, -(-size // PIECE_BYTES) if size > start else 0):
        if (piece := objects.get(key_of(key, number))) is not None:
            yield number * PIECE_BYTES, piece
