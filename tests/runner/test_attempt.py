"""One attempt, performed right here: without Ray, a database or MLflow."""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from capsnet import checkpoint
from capsnet.figures import gallery
from capsnet.figures.subject import Subject
from capsnet.history import metrics_of
from capsnet.state import State
from runner import ownership, storage
from runner.attempt import Assignment, Standing, perform
from runner.orders import Orders

SMALL = """
seed: 3
num_epochs: 2
batch_size: 256
threads: 1
use_cuda: false
dataset: {name: digits, size: 12}
model: {conv_channels: 4, kernel_size: 3, primary_types: 2, class_dim: 4, decoder: {hidden: [8]}}
"""


@pytest.fixture
def assignment(tmp_path: Path) -> Assignment:
    given = Assignment(str(tmp_path), 1, "small", 1, "node", SMALL, cpus=1.0, gpus=0.0, use_best=False)
    storage.prepare(given.run_paths, 1, SMALL)
    return given


def performed(assignment: Assignment, orders: Orders | None = None) -> Standing:
    standing = Standing(assignment)
    perform(assignment, orders or Orders(), standing)
    return standing


def next_attempt(assignment: Assignment, config: str = SMALL) -> Assignment:
    following = replace(assignment, attempt=assignment.attempt + 1, config=config)
    storage.prepare(following.run_paths, following.attempt, config)
    return following


def ending(standing: Standing) -> storage.Ending:
    found = standing.status.ending
    assert found is not None
    return found


def test_an_attempt_trains_to_its_end_and_says_so_on_disk(assignment: Assignment) -> None:
    standing = performed(assignment)
    assert ending(standing).kind == "finished"
    assert storage.read_ending(assignment.paths) == ending(standing)
    fields = standing.status.fields
    assert (fields.get("durable_epoch"), fields.get("epoch")) == (2, 2)
    assert (fields.get("from_epoch"), fields.get("from_step")) == (0, 0)
    assert fields.get("computes") == "float32 on the CPU, 1 thread, steps not compiled"
    assert checkpoint.load(assignment.paths.checkpoint)["epoch"] == 2


def test_an_attempt_says_which_epoch_is_durable_however_it_ends(assignment: Assignment) -> None:
    first = ending(performed(assignment)).kept
    [*_, newest] = checkpoint.load(assignment.paths.checkpoint)["history"]
    assert first is not None and metrics_of(first) == metrics_of(newest)
    diverging = "optim: {lr: 1.0e+30}\n" + SMALL.replace("num_epochs: 2", "num_epochs: 9")
    failed = ending(performed(next_attempt(assignment, diverging)))
    assert failed.kind == "failed" and "nan" in str(failed.reason)
    assert failed.kept is not None and failed.kept["epoch"] == 2  # nothing has been saved since


def test_an_attempt_that_ends_before_its_first_epoch_has_none(assignment: Assignment) -> None:
    diverging = "optim: {lr: 1.0e+30}\n" + SMALL.replace("batch_size: 256", "batch_size: 64")
    failed = ending(performed(replace(assignment, config=diverging)))
    assert (failed.kind, failed.kept) == ("failed", None)


def test_the_pictures_of_a_run_call_it_by_its_number_and_name(
    assignment: Assignment, monkeypatch: pytest.MonkeyPatch
) -> None:
    called, draw = [], gallery.gallery

    def noted(subject: Subject, *rest: Any) -> Any:
        called.append(subject.origin)
        return draw(subject, *rest)

    monkeypatch.setattr("capsnet.keeper.gallery", noted)
    performed(assignment)
    assert called == ["run 1 (small) · capsnet, 3 routing iterations · digits · epoch 2"]
    assert (assignment.paths.figures / "confusion.png").exists()


