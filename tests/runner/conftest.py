"""Fixtures of several test files: a queue with a scheduler, and files made once as they take seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_harness import Lab
from stand_in_ray import Starts, stand_in

from runner import local_ray, tracking
from runner.paths import Home

TINY = """
dataset: {name: digits, size: 16}
num_epochs: 3
threads: 1
model: {conv_channels: 8, kernel_size: 5, primary_types: 2, class_dim: 4, decoder: {hidden: [16]}}
"""


@pytest.fixture(scope="session")
def tiny_config() -> str:
    """The YAML of `tiny_checkpoint`."""
    return TINY


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a network after three epochs of a few random images, with its history beside it."""
    import torch

    from capsnet import checkpoint, config, training
    from capsnet.images import Images, Splits

    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (48, 1, 16, 16), generator=draw, dtype=torch.uint8)
    images = Images(pixels, torch.arange(48) % 10)
    *_, last = training.train(config.parse(TINY), splits=Splits(images[:32], None, images[32:]))
    path = tmp_path_factory.mktemp("attempt") / "checkpoint.pt"
    checkpoint.save(last.snapshot(), path)
    return path


@pytest.fixture(scope="session")
def new_mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store without runs, to be copied."""
    home = Home(tmp_path_factory.mktemp("template"))
    tracking.Tracker(tracking.target(home, {})).check()
    return home.mlflow_database


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Lab]:
    """A queue whose scheduler seems to live, and its command line."""
    lab = Lab(tmp_path, monkeypatch, capsys)
    lab.serve()
    yield lab
    lab.close()


@pytest.fixture
def ray_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the record of this test's own local Ray."""
    monkeypatch.setenv("RUNNER_RAY_DIR", str(tmp_path / "ray"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return local_ray.folder()


@pytest.fixture
def starts(ray_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Starts]:
    with stand_in(tmp_path, monkeypatch) as starts:
        yield starts
