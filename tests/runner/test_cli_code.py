"""`code`, and messages of other commands about the code of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_harness import Lab
from sqlalchemy import text

from runner import exits, source
from runner.states import State


@pytest.fixture
def here() -> str:
    return source.here().digest


@pytest.fixture
def edited(tmp_path: Path) -> dict[str, str]:
    """The variables of a process that imports a checkout in which two files were edited and one is new."""
    files = dict(source.here().files)
    for name in ("capsnet/routing.py", "runner/worker.py"):
        files[name] += b"# edited\n"
    files["runner/new.py"] = b""
    source.write(files, tmp_path / "checkout")
    return {"PYTHONPATH": str(tmp_path / "checkout")}


def without_code(lab: Lab, number: int) -> None:
    """Remove the stored code of a run, as earlier versions submitted runs without code."""
    with lab.store._database.writer.begin() as connection:
        connection.execute(text(f"UPDATE runs SET code = NULL WHERE id = {number}"))


def test_a_run_keeps_the_code_of_its_submission(lab: Lab, here: str) -> None:
    number = lab.submit()
    run = lab.run(number)
    assert run.code == here and run.submit_python and run.submit_torch
    kept = lab.store.source(here)
    assert kept is not None and kept.archive.files() == source.here().files


def test_what_is_edited_after_the_submission_is_listed(lab: Lab, here: str, edited: dict[str, str]) -> None:
    number = lab.submit()
    assert lab.call("code", number).out.splitlines()[-1].split() == ["here", "the", "same"]
    said = lab.process("code", str(number), **edited).out.splitlines()
    assert said[0].split() == ["code", here]
    assert said[3:] == [
        "here       3 files changed",
        "  capsnet/routing.py",
        "  runner/new.py",
        "  runner/worker.py",
    ]
    shown = lab.process("show", str(number), **edited).out
    assert f"code        {source.short(here)}, here it is " in shown
    found = json.loads(lab.process("code", str(number), "--json", **edited).out)
    assert found["code"] == here and len(found["changed_here"]) == 3


def test_it_is_written_out_as_it_was(lab: Lab, here: str, edited: dict[str, str], tmp_path: Path) -> None:
    number = lab.submit()
    done = lab.process("code", str(number), "--output", "old", **edited)
    assert done.err.endswith(" files in old\n") and done.out == ""
    packages = {package: tmp_path / "old" / package for package in source.PACKAGES}
    assert source.digest(source.read(packages)) == here
    again = lab.call("code", number, "--output", "old")
    assert (again.code, again.err) == (exits.USAGE, "old: is there already: name a new folder\n")


def test_a_resumed_run_keeps_its_code_but_for_new_code(lab: Lab, here: str, edited: dict[str, str]) -> None:
    number = lab.ended(State.FAILED)
    lab.process("resume", str(number), **edited)
    assert lab.run(number).code == here
    lab.call("cancel", number)
    lab.process("resume", str(number), "--new-code", **edited)
    renewed = lab.run(number).code
    assert renewed is not None and renewed != here
    shown = lab.call("show", number).out
    assert f"code        {source.short(renewed)}, here it is {source.short(here)};" in shown
    assert f", 2 cores, code {source.short(here)}\n" in shown  # the first attempt
    assert json.loads(lab.call("code", number, "--attempt", 1, "--json").out)["code"] == here
    assert lab.call("code", number, "--attempt", 7).err.startswith("run 1 has no attempt 7")


def test_code_that_was_not_kept_is_said_in_one_line(lab: Lab) -> None:
    number = lab.submit()
    without_code(lab, number)
    done = lab.call("code", number)
    assert done.code == exits.USAGE and done.err.startswith("the code of run 1 was not kept")
    assert "code        not kept" in lab.call("show", number).out


def test_code_goes_with_the_last_run(lab: Lab, here: str) -> None:
    number, other = lab.ended(), lab.ended()
    lab.call("rm", number, "--yes", "--unpublished")
    assert lab.store.source(here) is not None
    lab.call("rm", other, "--yes", "--unpublished")
    assert lab.store.source(here) is None


def test_a_node_with_other_versions_is_named_with_both(lab: Lab) -> None:
    number = lab.submit()
    submitted = lab.run(number)
    lab.start(number)
    lab.report(number, epoch=1, step=1, python="3.99.1", torch=submitted.submit_torch)
    difference = f"Python 3.99.1 and not {submitted.submit_python} as at its submission"
    assert difference in " ".join(lab.call("queue").out.split())
    versions = f"versions    Python 3.99.1, PyTorch {submitted.submit_torch}: {difference}\n"
    assert versions in lab.call("show", number).out
    found = json.loads(lab.call("show", number, "--json").out)
    assert (found["python"], found["submit_python"]) == ("3.99.1", submitted.submit_python)


def test_the_code_of_the_scheduler_is_in_status_and_no_reason_for_a_warning(
    lab: Lab, here: str, edited: dict[str, str]
) -> None:
    assert f", code {source.short(here)}, last seen" in lab.call("status").out
    assert "scheduler" not in lab.process("submit", str(lab.file()), **edited).err


@pytest.mark.parametrize(
    ("protocol", "said"), [("NULL", "it runs what is installed"), ("0", "cannot run code as new as this")]
)
def test_a_scheduler_that_cannot_run_this_code_is_told_of(lab: Lab, protocol: str, said: str) -> None:
    with lab.store._database.writer.begin() as connection:
        connection.execute(text(f"UPDATE queue SET protocol = {protocol}"))
    done = lab.call("submit", lab.file())
    assert said in done.err and "`python -m runner down`, then `python -m runner up` changes that" in done.err