def test_what_is_picked_for_a_run_is_in_its_output(
    assignment: Assignment, capsys: pytest.CaptureFixture[str]
) -> None:
    config = f"precision: auto\n{SMALL}"
    storage.prepare(assignment.run_paths, 1, config)
    performed(replace(assignment, config=config))
    picked = checkpoint.load(assignment.paths.checkpoint)["execution"]["precision"]
    assert f"precision: auto is {picked} here" in capsys.readouterr().out


def test_an_attempt_that_is_told_to_stop_saves_and_the_next_one_goes_on(assignment: Assignment) -> None:
    orders = Orders()
    orders.stop()
    stopped = performed(assignment, orders)
    assert ending(stopped).kind == "stopped"
    state = checkpoint.load(assignment.paths.checkpoint)
    assert (state["epoch"], state["step"]) == (0, 1)
    following = next_attempt(assignment)
    finished = performed(following)
    assert ending(finished).kind == "finished"
    assert (finished.status.fields.get("from_epoch"), finished.status.fields.get("from_step")) == (0, 1)
    undisturbed = replace(assignment, run=2)
    storage.prepare(undisturbed.run_paths, 1, SMALL)
    performed(undisturbed)
    weights = (checkpoint.load(each.paths.checkpoint)["model"] for each in (following, undisturbed))
    assert all(
        torch.equal(one, other) for one, other in zip(*(each.values() for each in weights), strict=True)
    )


@pytest.mark.parametrize("named", [True, False])
def test_a_host_without_the_data_says_what_to_do(
    assignment: Assignment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: bool
) -> None:
    place = tmp_path / "missing" / "data"
    monkeypatch.setenv("CAPSNET_DATA", str(place))
    dataset = f"{{name: mnist, root: {place}}}" if named else "{name: mnist}"
    failed = ending(performed(next_attempt(assignment, f"dataset: {dataset}\nuse_cuda: false\n")))
    assert failed.kind == "failed" and failed.reason is not None
    what, ways = failed.reason.split("; ")
    assert what.startswith(f"there is no folder {place.parent} to put data/MNIST/raw in: ")
    here = f"set CAPSNET_DATA where Ray is started on {socket.gethostname()}, or "
    assert ways == ("" if named else here) + "resume this run with --set dataset.root=FOLDER"


def test_an_attempt_with_nothing_left_to_train_has_a_result_of_its_own(assignment: Assignment) -> None:
    performed(assignment)
    following = next_attempt(assignment)
    standing = performed(following)
    assert ending(standing).kind == "finished"
    assert checkpoint.load(following.paths.checkpoint)["epoch"] == 2
    assert following.paths.history.read_text() == assignment.paths.history.read_text()
    assert standing.status.fields.get("accuracy") is not None


# A rate at which nothing is learnt: the first epoch stays the best.
STILL = f"{SMALL}stop_after_epochs_without_gain: 1\noptim: {{lr: 1.0e-12}}\n".replace(
    "size: 12", "size: 12, validation: 50"
).replace("num_epochs: 2", "num_epochs: 4")


def test_an_attempt_that_stops_early_has_finished_and_says_why_and_how_far(
    assignment: Assignment, capsys: pytest.CaptureFixture[str]
) -> None:
    early = replace(assignment, config=STILL)
    standing = performed(early)
    ended = ending(standing)
    assert (ended.kind, ended.epochs) == ("finished", 2)
    assert (ended.reason or "").startswith("stopped early after epoch 2 of 4: no gain on the validation")
    assert f"{ended.reason}\n" in capsys.readouterr().out
    assert storage.read_ending(early.paths) == ended
    assert checkpoint.load(early.paths.checkpoint)["epoch"] == 2
    assert list(early.paths.figures.iterdir())


def test_an_attempt_of_a_run_that_had_stopped_early_trains_only_where_it_may_go_longer(
    assignment: Assignment,
) -> None:
    performed(replace(assignment, config=STILL))
    again = next_attempt(assignment, STILL)
    ended = ending(performed(again))
    assert (ended.kind, ended.epochs) == ("finished", 2) and ended.reason is not None
    assert checkpoint.load(again.paths.checkpoint)["epoch"] == 2
    longer = next_attempt(again, STILL.replace("gain: 1", "gain: null"))
    ended = ending(performed(longer))
    assert (ended.kind, ended.reason, ended.epochs) == ("finished", None, 4)


