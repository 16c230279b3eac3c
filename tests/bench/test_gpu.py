"""bench/gpu.sh without a GPU: its messages, that a part's failure stops no other part, and a trial."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from patience import PATIENCE

SCRIPT = Path(__file__).parents[2] / "bench/gpu.sh"
PARTS = {"measure": 17, "accuracy": 1, "results": 2}
COMPILED = {"measure": 5}  # of them: those that are nothing without compilation


def called(folder: Path, *words: str, seconds: float = PATIENCE, **variables: str) -> tuple[int, str]:
    """Run bench/gpu.sh; return its exit status and its output."""
    environment = os.environ | {"PYTHON": sys.executable, "OUT": str(folder)} | variables
    done = subprocess.run(
        ["bash", str(SCRIPT), *words], env=environment, capture_output=True, text=True, timeout=seconds
    )
    assert done.stderr == ""  # or a pipe would lose it
    return done.returncode, done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_says_so_and_measures_nothing(tmp_path: Path) -> None:
    code, said = called(tmp_path)
    assert (code, said) == (2, f"{sys.executable} has no PyTorch that sees a GPU: name another by PYTHON=\n")


def test_an_unknown_word_is_one_line(tmp_path: Path) -> None:
    code, said = called(tmp_path, "everything", TRIAL="1")
    assert (code, said) == (2, "everything: must be measure, accuracy, results or nothing\n")


@pytest.mark.parametrize("word", ["measure", "accuracy", "results"])
def test_a_part_that_fails_keeps_no_other_from_running(tmp_path: Path, word: str) -> None:
    code, said = called(tmp_path, word, TRIAL="1", PYTHON="false")
    assert code == 1
    assert "no, and nothing is compiled in what follows" in said
    first, last = said.split("== what did not work\n")
    failed = [line for line in first.splitlines() if line == "failed: exit 1"]
    assert len(failed) == PARTS[word] - COMPILED.get(word, 0)
    assert last.splitlines()[0] == "PyTorch cannot compile" and len(last.splitlines()) == 1 + len(failed)


def test_what_there_is_no_time_for_is_left_out_and_named(tmp_path: Path) -> None:
    code, said = called(tmp_path, "results", TRIAL="1", LIMIT="0")
    assert code == 1
    assert said.count("left out: no time") == 2
    assert said.count("left out: ") == 4


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("word", [pytest.param("accuracy", marks=pytest.mark.rehearsal), "results"])
def test_a_trial_without_a_gpu_has_its_results(tmp_path: Path, word: str) -> None:
    code, said = called(tmp_path, word, seconds=800, TRIAL="1", LIMIT="700")
    assert code == 0, said
    assert said.count("test error ± sd") == PARTS[word]
    assert len(list(tmp_path.glob("*/*.csv"))) == {"accuracy": 6, "results": 6}[word]


@pytest.mark.rehearsal
@pytest.mark.timeout(2400)
def test_a_trial_without_a_gpu_measures_everything(tmp_path: Path) -> None:
    code, said = called(tmp_path, "measure", seconds=2300, TRIAL="1", LIMIT="2200")
    assert code == 0, said
    assert {path.name for path in tmp_path.iterdir()} == {"kernels-gpu.png", "roofline-gpu.png"}
