"""Objects in a store such as S3; the only file that knows fsspec, which it imports where there is one.

An object is whole or not there: it can be replaced, but neither renamed nor appended to.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from runner.loopback import bypass_proxies
from runner.redaction import has_password

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 20.0  # in which a request must be answered: the caller tries again
SLOWEST = 2**20  # bytes/s; what takes longer to copy than at this pace has failed
S3_OPTIONS = {
    "skip_instance_cache": True,  # one that was made for other variables
    "use_listings_cache": False,  # other processes write there
    "config_kwargs": {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": ANSWER_SECONDS,
        "retries": {"total_max_attempts": 1},
    },
}
UNREACHABLE = ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError")
INSTALL = "pip install 'capsnet-runner[s3]'"


class StorageError(OSError):
    """A storage cannot be used, or not at the moment; one line that names it."""


class NoAnswer(StorageError):  # noqa: N818 - the name says what happened
    """It does not answer: nor will it a moment later."""


class Item(NamedTuple):
    """One object, as a listing has it."""

    size: int  # bytes
    version: str  # changes with its content


class Objects:
    """The objects below a URL such as s3://bucket/prefix; their keys are relative to it.

    Any method may raise StorageError, after some seconds where nobody answers.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._files, self._root = _opened(url)

    def put(self, key: str, content: bytes | Path) -> None:
        """Write bytes, or the content of a file, to an object."""
        with self._one_line_errors():
            if isinstance(content, bytes):
                self._call("pipe_file", self._path(key), content, size=len(content))
            else:
                self._call("put_file", str(content), self._path(key), size=content.stat().st_size)

    def get(self, key: str) -> bytes | None:
        """Return the content of an object; None where there is no such object."""
        with self._one_line_errors(), suppress(FileNotFoundError):
            return self._call("cat_file", self._path(key))
        return None

    def fetch(self, key: str, file: Path, size: int = 0) -> bool:
        """Copy an object, which has so many bytes, to a file; return whether there is one."""
        with self._one_line_errors(), suppress(FileNotFoundError):
            self._call("get_file", self._path(key), str(file), size=size)
            return True
        file.unlink(missing_ok=True)
        return False

    def list(self, below: str) -> dict[str, Item]:
        """Return all objects whose keys begin with this folder's name, by key."""
        with self._one_line_errors():
            found = self._call("find", self._path(below), detail=True)
        start = len(self._root) + 1
        return {path[start:]: Item(info["size"], _version(info)) for path, info in found.items()}

    def folders(self) -> list[str]:
        """Return the names of the folders right below the URL."""
        with self._one_line_errors(), suppress(FileNotFoundError):
            found = self._call("ls", self._root, detail=True)
            return [
                info["name"].rstrip("/").rpartition("/")[2] for info in found if info["type"] == "directory"
            ]
        return []

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; one that is not there is none to worry about."""
        for key in keys:
            with self._one_line_errors(), suppress(FileNotFoundError):
                self._call("rm_file", self._path(key))

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _call(self, name: str, *arguments: Any, size: int = 0, **options: Any) -> Any:
        """Call a method of the file system, which must end in a time that its bytes allow.

        The library's own limits do not end a request whose server has accepted it and then hangs.
        """
        import asyncio  # only now: commands that need no store start without it

        if not self._files.async_impl:
            return getattr(self._files, name)(*arguments, **options)
        work = getattr(self._files, f"_{name}")(*arguments, **options)
        limit = ANSWER_SECONDS + size / SLOWEST
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, limit), self._files.loop).result()

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise StorageError(f"{self.url}: there is no such bucket") from error
        except PermissionError as error:
            raise StorageError(f"{self.url}: no permission: {_said(error)}") from error
        except TimeoutError as error:
            raise NoAnswer(f"{self.url} does not answer") from error
        except Exception as error:  # each kind of store has errors of its own; what counts is the words
            kind = type(error).__name__
            if kind in UNREACHABLE:
                raise NoAnswer(f"{self.url} does not answer") from error
            if kind in ("NoCredentialsError", "PartialCredentialsError"):
                raise StorageError(f"{self.url}: {_said(error)} (AWS_ACCESS_KEY_ID)") from error
            raise StorageError(f"{self.url}: {_said(error)}") from error


@functools.cache  # its connections serve all threads of a process
def _opened(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, and the path in it."""
    scheme, _, path = url.partition("://")
    if has_password(url):  # the queue's database keeps the URL, and all readers of the queue would see it
        raise StorageError(
            "RUNNER_STORAGE names a user or a password: leave them out and set the variables of the storage, "
            "such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if not path.strip("/"):
        raise StorageError(f"RUNNER_STORAGE={url}: name a bucket, as in {scheme}://BUCKET/PREFIX")
    bypass_proxies()
    try:
        import fsspec

        is_s3 = scheme in ("s3", "s3a")
        files, root = fsspec.core.url_to_fs(url, **(S3_OPTIONS if is_s3 else {}))
        if is_s3:
            files.retries = 1
    except ImportError as error:
        raise StorageError(
            f"RUNNER_STORAGE={url} needs a package that is not installed: {INSTALL}"
        ) from error
    except ValueError as error:
        raise StorageError(f"RUNNER_STORAGE={url}: {_said(error)}") from error
    return files, root.rstrip("/")


def _version(info: dict[str, Any]) -> str:
    known = (info.get(key) for key in ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created"))
    return f"{info['size']} {next(filter(None, known), '')}"


def _said(error: BaseException) -> str:
    said = getattr(error, "strerror", None) or str(error)
    return " ".join(said.split()) or type(error).__name__
