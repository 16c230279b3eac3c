"""A home of an earlier version: its queued runs, its checkpoints and its MLflow models go on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from end_to_end.harness import Service

from capsnet import checkpoint
from runner.states import State

pytestmark = pytest.mark.slow

ARCHIVE = Path(__file__).parents[1] / "data" / "home_938206b.tar.xz"
FINISHED, INTERRUPTED, QUEUED = 1, 2, 3

PREDICT = """
import sys, warnings
warnings.simplefilter("ignore")
import mlflow, numpy
model = mlflow.pyfunc.load_model(sys.argv[1])
print(model.predict(numpy.zeros((2, 1, 20, 20), dtype=numpy.float32)).shape)
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home as it was left."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "runs"


@pytest.fixture(scope="module")
def earlier(ray_folder: Path, unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Service:
    return Service(Path(shutil.copytree(unpacked, tmp_path_factory.mktemp("earlier") / "runs")))


def test_queued_runs_go_on_with_the_code_of_their_submission(earlier: Service) -> None:
    before = checkpoint.load(earlier.root / "2-interrupted" / "checkpoint.pt")["history"]
    assert len(before) == 35
    code = json.loads(earlier.call("show", QUEUED, "--json").stdout)["code"]
    earlier.call("up")
    earlier.call("wait", INTERRUPTED, QUEUED)
    for number in (INTERRUPTED, QUEUED):
        run = earlier.run(number)
        assert (run.state, run.durable_epoch, run.code) == (State.FINISHED, run.num_epochs, code)
    history = checkpoint.load(earlier.root / "2-interrupted" / "checkpoint.pt")["history"]
    assert [row["epoch"] for row in history] == list(range(1, earlier.run(INTERRUPTED).num_epochs + 1))
    assert history[:35] == before


def test_a_finished_run_goes_on_with_the_code_of_today(earlier: Service) -> None:
    epochs = earlier.run(FINISHED).num_epochs
    earlier.call("resume", FINISHED, "--new-code", "--set", f"num_epochs={epochs + 1}")
    earlier.call("wait", FINISHED)
    run = earlier.run(FINISHED)
    assert (run.state, run.durable_epoch) == (State.FINISHED, epochs + 1)
    history = checkpoint.load(earlier.root / "1-finished" / "checkpoint.pt")["history"]
    assert [row["epoch"] for row in history] == list(range(1, epochs + 2))


def test_a_checkpoint_evaluates_to_the_accuracy_that_was_noted(unpacked: Path) -> None:
    file = unpacked / "1-finished" / "checkpoint.pt"
    noted = checkpoint.load(file)["history"][-1]["test/accuracy"]
    words = [sys.executable, "-m", "capsnet", "evaluate", str(file), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["accuracy"] == pytest.approx(noted, abs=2 / 360)  # other processors


def test_a_model_that_mlflow_keeps_is_loaded(unpacked: Path, tmp_path: Path) -> None:
    (model,) = (unpacked / "artifacts" / "models").iterdir()
    environment = {**os.environ, "PYTHONPATH": ""}
    words = [sys.executable, "-c", PREDICT, str(model / "artifacts")]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout.strip() == "(2, 10)", done.stderr