@pytest.mark.filterwarnings("default:the checkpoint was made otherwise")
def test_threads_are_those_of_before_unless_there_were_other_workers(
    assignment: Assignment, capsys: pytest.CaptureFixture[str]
) -> None:
    unsaid = SMALL.replace("threads: 1\n", "")
    first = replace(assignment, config=unsaid, cpus=1.0)
    performed(first)
    state = checkpoint.load(first.paths.checkpoint)
    assert state["execution"]["threads"] == 1
    second = replace(next_attempt(first, unsaid.replace("num_epochs: 2", "num_epochs: 3")), cpus=2.0)
    performed(second)
    assert checkpoint.load(second.paths.checkpoint)["execution"]["threads"] == 1

    of_four = {**state, "execution": {**state["execution"], "workers": 4}}
    checkpoint.save(of_four, second.paths.checkpoint)
    third = replace(next_attempt(second, second.config), cpus=2.0)
    capsys.readouterr()
    assert ending(performed(third)).kind == "finished"
    assert "(threads 1 -> 2, workers 4 -> 1): the last bits may differ" in capsys.readouterr().out
    found = checkpoint.load(third.paths.checkpoint)["execution"]
    assert (found["workers"], found["threads"]) == (1, 2)


@pytest.mark.filterwarnings("default:the checkpoint was made otherwise")
def test_cores_that_the_yaml_names_are_the_threads_also_when_a_resume_has_changed_them(
    assignment: Assignment,
) -> None:
    named = SMALL.replace("threads: 1\n", "") + "runner: {cpus: 1}\n"
    first = replace(assignment, config=named, cpus=1.0)
    performed(first)
    more = named.replace("cpus: 1", "cpus: 2").replace("num_epochs: 2", "num_epochs: 3")
    second = replace(next_attempt(first, more), cpus=2.0)
    performed(second)
    assert checkpoint.load(second.paths.checkpoint)["execution"]["threads"] == 2


def test_an_outcome_that_cannot_be_written_is_reported_all_the_same(
    assignment: Assignment, capfd: pytest.CaptureFixture[str]
) -> None:
    (assignment.paths.outcome / "in the way").mkdir(parents=True)
    assert ending(performed(assignment)).kind == "finished"
    assert "its outcome could not be written" in capfd.readouterr().out


def test_a_checkpoint_of_a_newer_version_is_not_thrown_away(assignment: Assignment) -> None:
    performed(assignment)
    state = checkpoint.load(assignment.paths.checkpoint)
    checkpoint.save({**state, "format": 99}, assignment.paths.checkpoint)
    failed = ending(performed(next_attempt(assignment)))
    assert failed.kind == "failed"
    assert "newer version" in (failed.reason or "")


def test_damaged_checkpoints_of_one_attempt_are_passed_over_for_those_before(assignment: Assignment) -> None:
    performed(assignment)
    second = next_attempt(assignment, SMALL.replace("num_epochs: 2", "num_epochs: 3"))
    performed(second)
    checkpoint.previous_path(second.paths.checkpoint).unlink(missing_ok=True)
    second.paths.checkpoint.write_bytes(b"cut off")
    third = next_attempt(second, second.config)
    with pytest.warns(UserWarning, match="looking further back"):
        assert ending(performed(third)).kind == "finished"
    assert checkpoint.load(third.paths.checkpoint)["epoch"] == 3


