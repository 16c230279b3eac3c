"""Environment variables of the shell that starts the local Ray: which of them all later runs get."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from runner.ray_environment import PACKAGES, PASSED, chosen

KEPT = {
    "HOME": "/home/ada",
    "PATH": "/usr/bin",
    "LC_ALL": "C.UTF-8",
    "TMPDIR": "/scratch",
    "LD_LIBRARY_PATH": "/opt/cuda/lib64",
    "CUDA_VISIBLE_DEVICES": "1",
    "NCCL_SOCKET_IFNAME": "eth0",
    "XDG_CACHE_HOME": "/scratch/cache",
    "RUNNER_RAY_DIR": "/scratch/ray",
}
LEFT = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "JPY_PARENT_PID": "17",
    "COLAB_GPU": "1",
    "PYTHONPATH": "/home/ada/broken-tensorflow",
    "PYTHONSTARTUP": "/home/ada/.pythonrc",
    "PYTHONWARNINGS": "error",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "CUDA_LAUNCH_BLOCKING": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "GOMP_SPINCOUNT": "100000",
    "LD_PRELOAD": "/usr/lib/libprofiler.so",
    "http_proxy": "http://proxy:3128",
    "HTTPS_PROXY": "http://proxy:3128",
    "RAY_ADDRESS": "head:6379",
    "MLFLOW_TRACKING_URI": "http://db:5000",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "RUNNER_HOME": "/home/ada/runs",
    "RUNNER_DATABASE_URL": "postgresql+psycopg://runner:secret@db/runner",
    "TORCH_LOGS": "+dynamo",
    "DISPLAY": ":0",
}


def test_places_and_devices_reach_runs_and_what_was_meant_for_one_command_does_not() -> None:
    assert chosen(KEPT | LEFT) == KEPT


def test_each_variable_that_is_passed_on_has_a_reason() -> None:
    assert all(reason.strip() for reason in PASSED.values())
    assert not [name for name in PASSED if "*" in name[:-1]]


def test_a_python_path_from_which_ray_itself_comes_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clusters with environment modules provide libraries by such a path."""
    modules = tmp_path / "modules"
    (modules / PACKAGES[0]).mkdir(parents=True)
    (modules / PACKAGES[0] / "__init__.py").write_text("")
    path = os.pathsep.join(["/home/ada/own", str(modules)])
    assert chosen({"PYTHONPATH": path}) == {}
    monkeypatch.delitem(sys.modules, PACKAGES[0], raising=False)  # found anew, and not as imported before
    monkeypatch.syspath_prepend(modules)
    assert chosen({"PYTHONPATH": path}) == {"PYTHONPATH": path}


def test_the_documentation_lists_what_is_passed_on() -> None:
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    assert [name for name in PASSED if f"`{name}`" not in text] == []
