"""The class that stands in for an actor's where that cannot be imported."""

from __future__ import annotations

import pickle
import subprocess
import sys

import cloudpickle
import pytest

import capsnet
from runner.guest import guest
from runner.orders import Orders

ELSEWHERE = """
import pickle, sys
sys.modules.update(dict.fromkeys(sys.argv[3:]))  # these cannot be imported
cls = pickle.load(open(sys.argv[1], "rb"))
made = cls(sys.argv[2], pickle.dumps((1.0,)))
print(made.call("heard"), "runner" in sys.modules)
"""


@pytest.fixture
def sent(tmp_path):
    """What Ray sends to a node, in a file."""
    file = tmp_path / "class"
    file.write_bytes(cloudpickle.dumps(guest(Orders, restarted=False)))
    return file


def on_a_node(sent, *lacking: str, version: str = capsnet.__version__) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(sent), version, *lacking],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        timeout=60,
    )
    return done.stdout.strip()


def test_on_a_node_that_has_our_packages_the_call_is_passed_on(sent) -> None:
    assert on_a_node(sent) == "('answer', None) True"


def test_on_a_node_without_them_it_says_what_is_missing(sent) -> None:
    said = on_a_node(sent, "capsnet")
    assert said.startswith("('lack', 'ModuleNotFoundError: import of capsnet") and said.endswith("False")


def test_on_a_node_with_another_version_it_says_which(sent) -> None:
    said = on_a_node(sent, version="99.0")
    assert said.startswith("('lack'") and f"version {capsnet.__version__} is installed there" in said


def test_what_its_constructor_raises_is_what_the_node_lacks() -> None:
    made = guest(Orders, restarted=False)(capsnet.__version__, pickle.dumps((1, 2, 3)))
    kind, said = made.call("heard")
    assert kind == "lack" and said.startswith("TypeError")
