"""Benches run as programs, on sizes too small for meaningful figures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "bench"


@pytest.fixture(autouse=True)
def threads_as_they_were() -> Iterator[None]:
    """Restore PyTorch's number of threads, which training in this process sets."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., str]:
    """Function that runs the bench of a name in `tmp_path` and returns its output."""

    def program(name: str, *words: str) -> str:
        command = [sys.executable, str(FOLDER / f"{name}.py"), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=250, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return program


@pytest.fixture
def mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Function that runs a bench with wrong arguments in `tmp_path` and returns its one line of error."""

    def refused(module: ModuleType, *words: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *words])
        with pytest.raises(SystemExit) as left:
            module.run(module.main)
        assert left.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    return refused
