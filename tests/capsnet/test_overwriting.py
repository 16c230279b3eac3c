"""A run writes over what runs have written and nothing else: looked at first, and before each write."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from capsnet import checkpoint
from capsnet.cli import main
from capsnet.commands import places
from capsnet.overwriting import obstacles, require_board, require_checkpoint, require_history
from capsnet.sections import Checkpoint
from capsnet.state import CheckpointError
from capsnet.training import train

OLD_CHECKPOINT = Path(__file__).parent / "data" / "checkpoint-format-1.pt"
TINY = """
name: tiny
num_epochs: 1
batch_size: 256
threads: 1
use_cuda: false
dataset: {name: digits, size: 12}
model: {conv_channels: 4, kernel_size: 3, primary_types: 2, class_dim: 4, decoder: {hidden: [8]}}
"""
Make = Callable[[Path], object]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a YAML file to train from."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


def text(path: Path) -> None:
    path.write_text("\\documentclass{article}")


def other_weights(path: Path) -> None:
    torch.save({"epoch": 3, "model": {"weight": torch.ones(3)}, "optimizer": {}}, path)


def zip_file(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + bytes(range(256)))


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_a_text(path: Path) -> None:
    text(path.with_name("elsewhere.txt"))
    path.symlink_to(path.with_name("elsewhere.txt"))


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    "make",
    [text, other_weights, zip_file, fifo, link_to_a_text, link_to_itself, device],
    ids=lambda make: make.__name__,
)
def test_what_is_no_checkpoint_of_a_run_is_not_overwritten(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "mine.pt"
    make(path)
    with pytest.raises(CheckpointError, match=f"{path} .*: move it, or set checkpoint.model_path to another"):
        require_checkpoint(path)


def test_a_checkpoint_may_be_overwritten_an_old_one_and_half_of_one_too(
    tmp_path: Path, tiny_config, tiny_splits
) -> None:
    *_, last = train(tiny_config(num_epochs=1), splits=tiny_splits)
    path = tmp_path / "mine.pt"
    checkpoint.save(last.snapshot(), path)
    require_checkpoint(path)
    require_history(checkpoint.history_path(path))
    require_checkpoint(OLD_CHECKPOINT)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    require_checkpoint(path)
    path.write_bytes(b"")
    require_checkpoint(path)
    (tmp_path / "link.pt").symlink_to(path)
    require_checkpoint(tmp_path / "link.pt")
    require_checkpoint(tmp_path / "new" / "folder" / "mine.pt")


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_what_cannot_be_read_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    text(path)
    path.chmod(0o200)
    with pytest.raises(CheckpointError, match="cannot be read"):
        require_checkpoint(path)


def test_tensorboards_folder_is_new_or_empty_or_has_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    require_board(folder)
    folder.mkdir()
    (folder / ".gitkeep").write_text("")
    require_board(folder)
    (folder / "earlier").mkdir()
    with pytest.raises(CheckpointError, match="holds other files than TensorBoard's, as earlier: move it"):
        require_board(folder)
    (folder / "earlier" / "events.out.tfevents.1.host").write_text("")
    require_board(folder)
    text(folder / "thesis.tex")
    with pytest.raises(CheckpointError, match=r"as thesis\.tex: move it, or set checkpoint"):
        require_board(folder)
    (folder / "events.out.tfevents.2.host").write_text("")
    require_board(folder)


def test_both_places_of_a_configuration_are_looked_at(tmp_path: Path) -> None:
    text(tmp_path / "thesis.tex")
    named = Checkpoint(model_path=str(tmp_path / "thesis.tex"), log_dir=str(tmp_path))
    assert [key for key, _ in obstacles(named)] == ["model_path", "log_dir"]
    assert list(obstacles(Checkpoint())) == []
    inside = Checkpoint(model_path=str(tmp_path / "thesis.tex" / "mine.pt"))
    assert [key for key, _ in obstacles(inside)] == ["model_path"]
    nowhere = Checkpoint(model_path=os.devnull)  # which is a folder's name, by its lack of a suffix
    assert [key for key, _ in obstacles(nowhere)] == ["model_path"]


@pytest.mark.parametrize(
    ("setting", "taken", "said"),
    [
        ("model_path=thesis.tex", "thesis.tex", "is not a checkpoint of this program"),
        ("model_path=loop.pt", "other.tex", "its links lead in a circle"),
        ("model_path=mine.pt", "mine.history.csv", "is not the history of a run of this program"),
        ("model_path=mine.pt", "mine.previous.pt", "is not a checkpoint of this program"),
        ("model_path=mine.pt", "mine.epoch-0001.pt", "is not a checkpoint of this program"),
        ("log_dir=notes", "notes/thesis.tex", "holds other files than TensorBoard's"),
    ],
)
def test_train_refuses_in_one_line_before_it_trains(
    tiny: Path, capsys: pytest.CaptureFixture[str], setting: str, taken: str, said: str
) -> None:
    (tiny / taken).parent.mkdir(exist_ok=True)
    text(tiny / taken)
    link_to_itself(tiny / "loop.pt")
    before = sorted(tiny.rglob("*"))
    assert main(["train", "tiny.yaml", f"--set=checkpoint.{setting}"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and said in printed.err
    assert (tiny / taken).read_text() == "\\documentclass{article}"
    assert sorted(tiny.rglob("*")) == before


def test_what_comes_into_the_way_while_a_run_trains_is_not_overwritten(
    tmp_path: Path, tiny_config, tiny_splits
) -> None:
    *_, last = train(tiny_config(num_epochs=1), splits=tiny_splits)
    path = tmp_path / "mine.pt"
    places.save(last.snapshot(), path)
    text(path)
    with pytest.raises(CheckpointError, match="is not overwritten"):
        places.save(last.snapshot(), path)
    assert path.read_text() == "\\documentclass{article}"


def test_a_run_may_save_again_and_again_before_its_first_epoch_ends(
    tmp_path: Path, tiny_config, tiny_splits
) -> None:
    first = next(train(tiny_config(), splits=tiny_splits, interval_seconds=0)).snapshot()
    for _ in range(2):
        places.save(first, tmp_path / "mine.pt")
    assert checkpoint.load(tmp_path / "mine.pt")["history"] == []


def test_a_link_to_a_checkpoint_stays_a_link(tiny: Path) -> None:
    (tiny / "weights").mkdir()
    (tiny / "latest.pt").symlink_to("weights/a.pt")
    assert main(["train", "tiny.yaml", "--set=checkpoint.model_path=latest.pt"]) == 0
    assert (tiny / "latest.pt").is_symlink()
    assert checkpoint.load(tiny / "weights" / "a.pt")["epoch"] == 1


def test_pictures_of_others_stay_where_they_are(tiny: Path) -> None:
    """A folder `figures` beside the checkpoint is a run's only where there is a checkpoint of a run."""
    (tiny / "paper" / "figures").mkdir(parents=True)
    text(tiny / "paper" / "figures" / "overview.tex")
    assert main(["train", "tiny.yaml", "--set=checkpoint.model_path=paper/"]) == 0
    assert (tiny / "paper" / "figures" / "overview.tex").exists()


def test_looking_imports_no_pytorch() -> None:
    import subprocess

    code = "import sys, capsnet.overwriting; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
