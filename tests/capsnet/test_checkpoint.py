"""Checkpoints: whole or absent, kept, fallen back to, never trusted."""

import errno
import os
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from capsnet import checkpoint
from capsnet.checkpoint import CheckpointError, load, save
from capsnet.config import CIFAR10, CapsNetModel
from capsnet.history import best_row, read_history, results, write_history
from capsnet.images import Images, Splits
from capsnet.state import checked, config_of
from capsnet.training import train


def same(one, other):
    """Equality of nested values with tensors in them."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_a_state_comes_back_as_it_was(state, path):
    save(state, path)
    assert same(load(path), state)


def test_the_one_before_is_kept_and_nothing_else_remains(state, path):
    save(state, path)
    save(state | {"step": 3}, path)
    assert load(path)["step"] == 3
    assert load(checkpoint.previous_path(path))["step"] == 2
    names = {file.name for file in path.parent.iterdir()}
    assert names == {"checkpoint.pt", "checkpoint.previous.pt", "history.csv"}


def test_the_history_lies_beside_it_number_for_number(state, path):
    save(state, path)
    assert read_history(path.with_name("history.csv")) == state["history"]


def test_two_checkpoints_in_one_folder_have_a_history_each(state, tmp_path):
    save(state, tmp_path / "a.pt")
    save(state | {"history": []}, tmp_path / "b.pt")
    assert read_history(tmp_path / "a.history.csv") == state["history"]
    assert read_history(tmp_path / "b.history.csv") == []


def test_weights_of_every_nth_epoch_are_kept(at_end, state, path):
    save(state, path)
    assert not list(path.parent.glob("*epoch*"))
    save(at_end, path)
    kept = load(path.with_name("checkpoint.epoch-0002.pt"))
    assert same(kept["model"], at_end["model"])
    assert kept["optimizer"] is None


def cut(content):
    return content[: len(content) // 2]


def altered(content):
    middle = content.index(b"data/0") + 3000
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def emptied(content):
    return b""


def misnamed(content):
    """Return the file with a name in its table of contents that is no UTF-8."""
    place = content.index(b"PK\x01\x02") + 46
    flag = place - 46 + 9  # its bit 3 says that names are UTF-8
    content = content[:flag] + bytes([content[flag] | 8]) + content[flag + 1 :]
    return content[:place] + b"\xff" + content[place + 1 :]


def misread(content):
    """Return the file with an entry that claims to be compressed."""
    entry, listed = content.index(b"PK\x03\x04") + 8, content.index(b"PK\x01\x02") + 10
    content = content[:entry] + b"\x08" + content[entry + 1 :]
    return content[:listed] + b"\x08" + content[listed + 1 :]


def overlong(content):
    """Return the file with a last entry that claims to reach beyond the file's end."""
    place = content.rindex(b"PK\x01\x02")
    size = (2**31 - 1).to_bytes(4, "little")
    return content[: place + 20] + size + size + content[place + 28 :]


@pytest.mark.parametrize("damage", [cut, altered, emptied, misnamed, misread, overlong])
def test_a_damaged_file_falls_back_to_the_one_before_with_a_warning(state, path, damage):
    save(state, path)
    save(state | {"step": 3}, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=r"checkpoint\.pt is .*; going on from .*previous\.pt"):
        assert load(path)["step"] == 2


@pytest.mark.parametrize("damage", [cut, altered, emptied, misnamed, misread, overlong])
def test_a_damaged_file_does_not_take_the_place_of_the_whole_one_before_it(state, path, damage):
    save(state, path)
    save(state | {"step": 3}, path)
    path.write_bytes(damage(path.read_bytes()))
    save(state | {"step": 4}, path)
    assert load(path)["step"] == 4
    assert load(checkpoint.previous_path(path))["step"] == 2
    save(state | {"step": 5}, path)
    assert load(checkpoint.previous_path(path))["step"] == 4


def test_a_disk_that_does_not_give_the_file_falls_back_too(state, path, monkeypatch):
    save(state, path)
    save(state | {"step": 3}, path)
    opened = zipfile.ZipFile

    def broken(file):
        if file == path:
            raise OSError(errno.EIO, "Input/output error")
        return opened(file)

    monkeypatch.setattr(zipfile, "ZipFile", broken)
    with pytest.warns(UserWarning, match=r"checkpoint\.pt cannot be read: Input/output error; going on"):
        assert load(path)["step"] == 2