def test_a_run_of_which_every_checkpoint_is_damaged_fails_and_does_not_begin_anew(
    assignment: Assignment,
) -> None:
    performed(assignment)
    for file in (assignment.paths.checkpoint, checkpoint.previous_path(assignment.paths.checkpoint)):
        file.write_bytes(b"cut off")
    with pytest.warns(UserWarning, match="looking further back"):
        failed = ending(performed(next_attempt(assignment)))
    assert failed.kind == "failed" and "checkpoint" in (failed.reason or "")


def identified(assignment: Assignment, identity: str) -> Assignment:
    """Return the assignment with another identity of its run."""
    return replace(assignment, identity=identity * 32)


def test_checkpoints_carry_the_identity_of_their_run(assignment: Assignment) -> None:
    mine = identified(assignment, "a")
    performed(mine)
    assert checkpoint.load(mine.paths.checkpoint)["run"] == "a" * 32
    again = next_attempt(mine)  # which has nothing left to train, and takes the state over
    performed(again)
    assert checkpoint.load(again.paths.checkpoint)["run"] == "a" * 32


def test_an_attempt_never_goes_on_from_a_checkpoint_of_another_run(assignment: Assignment) -> None:
    performed(identified(assignment, "a"))
    for other in (identified(assignment, "b"), assignment):
        failed = ending(performed(next_attempt(other)))
        assert failed.kind == "failed"
        assert failed.reason == (
            f"{assignment.paths.checkpoint} was saved by another run: remove it, or submit this run again"
        )


def test_it_does_where_the_yaml_names_that_checkpoint(assignment: Assignment, tmp_path: Path) -> None:
    performed(identified(assignment, "a"))
    file = tmp_path / "given.pt"
    file.write_bytes(assignment.paths.checkpoint.read_bytes())
    config = SMALL.replace("num_epochs: 2", "num_epochs: 3")
    config += f"checkpoint: {{model_path: {file}, use_checkpoint: true}}\n"
    other = replace(identified(assignment, "b"), run=2, config=config)
    storage.prepare(other.run_paths, 1, config)
    assert ending(performed(other)).kind == "finished"
    state = checkpoint.load(file)
    assert (state["run"], state["epoch"]) == ("b" * 32, 3)


def test_a_checkpoint_of_before_runs_had_identities_is_gone_on_from(assignment: Assignment) -> None:
    stopping = Orders()
    stopping.stop()
    performed(assignment, stopping)
    assert checkpoint.load(assignment.paths.checkpoint)["run"] is None
    assert ending(performed(next_attempt(identified(assignment, "a")))).kind == "finished"


def test_in_another_runs_folder_nothing_is_written(assignment: Assignment) -> None:
    ownership.claim(assignment.run_paths, "a" * 32, 0.0)
    before = sorted(assignment.run_paths.folder.rglob("*"))
    failed = performed(identified(assignment, "b")).status.ending
    assert failed is not None and failed.kind == "failed"
    assert str(failed.reason).startswith(f"{assignment.run_paths.folder} holds another run")
    assert sorted(assignment.run_paths.folder.rglob("*")) == before


def test_the_next_attempt_deletes_what_a_killed_one_was_writing(assignment: Assignment) -> None:
    performed(assignment)
    left = [
        assignment.paths.folder / ".checkpoint.pt.tmp",
        assignment.paths.figures / ".confusion.png.01234567.tmp",
        assignment.run_paths.folder / ".config.yaml.01234567.tmp",
    ]
    for file in left:
        file.write_bytes(b"half")
    following = next_attempt(assignment)
    performed(following)
    assert not any(file.exists() for file in left)
    assert not list(assignment.run_paths.folder.rglob(".*.tmp"))


