"""The class that replaces an actor's class and brings its code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE
from ray.cloudpickle import cloudpickle

from runner import cluster, source
from runner.guest import guest
from runner.source import Source

assert cluster.guests  # which lets travel what the class needs

ELSEWHERE = """
import json, pickle, sys, tempfile
tempfile.tempdir = sys.argv[2]
sys.modules.update(dict.fromkeys(sys.argv[4:]))  # these cannot be imported
made = pickle.load(open(sys.argv[1], "rb"))(sys.argv[3])
said = made.call("heard")
print(json.dumps([*said, sys.modules["runner"].__file__ if sys.modules.get("runner") else None]))
"""
OnANode = Callable[..., list[Any]]


@pytest.fixture
def on_a_node(tmp_path: Path) -> OnANode:
    """Function that makes `Orders` of given source in a process without our packages; returns its output."""

    def call(*lacking: str, arguments: str = "[1.0]", **edited: str) -> list[Any]:
        files = dict(source.here().files)
        files |= {f"{name.replace('__', '/')}.py": text.encode() for name, text in edited.items()}
        sent = tmp_path / "class"
        sent.write_bytes(
            cloudpickle.dumps(guest("runner.orders", "Orders", Source(files).archive, restarted=False))
        )
        done = subprocess.run(
            [sys.executable, "-P", "-c", ELSEWHERE, str(sent), str(tmp_path), arguments, *lacking],
            env={
                key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RUNNER_RAY_DIR")
            },
            capture_output=True,
            text=True,
            check=True,
            cwd="/",
            timeout=PATIENCE,
        )
        return json.loads(done.stdout)

    return call


def test_a_node_runs_the_code_that_was_sent_and_passes_the_call_on(
    on_a_node: OnANode, tmp_path: Path
) -> None:
    kind, answer, file = on_a_node(
        runner__orders="class Orders:\n def __init__(self, n): pass\n heard = lambda s: 7"
    )
    assert (kind, answer) == ("answer", 7)
    assert Path(file).is_relative_to(tmp_path)


def test_a_node_says_which_library_it_lacks(on_a_node: OnANode) -> None:
    kind, said, _ = on_a_node("pydantic", runner__orders="import pydantic\n")
    assert kind == "lack" and said.startswith("ModuleNotFoundError: import of pydantic halted")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def broken(:\n", "SyntaxError: invalid syntax (orders.py, line 1)"),
        (
            "from runner.paths import nothing\n",
            "ImportError: cannot import name 'nothing' from 'runner.paths'",
        ),
        ("import capsnet.nowhere\n", "ModuleNotFoundError: No module named 'capsnet.nowhere'"),
        ("limit = undefined\n", "NameError: name 'undefined' is not defined (orders.py, line 1)"),
    ],
)
def test_what_is_wrong_with_the_code_is_no_fault_of_the_node(
    on_a_node: OnANode, text: str, said: str
) -> None:
    kind, found, _ = on_a_node(runner__orders=text)
    assert kind == "fault" and found.startswith(said)


def test_a_folder_that_the_node_does_not_see_is_its_own_lack(on_a_node: OnANode) -> None:
    kind, said, _ = on_a_node(runner__orders="open('/nowhere/at/all')\n")
    assert kind == "lack" and said.startswith("FileNotFoundError")


def test_arguments_of_another_version_are_a_fault_in_one_line(on_a_node: OnANode) -> None:
    kind, said, _ = on_a_node(arguments="[1, 2, 3]")
    assert kind == "fault" and said.startswith("TypeError") and "\n" not in said
