"""The logged model: without pickle, self-contained, and with the network's own answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generated import splits_of

from capsnet import augmentation, datasets, models, training
from capsnet import checkpoint as checkpoints
from capsnet import config as schema
from runner import model_artifact, source
from runner.capsnet_pyfunc import Classifier
from runner.tracking import quiet

PACKAGES = Path(model_artifact.__file__).parents[1]

# Loads the model in a process of its own, in an empty folder, like a user who has only the model.
LOAD = """
import json, sys
import mlflow, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
images = np.load(sys.argv[2])
import capsnet
answer = {"lengths": model.predict(images).tolist(), "example": np.asarray(model.input_example).shape}
answer |= {"capsnet": capsnet.__file__, "runner": "runner" in sys.modules}
try:
    model.predict(images[:, :, :8])
except mlflow.MlflowException as error:
    answer["refusal"] = str(error)
print(json.dumps(answer))
"""


def mlflow_model() -> Any:
    with quiet():
        from mlflow.models import Model

        return Model()


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logged") / "model"
    model_artifact.save(tiny_checkpoint, PACKAGES, folder, mlflow_model())
    return folder


def test_a_model_holds_the_code_of_the_run_and_not_that_of_the_publisher(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    files = dict(source.here().files)
    files["capsnet/__init__.py"] += b"# of the run\n"
    source.write(files, tmp_path / "code")
    model_artifact.save(tiny_checkpoint, tmp_path / "code", tmp_path / "model", mlflow_model())
    (held,) = (tmp_path / "model").glob("code/capsnet/__init__.py")
    assert held.read_bytes() == files["capsnet/__init__.py"]


def test_a_model_answers_as_the_network_does_wherever_it_is_loaded(
    model: Path, tiny_checkpoint: Path, tiny_config: str, tmp_path: Path
) -> None:
    images = np.random.default_rng(1).random((5, 1, 16, 16), dtype=np.float32)
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-P", "-c", LOAD, str(model), str(tmp_path / "images.npy")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)

    config = schema.parse(tiny_config)
    network = models.build(config, datasets.shape(config.dataset)).eval()
    network.load_state_dict(checkpoints.load(tiny_checkpoint)["model"])
    with torch.inference_mode():
        lengths = network(torch.from_numpy(images)).lengths
    np.testing.assert_allclose(answer["lengths"], lengths.numpy(), rtol=1e-5, atol=1e-7)
    assert Path(answer["capsnet"]).is_relative_to(model)
    assert not answer["runner"]
    assert answer["example"] == [1, 1, 16, 16]
    assert "(-1, 1, 16, 16)" in answer["refusal"]


def test_a_model_holds_no_pickle_and_its_requirements_can_be_installed(model: Path) -> None:
    files = {path.relative_to(model).as_posix() for path in model.rglob("*")}
    assert {
        "MLmodel",
        "data/network/weights.npz",
        "data/network/config.yaml",
        "code/capsnet/models.py",
    } <= files
    assert not [file for file in files if file.endswith((".pkl", ".pt", ".pyc"))]
    requirements = (model / "requirements.txt").read_text().splitlines()
    assert {line.partition("==")[0] for line in requirements} == {
        "mlflow",
        "numpy",
        "pydantic",
        "PyYAML",
        "torch",
    }
    assert "+" not in "".join(requirements)


def test_a_damaged_checkpoint_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"cut off")
    with pytest.raises(model_artifact.ModelError, match=r"^\S*checkpoint.pt is not a checkpoint[^\n]*$"):
        model_artifact.save(tmp_path / "checkpoint.pt", PACKAGES, tmp_path / "model", mlflow_model())


def test_a_model_standardises_images_as_its_network_was_trained(tmp_path: Path) -> None:
    config = schema.parse("dataset: {name: cifar10}\nmodel: {conv_channels: 4, primary_types: 2}")
    network = models.build(config, datasets.shape(config.dataset)).eval()
    (tmp_path / "config.yaml").write_text(schema.to_yaml(config))
    np.savez(tmp_path / "weights.npz", **{name: w.numpy() for name, w in network.state_dict().items()})
    images = np.random.default_rng(2).random((3, 3, 24, 24), dtype=np.float32)
    mean, deviation = (f(images.reshape(3, -1), axis=1).reshape(3, 1, 1, 1) for f in (np.mean, np.std))
    with torch.inference_mode():
        lengths = network(torch.from_numpy((images - mean) / deviation)).lengths
    np.testing.assert_allclose(Classifier(tmp_path).predict(images), lengths.numpy(), rtol=1e-4)


def test_a_model_that_standardises_first_takes_whole_images(tmp_path: Path) -> None:
    text = "dataset: {name: smallnorb, standardise: first, brightness: 2}\nnum_epochs: 1\n"
    text += "batch_size: 8\nmodel: {conv_channels: 4, primary_types: 2, decoder: {hidden: [8]}}\n"
    text += "use_cuda: false\nthreads: 1\n"
    config = schema.parse(text)
    splits = splits_of(config.dataset, train=8, test=3)
    *_, end = training.train(config, splits=splits)
    checkpoints.save(end.snapshot(), tmp_path / "checkpoint.pt")
    data = tmp_path / "network"
    data.mkdir()
    shape = model_artifact._write_weights(tmp_path / "checkpoint.pt", data)
    assert shape == [2, 48, 48, 5]
    whole = splits.train[:3]
    images = whole.images.numpy().astype(np.float32) / 255
    tested = augmentation.cropped(whole, config.dataset)
    with torch.inference_mode():
        expected = end.network.eval()(augmentation.for_test(tested, config.dataset).inputs).lengths
    np.testing.assert_allclose(Classifier(data).predict(images), expected.numpy(), rtol=1e-4)
