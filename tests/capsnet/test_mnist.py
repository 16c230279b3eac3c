"""Downloading what is missing of MNIST, from a server of our own."""

import gzip
import http.server
import struct
from contextlib import ExitStack
from hashlib import md5

import numpy as np
import pytest
import torchvision
from small_sets import files_of, served

from capsnet import mnist
from capsnet.images import DataError


def idx_bytes(values):
    values = np.asarray(values, np.uint8)
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def published(tmp_path):
    """The four files as they are published, in a folder."""
    folder = tmp_path / "published"
    folder.mkdir()
    for part, count in (("train", 5), ("t10k", 4)):
        images, labels = np.arange(count * 784).reshape(count, 28, 28) % 256, np.arange(count)
        for name, values in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(values)))
    return folder


@pytest.fixture
def serve(published, monkeypatch):
    """Has torchvision download from a server with a given handler; stops it at the end."""
    with ExitStack() as servers:

        def start(handler):
            address = servers.enter_context(served(handler))
            sums = [(file.name, md5(file.read_bytes()).hexdigest()) for file in sorted(published.iterdir())]
            monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"{address}/"])
            monkeypatch.setattr(torchvision.datasets.MNIST, "resources", sums)

        yield start


def test_only_what_is_missing_is_downloaded(published, serve, tmp_path):
    asked = []
    serve(files_of(published, asked))
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in published.iterdir():
        if file.name != "t10k-labels-idx1-ubyte.gz":
            (raw / file.name).write_bytes(file.read_bytes())
    train, test = mnist.load(tmp_path)
    assert (len(train), len(test)) == (5, 4)
    assert set(asked) == {"/t10k-labels-idx1-ubyte.gz"}


def test_a_connection_that_breaks_off_is_one_clear_line(serve, tmp_path):
    class BreakingOff(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"100\r\nfewer bytes than that")

    serve(BreakingOff)
    with pytest.raises(DataError, match=r"downloading failed \(IncompleteRead.*\): put the files there"):
        mnist.load(tmp_path)


def test_a_download_with_another_checksum_is_refused_and_not_kept(published, serve, tmp_path):
    serve(files_of(published))
    for file in published.iterdir():
        file.write_bytes(gzip.compress(b"something else"))
    with pytest.raises(DataError, match=r"raw lacks .* downloading failed \(File not found or corrupted"):
        mnist.load(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".download.lock", "published"]


def test_an_error_without_a_word_is_named_by_its_kind(tmp_path, monkeypatch):
    def fail(*_):
        raise TimeoutError

    monkeypatch.setattr(mnist, "_fetch", fail)
    with pytest.raises(DataError, match=r"downloading failed \(TimeoutError\)"):
        mnist.load(tmp_path)
