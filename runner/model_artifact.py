"""A trained network as an MLflow model: no pickle, and all that it needs to run anywhere.

The weights are taken from the checkpoint by a short-lived child process, so that the publisher, which
stays up, does not keep PyTorch in memory.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runner.held import own_folder
from runner.source import python_path
from runner.tracking import models_folder, quiet

if TYPE_CHECKING:
    from mlflow.models import Model

LOADER = "capsnet_pyfunc"  # in `runner`
NEEDED = ("torch", "numpy", "pydantic", "PyYAML")  # by capsnet's networks; MLflow adds itself
EXTRACT_SECONDS = 300.0


class ModelError(Exception):
    """A checkpoint could not be made into a model; one line."""


def save(checkpoint: Path, packages: Path, folder: Path, model: Model) -> None:
    """Write the network of a checkpoint to `folder` as the MLflow model `model`. Raises ModelError.

    `packages`: the folder of the packages that trained it, which read it, and travel inside the model.
    """
    with own_folder(models_folder()) as parent, quiet():
        data = parent / "network"  # under this name in the model
        data.mkdir()
        image, classes = _extract(checkpoint, packages, data)
        _save(data, packages, image, classes, folder, model)


def _save(
    data: Path, packages: Path, image: tuple[int, ...], classes: int, folder: Path, model: Model
) -> None:
    import mlflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    number = np.dtype(np.float32)
    mlflow.pyfunc.save_model(
        folder,
        loader_module=LOADER,
        data_path=str(data),
        code_paths=[str(packages / "runner" / f"{LOADER}.py"), str(packages / "capsnet")],
        mlflow_model=model,
        signature=ModelSignature(
            inputs=Schema([TensorSpec(number, (-1, *image))]),
            outputs=Schema([TensorSpec(number, (-1, classes))]),
        ),
        input_example=np.random.default_rng(0).random((1, *image), dtype=np.float32),
        # Given: to find them out, MLflow would need seconds, and PyTorch in this process.
        pip_requirements=[f"{name}=={_public_version(name)}" for name in NEEDED],
    )


def _public_version(package: str) -> str:
    """Return the version as an index knows it: a local build's "+cpu" is in none."""
    return importlib.metadata.version(package).partition("+")[0]


def _extract(checkpoint: Path, packages: Path, folder: Path) -> tuple[tuple[int, ...], int]:
    """Have a child write weights.npz and config.yaml; return an image's shape (C, H, W) and the classes."""
    # -P: a file in the current directory must not be imported in the place of a module.
    command = [sys.executable, "-P", "-m", "runner.model_artifact", str(checkpoint), str(folder)]
    # Beside a run in training, it takes neither its GPU nor its cores.
    settings = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **settings, "PYTHONPATH": python_path(packages, os.environ)}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=EXTRACT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"{checkpoint}: reading it took more than {EXTRACT_SECONDS:.0f} s") from error
    if done.returncode != 0:
        raise ModelError((done.stderr.strip().splitlines() or [f"{checkpoint}: exit {done.returncode}"])[-1])
    *image, classes = json.loads(done.stdout)
    return tuple(image), classes


def _write_weights(checkpoint: Path, folder: Path) -> list[int]:
    """Write weights.npz and config.yaml, in the child; return [channels, height, width, classes]."""
    import numpy as np

    from capsnet import checkpoint as checkpoints
    from capsnet import config as schema
    from capsnet.images import shape, whole

    try:
        state = checkpoints.load(checkpoint)
    except checkpoints.CheckpointError as error:
        sys.exit(str(error))
    config = schema.Config.model_validate(state["config"])
    (folder / "config.yaml").write_text(schema.to_yaml(config))
    np.savez(folder / "weights.npz", **{name: tensor.numpy() for name, tensor in state["model"].items()})
    size, dataset = shape(config.dataset), config.dataset
    sides = size.height, size.width
    if isinstance(dataset, schema.Photographs) and dataset.standardise == "first":
        sides = whole(dataset)  # of which it is told what the deviation is
    return [size.channels, *sides, size.classes]


if __name__ == "__main__":
    print(json.dumps(_write_weights(Path(sys.argv[1]), Path(sys.argv[2]))))
