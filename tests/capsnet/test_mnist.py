"""Downloading what is missing of MNIST, from a server of our own."""

import gzip
import http.server
import struct
import threading
from functools import partial
from hashlib import md5

import numpy as np
import pytest
import torchvision

from capsnet import mnist
from capsnet.images import DataError, ImageShape

SHAPE = ImageShape(channels=1, height=2, width=3, classes=10)


def idx_bytes(values):
    values = np.asarray(values, np.uint8)
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def published(tmp_path):
    """The four files as they are published, in a folder."""
    folder = tmp_path / "published"
    folder.mkdir()
    for part, count in (("train", 5), ("t10k", 4)):
        images, labels = np.arange(count * 6).reshape(count, 2, 3), np.arange(count)
        for name, values in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(values)))
    return folder


@pytest.fixture
def serve(published, monkeypatch):
    """Has torchvision download from a server with a given handler; stops it at the end."""
    servers = []

    def start(handler):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sums = [(file.name, md5(file.read_bytes()).hexdigest()) for file in sorted(published.iterdir())]
        monkeypatch.setattr(
            torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"]
        )
        monkeypatch.setattr(torchvision.datasets.MNIST, "resources", sums)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_only_what_is_missing_is_downloaded(published, serve, tmp_path):
    asked = []

    class Noting(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

    serve(partial(Noting, directory=str(published)))
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in published.iterdir():
        if file.name != "t10k-labels-idx1-ubyte.gz":
            (raw / file.name).write_bytes(file.read_bytes())
    train, test = mnist.load(tmp_path, "MNIST", SHAPE)
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
        mnist.load(tmp_path, "MNIST", SHAPE)


def test_an_error_without_a_word_is_named_by_its_kind(tmp_path, monkeypatch):
    def fail(*_):
        raise TimeoutError

    monkeypatch.setattr(mnist, "_fetch", fail)
    with pytest.raises(DataError, match=r"downloading failed \(TimeoutError\)"):
        mnist.load(tmp_path, "MNIST", SHAPE)
