"""Small data sets in the formats of the published ones, whose images tell their classes; training on them.

Letters of shapes: N images, C channels, S pixels a side.
"""

from __future__ import annotations

import gzip
import http.server
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np

from capsnet import training
from capsnet.config import Config

Handler = Callable[..., http.server.BaseHTTPRequestHandler]


def patterned(
    count: int, channels: int, side: int, classes: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, C, S, S], noise on a pattern for each class, and labels int64 [N], which take turns."""
    patterns = np.random.default_rng(7).integers(0, 200, (classes, channels, side, side))
    labels = np.arange(count) % classes
    noise = np.random.default_rng(seed).integers(0, 56, (count, channels, side, side))
    return (patterns[labels] + noise).astype(np.uint8), labels


def python2_pickle(images: np.ndarray, labels: list[int]) -> bytes:
    """A batch of CIFAR-10, labels and uint8 [N, 3072], as Python 2 and NumPy 1 have pickled it."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    rows, columns = images.shape
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    empty += number(0) + b"\x85" + text(b"b") + b"\x87R"
    kind = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
    kind += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    content = b"T" + struct.pack("<i", images.size) + images.tobytes()
    shape = number(rows) + number(columns) + b"\x86"
    array = empty + b"(" + number(1) + shape + kind + b"\x89" + content + b"tb"
    listed = b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\x02}(" + text(b"labels") + listed + text(b"data") + array + b"u."


def write_cifar10(root: Path, count: int = 20) -> dict[str, str]:
    """Six files under `root`, `count` images each; the MD5 sum of each by its name."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for seed, name in enumerate(names):
        images, labels = patterned(count, 3, 32, 10, seed)
        (folder / name).write_bytes(python2_pickle(images.reshape(count, -1), labels.tolist()))
    return {name: md5((folder / name).read_bytes()).hexdigest() for name in names}


def write_svhn(folder: Path, train: int = 100, test: int = 30) -> None:
    """Two files in `folder`; the digit 0 has the label 10."""
    from scipy.io import savemat

    folder.mkdir(parents=True, exist_ok=True)
    for seed, (part, count) in enumerate((("train", train), ("test", test))):
        images, digits = patterned(count, 3, 32, 10, seed)
        matrices = {
            "X": images.transpose(2, 3, 1, 0),
            "y": np.where(digits == 0, 10, digits)[:, None].astype(np.uint8),
        }
        savemat(folder / f"{part}_32x32.mat", matrices, do_compression=True)


def matrix_bytes(array: np.ndarray) -> bytes:
    """A binary matrix file, as NORB's page describes it; at least three dimensions are written."""
    magic = {"u1": 0x1E3D4C55, "i4": 0x1E3D4C54}[array.dtype.str[1:]]
    shape = [*array.shape, 1, 1][: max(3, array.ndim)]
    return struct.pack(f"<{2 + len(shape)}I", magic, array.ndim, *shape) + array.tobytes()


def write_smallnorb(root: Path, train: int = 60, test: int = 20, gzipped: bool = False) -> None:
    """Six files under `root`; the info of image n is [n % 10, n % 9, 2 n % 36, n % 6]."""
    folder = root / "smallnorb"
    folder.mkdir(parents=True)
    parts = {"5x46789x9x18x6x2x96x96-training": train, "5x01235x9x18x6x2x96x96-testing": test}
    for seed, (part, count) in enumerate(parts.items()):
        images, labels = patterned(count, 2, 96, 5, seed)
        numbers = np.arange(count)
        info = np.stack([numbers % 10, numbers % 9, 2 * numbers % 36, numbers % 6], axis=1)
        files = {"dat": images, "cat": labels.astype("<i4"), "info": info.astype("<i4")}
        for kind, array in files.items():
            path = folder / f"smallnorb-{part}-{kind}.mat"
            content = matrix_bytes(array)
            if gzipped:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content, 1))
            else:
                path.write_bytes(content)


def write_folder(root: Path, classes: int = 3, side: int = 16, train: int = 20, test: int = 6) -> None:
    """PNG files, `train` and `test` of each class; the classes are a, b, c ..."""
    from PIL import Image

    for seed, (part, count) in enumerate((("train", train), ("test", test))):
        images, labels = patterned(count * classes, 3, side, classes, seed)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = root / part / chr(ord("a") + label) / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(path)


def training_losses(dataset: dict[str, Any]) -> list[float]:
    """The loss of each epoch in which a small network is trained on a data set read from its files."""
    config = Config.model_validate(
        {
            "num_epochs": 3,
            "batch_size": 20,
            "threads": 1,
            "use_cuda": False,
            "dataset": dataset,
            "model": {"conv_channels": 8, "kernel_size": 7, "primary_types": 4, "decoder": {"hidden": [16]}},
        }
    )
    metrics = [progress.metrics for progress in training.train(config)]
    return [epoch["train/loss"] for epoch in metrics if epoch is not None]


@contextmanager
def served(handler: Handler) -> Iterator[str]:
    """The address of a server on this machine that answers by `handler`."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def files_of(folder: Path, asked: list[str] | None = None) -> Handler:
    """Answers with the files of a folder, and notes the paths that it was asked for."""

    class Noting(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if asked is not None:
                asked.append(self.path)
            super().do_GET()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name there
            pass

    return partial(Noting, directory=str(folder))
