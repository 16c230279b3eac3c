"""Routing in Triton, for GPUs: in Triton's interpreter against float64, and compiled as for a GPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE

pytest.importorskip("triton", reason="comes with PyTorch's builds for GPUs")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMPILE = """\
import json, re, subprocess, sys, tempfile
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource
from capsnet import triton_agreement
from capsnet.triton_agreement import IMAGES, STAGES, TILES
sizes = dict(dim=8, dim_places=8, class_dim=16, class_places=16, count=8, images=IMAGES)
sizes |= dict(precision="tf32x3", tiles=TILES, constant=False)
capability, found = int(sys.argv[1]), {}
for name in ("_agree", "_gather", "_of_weight", "_of_capsules"):
    kernel = getattr(triton_agreement, name)
    given = {key: sizes[key] for key in kernel.arg_names if key in sizes}
    kinds = {key: "i32" if key in ("inputs", "batch", "classes") else "*fp32" for key in kernel.arg_names}
    # As Triton finds out when it is called: pointers, and here the sizes, are multiples of 16.
    multiples = {(place,): [["tt.divisibility", 16]] for place, key in enumerate(kinds) if key not in given}
    source = ASTSource(kernel, {**kinds, **dict.fromkeys(given, "constexpr")}, given, multiples)
    options = {"num_stages": STAGES, "enable_fp_fusion": True}
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as text:
        text.write(made.asm["ptx"])
        text.flush()
        target = re.search(r"\\.target (\\w+)", made.asm["ptx"])[1]
        command = [get_ptxas(capability).path, "-v", f"--gpu-name={target}", text.name, "-o", "/dev/null"]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spilled = sum(map(int, re.findall(r"(\\d+) bytes spill", report)))
    registers = int(re.search(r"Used (\\d+) registers", report)[1])
    found[name] = {"shared": made.metadata.shared, "registers": registers, "spilled": spilled}
print(json.dumps(found))
"""


def said(words: list[str], folder: Path, **variables: str) -> dict[str, Any]:
    """Run a Python process and return the JSON that it prints."""
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    environment = {**os.environ, **path, "TRITON_CACHE_DIR": str(folder), **variables}
    command = [sys.executable, "-W", "error", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", name="interpreted")
def _interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return said(["-m", "triton_agreeing"], tmp_path_factory.mktemp("triton"), TRITON_INTERPRET="1")


def test_layers_of_any_size_give_what_float64_gives_and_so_do_their_gradients(interpreted) -> None:
    assert len(interpreted["errors"]) == 4 * 4
    for case in interpreted["errors"]:
        assert all(error < 2e-5 for error in case["apart"]), case


def test_what_is_not_finite_stays_so_and_stays_in_its_image(interpreted) -> None:
    assert interpreted["spoilt"] == {"collected": [17], "of_capsules": [17], "of_outputs": [17]}


def test_a_kernel_that_fails_or_gives_other_results_is_not_taken_and_it_is_said_why(interpreted) -> None:
    verdicts = interpreted["verdicts"]
    assert verdicts.pop("Interpreted") is None
    [apart] = re.findall(
        r"^its results are (.+) apart from those of PyTorch's operations$", verdicts.pop("Wrong")
    )
    assert 1e-3 < float(apart) < 1e-1
    assert verdicts.pop("Undefined") == "its results are nan apart from those of PyTorch's operations"
    assert verdicts == {"Failing": "RuntimeError: out of resource: shared memory"}


@pytest.mark.parametrize("capability", [80, 90])
def test_it_can_be_compiled_for_gpus_and_leaves_room_for_several_at_once(capability, tmp_path) -> None:
    """Of a multiprocessor's 65,536 registers and 164 KiB of shared memory or more; 128 threads each.

    In batches that are multiples of 16.
    """
    kernels = said(["-c", COMPILE, str(capability)], tmp_path)
    assert len(kernels) == 4
    for name, made in kernels.items():
        assert made["spilled"] == 0, (name, made)
        assert 0 < 3 * 128 * made["registers"] <= 65_536, (name, made)
        assert 0 < 3 * made["shared"] <= 164 * 1024, (name, made)
