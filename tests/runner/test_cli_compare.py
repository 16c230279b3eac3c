"""`compare` and `show --diff`: differences between runs, side by side."""

from __future__ import annotations

import json

import pytest
from cli_harness import TINY, Lab

from runner import exits, source
from runner.rows import NewRun
from runner.states import State


@pytest.fixture
def compared(lab: Lab) -> Lab:
    """Two runs that differ in the learning rate, the precision and the machine, and one like the first."""
    for number, settings in enumerate((["optim.lr=0.5"], ["precision=bfloat16"], ["optim.lr=0.5"]), start=1):
        lab.call("submit", lab.file(), *(word for setting in settings for word in ("--set", setting)))
        lab.start(number)
        lab.report(number, epoch=10, metrics={"test/accuracy": 0.9 + number / 100, "test/loss": 0.25})
        lab.report(number, host="far" if number == 2 else "near", computes=f"{settings[0]} on the CPU")
        lab.end(number, State.FINISHED)
    return lab


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line]


def test_compare_shows_what_differs_and_all_metrics(compared: Lab) -> None:
    done = compared.call("compare", 1, 2)
    assert done.code == 0
    found = lines(done.out)
    assert found[:4] == [
        ["RUN", "1", "2"],
        ["name", "tiny", "tiny"],
        ["state", "FINISHED", "FINISHED"],
        ["epoch", "10/10", "10/10"],
    ]
    assert found[4:7] == [
        ["configuration"],
        ["precision", "float32", "bfloat16"],
        ["optim.lr", "0.5", "0.001"],
    ]
    assert ["host", "near", "far"] in found
    assert found[-3:] == [["metrics"], ["test/accuracy", "0.91", "0.92"], ["test/loss", "0.25", "0.25"]]
    assert "seed" not in done.out  # which is the same


def test_show_diff_compares_with_one_other_run(compared: Lab) -> None:
    assert compared.call("show", 1, "--diff", 2) == compared.call("compare", 1, 2)
    done = compared.call("show", "1-2", "--diff", 3)
    assert (done.code, done.err) == (2, "--diff is of one run: `python -m runner compare` takes several\n")


def test_runs_with_one_configuration_are_said_to_be_alike(compared: Lab) -> None:
    done = compared.call("compare", 1, 3)
    assert "the configurations are alike\n" in done.err
    assert ["configuration"] not in lines(done.out)


def test_three_runs_are_compared_and_a_key_that_one_lacks_is_a_hyphen(compared: Lab) -> None:
    compared.submit(TINY + "model: {name: cnn}\nrunner: {tags: {a: b}}\n")
    found = lines(compared.call("compare", "1-2", 4).out)
    assert ["model.name", "capsnet", "capsnet", "cnn"] in found
    assert ["model.class_dim", "16", "16", "-"] in found
    assert ["a", "-", "-", "b"] in found
    assert ["test/accuracy", "0.91", "0.92", "-"] in found


def test_json_leaves_out_what_a_run_has_not(compared: Lab) -> None:
    compared.submit(TINY + "model: {name: cnn}\n")
    found = json.loads(compared.call("compare", 1, 4, "--json").out)
    assert [run["id"] for run in found["runs"]] == [1, 4]
    assert found["runs"][0]["config"]["optim"]["lr"] == 0.5
    assert found["differences"]["configuration"]["optim.lr"] == {"1": 0.5, "4": 0.001}
    assert found["differences"]["configuration"]["model.class_dim"] == {"1": 16}
    assert found["metrics"]["test/accuracy"] == {"1": 0.91}


def test_files_of_the_code_that_differ_are_named(compared: Lab) -> None:
    edited = source.Source({**source.here().files, "capsnet/capsules.py": b"# edited\n"})
    other = NewRun(name="tiny", config=compared.run(1).config, num_epochs=10, code=edited.digest)
    assert compared.store.add([other], compared.store.now(), edited) == [4]
    done = compared.call("compare", 1, 4)
    assert "other code in capsnet/capsules.py: " in done.err
    assert json.loads(compared.call("compare", 1, 4, "--json").out)["differences"]["code_files"] == [
        "capsnet/capsules.py"
    ]


@pytest.mark.parametrize("words", [["1"], ["1", "1"]])
def test_one_run_alone_is_not_compared(compared: Lab, words: list[str]) -> None:
    done = compared.call("compare", *words)
    assert done.code == exits.USAGE
    assert done.err == "to compare, name two runs or more (this is run 1 alone)\n"


def test_control_characters_of_a_path_never_reach_the_terminal(lab: Lab) -> None:
    for name in ("a\x1b[2J.yaml", "b.yaml"):
        assert lab.call("submit", lab.file(name), "--name", "x").code == 0
    shown = lab.call("compare", 1, 2).out
    assert "\x1b" not in shown and "a\\x1b[2J.yaml" in shown
