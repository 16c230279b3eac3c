"""A service for each test module, and an experiment small enough for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from end_to_end.harness import SMALL, Service

from runner import local_ray


@pytest.fixture(scope="module")
def ray_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The record of a local Ray of the tests' own; whatever runs in it at the end is ended."""
    folder = tmp_path_factory.mktemp("ray")
    before = os.environ.get("RUNNER_RAY_DIR")
    os.environ["RUNNER_RAY_DIR"] = str(folder)
    try:
        yield folder
    finally:
        if (ray := local_ray.recorded()) is not None:  # also one that still starts
            local_ray.stop(ray)
        if before is None:
            del os.environ["RUNNER_RAY_DIR"]
        else:
            os.environ["RUNNER_RAY_DIR"] = before


@pytest.fixture(scope="module")
def service(ray_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A home whose local Ray offers four logical GPUs; no GPU is needed for that."""
    return Service(tmp_path_factory.mktemp("home"), {"RUNNER_GPUS": "4"})


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A network that trains an epoch of the digits in a fraction of a second."""
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    return file