def test_the_file_that_the_yaml_names_holds_the_result_and_may_be_gone_on_from(
    assignment: Assignment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = tmp_path / "models" / "mine.pt"
    config = SMALL + f"checkpoint: {{model_path: {named}, use_checkpoint: true}}\n"
    performed(replace(assignment, config=config))
    first = f"there is no {named} to go on from: it begins at the first epoch"
    assert first in capsys.readouterr().out
    assert checkpoint.load(named)["epoch"] == 2
    longer = replace(assignment, run=2, config=config.replace("num_epochs: 2", "num_epochs: 3"))
    storage.prepare(longer.run_paths, 1, longer.config)
    assert ending(performed(longer)).kind == "finished"
    rows = checkpoint.read_history(longer.paths.history)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert checkpoint.load(named)["epoch"] == 3


@pytest.mark.parametrize(("home_mode", "expected"), [(0o700, 0o600), (0o755, 0o600), (0o2770, 0o660)])
def test_a_checkpoint_is_for_those_who_have_the_home(
    tmp_path: Path, assignment: Assignment, home_mode: int, expected: int
) -> None:
    home, named = tmp_path / "home", tmp_path / "mine.pt"
    home.mkdir()
    home.chmod(home_mode)
    config = f"{SMALL}checkpoint: {{model_path: {named}, keep_every: 1}}\n"
    there = replace(assignment, home=str(home), config=config)
    before = os.umask(0)
    try:
        storage.prepare(there.run_paths, 1, config)
        assert ending(performed(there)).kind == "finished"
    finally:
        os.umask(before)
    files = [*there.paths.folder.glob("checkpoint*"), there.paths.history, named]
    assert len(files) == 6  # the newest, the one before, those of two epochs
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {expected}


@pytest.mark.parametrize("key", ["model_path", "log_dir"])
def test_a_place_that_holds_something_else_fails_the_run_before_it_trains(
    assignment: Assignment, tmp_path: Path, key: str
) -> None:
    """The file in the way may be newer than the submission, or exist on this host only."""
    thesis = tmp_path / "work" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("a year's work")
    place = thesis if key == "model_path" else thesis.parent
    failed = ending(performed(replace(assignment, config=f"{SMALL}checkpoint: {{{key}: {place}}}\n")))
    assert failed.kind == "failed" and f"set checkpoint.{key} to" in (failed.reason or "")
    assert [file.name for file in thesis.parent.iterdir()] == ["thesis.tex"]
    assert thesis.read_text() == "a year's work"
    assert not assignment.paths.checkpoint.exists()


def test_what_takes_the_place_of_the_named_file_meanwhile_is_kept_and_the_run_can_go_on(
    assignment: Assignment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "mine.pt"
    config = f"{SMALL}checkpoint: {{model_path: {named}}}\n"
    save = checkpoint.save

    def save_and_put_a_text_there(state: State, path: Path, mode: int) -> None:
        save(state, path, mode)
        named.unlink(missing_ok=True)
        named.write_text("a year's work")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_put_a_text_there)
        failed = ending(performed(replace(assignment, config=config)))
    assert failed.kind == "failed" and "is not overwritten: move it" in (failed.reason or "")
    assert named.read_text() == "a year's work"
    named.unlink()
    again = next_attempt(assignment, config.replace("num_epochs: 2", "num_epochs: 3"))
    assert ending(performed(again)).kind == "finished"
    assert checkpoint.load(named)["epoch"] == 3


def test_a_run_whose_checkpoints_are_gone_says_that_it_begins_anew(
    assignment: Assignment, capsys: pytest.CaptureFixture[str]
) -> None:
    storage.prepare(assignment.run_paths, 2, assignment.config)
    again = replace(assignment, attempt=2, saved_epochs=7)
    assert ending(performed(again)).kind == "finished"
    said = capsys.readouterr().out
    assert "earlier attempts had saved 7 epochs, but no checkpoint is there any more" in said


def test_a_loss_that_is_not_finite_fails_with_epoch_and_step_in_one_line(assignment: Assignment) -> None:
    failed = ending(performed(replace(assignment, config=SMALL + "optim: {lr: 1.0e+30}\n")))
    assert failed.kind == "failed"
    assert "epoch 1, step" in (failed.reason or "") and "\n" not in (failed.reason or "")
