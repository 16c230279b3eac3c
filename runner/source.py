"""The source of our packages as one value, named by its content: read, packed, unpacked.

Standard library only, and nothing of ours: it travels to nodes on which nothing of ours is installed
(`runner.guest`).
"""

from __future__ import annotations

import bz2
import hashlib
import importlib
import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

PACKAGES = ("capsnet", "runner")
LEFT_OUT = ("~", ".pyc", ".pyo")  # endings of what editors and Python leave beside the source
LARGEST = 16_000_000  # bytes in all; it is twenty times as much as there is, and goes through the database
LARGEST_TAR = 4 * LARGEST  # bytes of a .tar of it, with a kilobyte or two around each file
KINDS = {
    tarfile.SYMTYPE: "a link",
    tarfile.LNKTYPE: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a folder",
}
SHORT = 12  # signs of a name, for people


def short(digest: str | None) -> str:
    """Return a name of source for people."""
    return digest[:SHORT] if digest else "not known"


class SourceError(Exception):
    """Source cannot be read, unpacked or used; one line."""


class Archive(NamedTuple):
    """Packed source, and its name."""

    digest: str
    data: bytes

    def files(self) -> dict[str, bytes]:
        """Return the files in the archive, by name. Raises SourceError where the archive is damaged."""
        files = unpack(self.data)
        if (found := digest(files)) != self.digest:
            raise SourceError(f"code {self.digest} is damaged: what is kept of it is {found}")
        return files


class Source:
    """Files by their name from the folder of the packages on: `capsnet/routing.py`."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files
        self.digest = digest(files)

    @cached_property  # packing takes longer than all the rest, and most code is in the queue already
    def archive(self) -> Archive:
        return Archive(self.digest, pack(self.files))


def here() -> Source:
    """The source of which this process imports our packages. Raises SourceError where it cannot be read."""
    try:
        return Source(read({package: folder(package) for package in PACKAGES}))
    except OSError as error:  # such as a file that an editor replaces at this moment
        raise SourceError(f"{error.filename}: the source cannot be read: {error.strerror}") from error


def folder(package: str) -> Path:
    """Return the folder from which a package is imported."""
    file = importlib.import_module(package).__file__
    if file is None or not Path(file).is_file():
        raise SourceError(f"{package} is imported from {file}, which is no folder of source files")
    return Path(file).parent


def python_path(place: Path, environment: Mapping[str, str]) -> str:
    """PYTHONPATH for processes that are to import our packages from this folder."""
    named = environment.get("PYTHONPATH")
    return str(place) + (os.pathsep + named if named else "")


def read(packages: Mapping[str, Path]) -> dict[str, bytes]:
    """Return the files of packages in these folders, without what Python and editors leave there.

    Raises OSError, and SourceError where they are too large to be source.
    """
    files, size = {}, 0
    for package, top in packages.items():
        for path in _walk(top):
            size += path.stat().st_size
            if size > LARGEST:
                raise SourceError(
                    f"the source of {package} is larger than {LARGEST // 1_000_000} MB: move what is no "
                    f"source out of {top}, such as {path}"
                )
            files[f"{package}/{path.relative_to(top).as_posix()}"] = path.read_bytes()
    return files


def _walk(top: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(top):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        for name in names:
            path = Path(place, name)
            if not name.startswith(".") and not name.endswith(LEFT_OUT) and path.is_file():
                yield path


def digest(files: Mapping[str, bytes]) -> str:
    """Return the name of source: the same for files of the same names and content, in whatever order."""
    whole = hashlib.sha256()
    for name in sorted(files):
        encoded = name.encode(errors="surrogateescape")
        whole.update(b"%d %d " % (len(encoded), len(files[name])) + encoded + files[name])
    return whole.hexdigest()


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return the files as a .tar.bz2: half the size of a .zip, in a quarter of the time of a .tar.xz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2") as tar:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)  # without owner, mode and time of the file
            entry.size = len(files[name])
            tar.addfile(entry, io.BytesIO(files[name]))
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, bytes]:
    """Return the files in what `pack` has made. Raises SourceError for anything else, and writes nothing."""
    try:
        with tarfile.open(fileobj=io.BytesIO(_decompressed(data)), mode="r:") as tar:
            return {entry.name: _content(tar, entry) for entry in tar}
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise SourceError(f"the archive of the code is damaged: {error}") from error


def _decompressed(data: bytes) -> bytes:
    """A .tar.bz2 as a .tar, of which no more is made than source can take: 1 kB can stand for gigabytes."""
    decompressor = bz2.BZ2Decompressor()
    tar = decompressor.decompress(data, LARGEST_TAR + 1)
    if len(tar) > LARGEST_TAR:
        raise SourceError(f"the archive of the code is larger than {LARGEST_TAR // 1_000_000} MB unpacked")
    if not decompressor.eof:
        raise EOFError("it was cut off")
    return tar


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    """Return the content of a file in the archive.

    Raises SourceError for an entry that is no plain file, is too large or lies outside of our packages.
    """
    parts = PurePosixPath(entry.name).parts
    if not parts or parts[0] not in PACKAGES or ".." in parts or "\0" in entry.name:
        raise SourceError(f"the archive of the code holds {entry.name!r}, which is no file of our packages")
    if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or entry.issparse():
        kind = KINDS.get(entry.type, "no plain file")
        raise SourceError(f"the archive of the code holds {entry.name!r}, which is {kind}")
    if entry.size > LARGEST:
        raise SourceError(f"the archive of the code holds {entry.name!r} of {entry.size:,} bytes")
    content = tar.extractfile(entry)
    assert content is not None, "a plain file has content"
    return content.read()


def write(files: Mapping[str, bytes], target: Path) -> None:
    """Write the files below a folder."""
    for name, content in files.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
