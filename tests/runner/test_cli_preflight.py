"""Errors and warnings of `submit`, `validate` and `resume` about a run that would fail."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cli_harness import Lab

from capsnet import dataset_files
from runner import exits
from runner.commands.resume import require_data
from runner.editing import Edit
from runner.output import CommandError
from runner.states import State

NORB = "dataset:\n  name: smallnorb\n  root: norb\n"


@pytest.fixture
def lab(lab: Lab) -> Lab:
    """A queue whose scheduler has left."""
    lab.leave()
    return lab


@pytest.fixture
def local(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """The same, whose runs only this host can train."""
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RUNNER_RAY_DIR", str(lab.folder / "ray"))
    return lab


@pytest.mark.parametrize("command", ["submit", "validate"])
def test_where_only_this_host_can_train_every_obstacle_of_all_files_is_an_error(
    local: Lab, command: str
) -> None:
    local.file("norb.yaml", NORB + "batch_size: 30_000\n")
    local.file("bad.yaml", "seed: x\n")
    done = local.call(command, "norb.yaml", local.file(), "bad.yaml", "--set", "threads=4096", "--json")
    assert (done.code, done.out) == (exits.USAGE, "")
    norb, batch, threads, bad = done.err.splitlines()
    assert norb.startswith(f"norb.yaml:3: dataset.root: {local.folder}/norb/smallnorb lacks smallnorb-5x4")
    assert batch.startswith("norb.yaml:4: batch_size: 30000 is more than the 24300 training images of ")
    assert threads.startswith("--set threads=4096: 4096 is more than the ")
    assert bad.startswith("bad.yaml:1: seed: ")
    assert not local.store.runs()


def other_cluster(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")


def storage(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_STORAGE", str(lab.folder / "storage"))


def scheduler_elsewhere(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.serve()


@pytest.mark.parametrize("elsewhere", [other_cluster, storage, scheduler_elsewhere])
def test_where_another_host_may_train_an_obstacle_of_this_one_is_a_warning(
    local: Lab, monkeypatch: pytest.MonkeyPatch, elsewhere
) -> None:
    elsewhere(local, monkeypatch)
    done = local.call("validate", local.file("norb.yaml", NORB), "--json")
    assert (done.code, done.err.count("\n")) == (exits.OK, 1)
    assert done.err.startswith(f"warning: {local.folder}/norb.yaml:3: dataset.root: ")
    assert done.err.endswith(" (on this host; the one that trains may differ)\n")
    [document] = json.loads(done.out)
    assert document["config"]["dataset"]["name"] == "smallnorb"
    done = local.call("validate", "norb.yaml", "--set", "dataset.validation=24300")
    assert (done.code, done.out, done.err.count("\n")) == (exits.USAGE, "", 1)
    assert done.err.startswith("--set dataset.validation=24300: 24300 leaves none of the 24300 training ")


def test_a_run_for_another_host_is_queued_with_a_warning_and_its_number_alone_is_on_stdout(lab: Lab) -> None:
    lab.serve()
    done = lab.call("submit", lab.file("norb.yaml", NORB))
    assert (done.code, done.out) == (exits.OK, "1\n")
    assert done.err.startswith("warning: ")
    assert [run.state for run in lab.store.runs()] == [State.QUEUED]
    done = lab.call("submit", "norb.yaml", "--json")
    assert [row["id"] for row in json.loads(done.out)] == [2]


def test_a_queue_on_a_server_warns(
    postgres_url: str, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    laptop = Lab(tmp_path, monkeypatch, capsys, postgres_url)
    laptop.serve(home=str(tmp_path / "runs"))
    laptop.become_a_laptop()
    done = laptop.call("submit", laptop.file(text=NORB))
    assert (done.code, done.out) == (exits.OK, "1\n")
    assert done.err.startswith("warning: ")
    laptop.close()


def test_a_resume_without_its_data_is_refused_where_only_this_host_can_train_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.serve()
    number = lab.ended(State.FAILED, text=NORB)
    done = lab.call("resume", number)  # the cluster's hosts may have them
    assert done.code == exits.OK
    assert done.err.startswith(f"warning: run 1: {lab.folder}/norb/smallnorb lacks ")
    lab.call("cancel", number)
    lab.leave()
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RUNNER_RAY_DIR", str(lab.folder / "ray"))
    before = lab.run(number)
    for words in ([], ["--set", "dataset.root=elsewhere"]):
        done = lab.call("resume", number, *words)
        assert (done.code, done.err.count("\n")) == (exits.USAGE, 1)
        assert f"/{'elsewhere' if words else 'norb'}/smallnorb lacks " in done.err
        assert done.err.endswith("; `python -m runner resume 1 --set dataset.root=FOLDER` goes on then\n")
    assert lab.run(number) == before
    for name in dataset_files.SMALLNORB.names:
        (lab.folder / "norb/smallnorb").mkdir(parents=True, exist_ok=True)
        (lab.folder / "norb/smallnorb" / name).touch()
    require_data(lab.home, before, Edit())
    with pytest.raises(CommandError, match="/no/smallnorb lacks"):
        require_data(lab.home, before, Edit(config=before.config.replace("/norb", "/no")))


def test_a_run_whose_code_knows_other_keys_is_not_held_back(local: Lab) -> None:
    local.serve()
    run = local.run(local.ended(State.FAILED))
    local.leave()
    require_data(local.home, replace(run, config=f"fashion: 3\n{NORB}"), Edit())
    with pytest.raises(CommandError, match="smallnorb lacks"):
        require_data(local.home, replace(run, config=NORB), Edit())
