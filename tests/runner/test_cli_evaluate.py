"""`evaluate`: the networks of runs on a test set, by the runs' numbers, computed by a child process."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3
from cli_harness import Lab

from runner import exits, remote_checkpoint
from runner.object_storage import attempt_key
from runner.objects import Objects

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Lab]:
    # Children find what this process imports, whatever folder they are in.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    lab = Lab(tmp_path, monkeypatch, capsys)
    lab.serve()
    yield lab
    lab.close()


@pytest.fixture
def trained(lab: Lab, tiny_checkpoint: Path, tiny_config: str) -> Lab:
    """Runs 1 and 2, which were trained."""
    for number in (1, 2):
        assert lab.ended(text=tiny_config) == number
        checkpoint = lab.home.run(number, "tiny").attempt(1).checkpoint
        checkpoint.parent.mkdir(parents=True)
        shutil.copy(tiny_checkpoint, checkpoint)
    return lab


def test_a_run_is_evaluated_by_its_number(trained: Lab) -> None:
    done = trained.call("evaluate", 1)
    assert done.code == 0
    assert done.out.startswith("run 1 (tiny), after 3 epochs, on 360 test images of digits\n  accuracy  ")
    assert str(trained.folder) not in done.out


def test_several_runs_are_an_ensemble(trained: Lab) -> None:
    found = json.loads(trained.call("evaluate", "1-2", "--json").out)
    assert [member["run"] for member in found["members"]] == [1, 2]
    assert found["accuracy"] == found["members"][0]["accuracy"]  # of a network and its twin
    checkpoint = trained.home.run(1, "tiny").attempt(1).checkpoint
    assert found["members"][0]["checkpoint"] == str(checkpoint)


def test_the_images_may_be_another_data_set(trained: Lab) -> None:
    own = json.loads(trained.call("evaluate", 1, "--json").out)
    assert (own["run"], own["dataset"], own["images"]) == (1, "digits", 360)
    done = trained.process("evaluate", 1, "--dataset", "mnist", "--data", trained.folder)
    assert (done.code, done.out) == (exits.USAGE, "")
    assert "1×16×16" in done.err and "--dataset mnist" in done.err and done.err.count("\n") == 1


def test_what_capsnet_refuses_is_said_once_and_the_exit_code_says_so(trained: Lab) -> None:
    done = trained.process("evaluate", 1, "--best")
    assert (done.code, done.out) == (exits.USAGE, "")
    assert "no best weights" in done.err and done.err.count("\n") == 1


def test_a_run_that_has_saved_nothing_is_said_and_nothing_is_computed(trained: Lab) -> None:
    trained.submit()
    done = trained.call("evaluate", "1-3")
    said = "run 3 is QUEUED and has saved nothing yet to evaluate\n"
    assert (done.code, done.out, done.err) == (exits.USAGE, "", said)


def test_a_run_in_an_object_store_is_evaluated_and_no_copy_is_left(
    lab: Lab,
    tiny_checkpoint: Path,
    tiny_config: str,
    s3_server: s3.Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = s3_server.new_url()
    monkeypatch.setenv("RUNNER_STORAGE", url)
    lab.ended(text=tiny_config)
    remote_checkpoint.Uploads(Objects(url), attempt_key(1, "tiny", 1)).upload(tiny_checkpoint)
    found = json.loads(lab.call("evaluate", 1, "--json").out)
    assert (found["run"], found["checkpoint"], found["images"]) == (1, f"{url}/1-tiny", 360)
    assert list(lab.home.copies.rglob("*.pt")) == []