def test_a_file_that_may_not_be_read_is_not_passed_over(state, path):
    save(state, path)
    save(state | {"step": 3}, path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt cannot be read: Is a directory"):
        load(path)


def test_a_crash_between_the_two_renames_falls_back_too(state, path):
    save(state, path)
    path.rename(checkpoint.previous_path(path))
    with pytest.warns(UserWarning, match="there is no checkpoint"):
        assert load(path)["step"] == 2


@pytest.mark.parametrize("damage", [cut, altered, emptied])
def test_a_damaged_file_with_none_before_it_is_one_clear_line(state, path, damage):
    save(state, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_crash_while_writing_leaves_the_file_as_it_was(state, path, monkeypatch):
    save(state, path)

    class Crash(BaseException):
        pass

    def half(value, file):
        file.write(b"half")
        raise Crash

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(Crash):
        save(state | {"step": 3}, path)
    monkeypatch.undo()
    assert load(path)["step"] == 2
    save(state | {"step": 4}, path)
    assert load(path)["step"] == 4


def test_a_missing_file_is_named(path):
    with pytest.raises(CheckpointError, match=f"there is no checkpoint {path}"):
        load(path)


def test_a_file_of_another_kind_is_named(path):
    path.parent.mkdir()
    path.write_text("epoch: 3")
    with pytest.raises(CheckpointError, match="is not a checkpoint, or was cut off"):
        load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "text")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        load(path)


def test_weights_of_another_program_are_told_apart(path):
    path.parent.mkdir()
    torch.save({"conv.weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="holds no state of a run"):
        load(path)


class Harmful:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return exec, (f"open({str(self.file)!r}, 'w')",)


def test_a_pipe_is_not_waited_for(path):
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="is a FIFO and no checkpoint"):
        load(path)


def test_only_its_user_may_read_a_checkpoint_whatever_the_umask(state, path):
    before = os.umask(0)
    try:
        save(state, path)
        save(state, path)
    finally:
        os.umask(before)
    files = [path, checkpoint.previous_path(path), checkpoint.history_path(path)]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_code_in_a_file_is_not_run_even_when_one_before_it_is_whole(state, path, tmp_path):
    save(state, path)
    save(state | {"best": Harmful(tmp_path / "was run")}, path)
    with pytest.raises(CheckpointError, match="could run code: it is not loaded"):
        load(path)
    assert not (tmp_path / "was run").exists()
    with pytest.raises(pickle.UnpicklingError):  # the file is what it is meant to be
        torch.load(path, weights_only=True)


def test_a_newer_format_is_refused_and_not_fallen_back_from(state, path):
    save(state, path)
    save(state | {"format": 2}, path)
    with pytest.raises(CheckpointError, match=r"written by a newer version \(format 2, this one reads 1\)"):
        load(path)


def test_a_state_that_lacks_something_says_what(state, path):
    save({key: value for key, value in state.items() if key not in ("sums", "versions")}, path)
    with pytest.raises(CheckpointError, match="lacks sums, versions"):
        load(path)


@pytest.mark.filterwarnings("ignore:the checkpoint is of other versions")
def test_a_checkpoint_of_the_first_format_still_loads_and_can_be_gone_on_from(tiny_splits):
    state = load(Path(__file__).parent / "data" / "checkpoint-format-1.pt")  # made when format 1 was new
    assert (state["epoch"], state["step"], state["best"]["epoch"]) == (1, 2, 1)
    *_, end = train(config_of(state), state, tiny_splits)
    assert (end.epoch, end.step) == (2, 4)


def splits_of_before():
    """The images on which the run in run-before-orders-of-light.pt was trained: noise."""
    random = np.random.default_rng(3)

    def images(count, side):
        pixels = random.integers(0, 256, (count, 3, side, side)).astype(np.uint8)
        return Images(torch.from_numpy(pixels), torch.arange(count) % 10)

    return Splits(images(40, 32), None, images(20, 12))


@pytest.mark.filterwarnings("ignore:the checkpoint is of other versions")
def test_a_run_begun_before_its_keys_were_there_goes_on_in_its_own_way():
    """The run is older than the keys for the order of standardising, uncut light, padding and leak of primary
    capsules, and the optimizer; it ends as the code of that time ended it.
    """
    file = Path(__file__).parent / "data" / "run-before-orders-of-light.pt"
    kept = torch.load(file, weights_only=True)
    state = checked(kept["middle"], file)
    config = config_of(state)
    assert isinstance(config.dataset, CIFAR10) and isinstance(config.model, CapsNetModel)
    assert (config.dataset.standardise, config.dataset.clip) == ("last", True)
    assert (config.model.primary_routing, config.model.primary_padding) == ("softmax", "valid")
    assert (config.optim.name, config.stop_after_epochs_without_gain) == ("adam", None)
    *_, end = train(config, state, splits_of_before())
    assert end.metrics is not None
    assert end.metrics["test/loss"] == pytest.approx(kept["end"]["loss"], rel=1e-5)
    for name, weights in kept["end"]["model"].items():
        torch.testing.assert_close(end.network.state_dict()[name], weights, rtol=1e-4, atol=1e-6)


def test_the_moments_of_one_optimizer_are_none_of_another(tiny_config, tiny_splits):
    state = next(train(tiny_config(), splits=tiny_splits)).snapshot()
    with pytest.raises(CheckpointError, match=r"optim\.name was 'adam' and is now 'sgd'; set it back, or"):
        next(train(tiny_config(optim={"name": "sgd"}), state, tiny_splits))


def test_a_path_means_a_file_or_the_checkpoint_in_a_folder(tmp_path):
    assert checkpoint.locate(tmp_path) == tmp_path / "checkpoint.pt"
    assert checkpoint.locate(tmp_path / "new") == tmp_path / "new" / "checkpoint.pt"
    assert checkpoint.locate(tmp_path / "weights.pt") == tmp_path / "weights.pt"
    assert checkpoint.locate(f"{tmp_path}/v1.0/") == tmp_path / "v1.0" / "checkpoint.pt"


def test_a_history_comes_back_number_for_number(tmp_path):
    history = [
        {"epoch": 1, "time": 1.7e9 + 1 / 3, "train/loss": 0.1},
        {"epoch": 2, "time": 1.7e9 + 2 / 3, "train/loss": 1e-17, "test/accuracy": 1.0},
    ]
    write_history(history, tmp_path / "history.csv")
    assert read_history(tmp_path / "history.csv") == history
    assert (tmp_path / "history.csv").read_text().splitlines()[0] == "epoch,time,train/loss,test/accuracy"


def test_a_run_without_validation_has_no_best_row():
    assert best_row([{"epoch": 1, "test/accuracy": 1.0}]) is None
    assert results([{"epoch": 1, "test/accuracy": 1.0}]) == {"test/accuracy": 1.0}
    assert results([]) == {}


def test_no_warning_for_a_whole_file(state, path):
    save(state, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(path)
