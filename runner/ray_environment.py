"""The environment of the local Ray, which it hands to every run of every home for as long as it is up.

So it is chosen here, and not inherited from the shell that happened to start it: a variable that was meant
for one command (a backend of matplotlib in a notebook, a PYTHONPATH, a number of threads) would change runs
that others submit days later. Left out, and so as good as unset for runs, is everything that PASSED does not
list. What belongs to one home (its tracking server, its keys, its proxy) goes with that home's runs instead
(runner.settings).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

from runner.private import VARIABLE

PACKAGES = ("ray", "torch", "mlflow")  # without which no run starts
# Each variable that is passed on, and why; a name that ends with * stands for all that begin so.
PASSED = {
    "HOME": "where this user's caches and ~/.pgpass are",
    "USER": "who this user is, where the system has no name for the number",
    "LOGNAME": "likewise",
    "SHELL": "likewise",
    "PATH": "where compilers and git are",
    "LD_LIBRARY_PATH": "where libraries are that PyTorch loads, as environment modules set it",
    "DYLD_LIBRARY_PATH": "likewise on macOS",
    "VIRTUAL_ENV": "which Python environment this is",
    "CONDA_PREFIX": "likewise; compilers look for headers there",
    "PYTHONNOUSERSITE": "whether packages of ~/.local count: runs must have those that the command has",
    "PYTHONUSERBASE": "likewise, and where they are",
    "LANG": "how text is encoded",
    "LC_*": "likewise",
    "TZ": "which time logs show",
    "TMPDIR": "where temporary files and this user's private folder are",
    "TEMP": "likewise",
    "TMP": "likewise",
    "XDG_*": "where caches and settings are",
    VARIABLE: "where this user's private folder is",
    "TORCHINDUCTOR_CACHE_DIR": "where compiled steps are kept",
    "TRITON_CACHE_DIR": "likewise",
    "CC": "which compilers there are",
    "CXX": "likewise",
    "CUDA_HOME": "where CUDA's compilers are",
    "CUDA_PATH": "likewise",
    "CUDA_VISIBLE_DEVICES": "which GPUs this Ray offers; each run sees those that it was given",
    "CUDA_DEVICE_ORDER": "what their numbers mean",
    "CUDA_MPS_PIPE_DIRECTORY": "how to reach GPUs that several processes share by MPS",
    "HIP_VISIBLE_DEVICES": "which of AMD's GPUs this Ray offers",
    "ROCR_VISIBLE_DEVICES": "likewise",
    "NCCL_*": "how GPUs of this machine talk to each other",
    "GLOO_SOCKET_IFNAME": "by which network interface the workers of one run talk",
    "CAPSNET_DATA": "where data sets are, for a queue on a server, which leaves that to each machine",
}


def chosen(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that the local Ray gets from the shell that starts it."""
    found = {name: value for name, value in environ.items() if is_passed(name)}
    if path := environ.get("PYTHONPATH"):
        found |= {"PYTHONPATH": path} if _is_needed(path) else {}
    return found


def is_passed(name: str) -> bool:
    return any(name.startswith(key[:-1]) if key.endswith("*") else name == key for key in PASSED)


def _is_needed(python_path: str) -> bool:
    """Return whether libraries come from there, as with environment modules: Ray could not start without."""
    folders = [Path(entry).absolute() for entry in python_path.split(os.pathsep) if entry]
    specs = map(importlib.util.find_spec, PACKAGES)
    origins = [Path(spec.origin) for spec in specs if spec is not None and spec.origin is not None]
    return any(origin.is_relative_to(folder) for origin in origins for folder in folders)
