"""Worker processes of the data loader on machines with little shared memory, as containers have it."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import small_disk
import torch

from capsnet import batches
from capsnet.config import MultiMNIST
from capsnet.images import Images
from capsnet.training import TrainingError, train

WAYS_OUT = "set dataloader.num_workers: 0, or enlarge /dev/shm (docker run --shm-size=2g)"


def with_free_bytes(monkeypatch, free):
    monkeypatch.setattr(
        batches.os, "statvfs", lambda _: SimpleNamespace(f_bavail=free // 4096, f_frsize=4096)
    )


def test_too_little_shared_memory_is_said_before_any_worker_starts(tiny_config, tiny_splits, monkeypatch):
    with_free_bytes(monkeypatch, 8192)
    config = tiny_config(dataloader={"num_workers": 3})
    with pytest.raises(TrainingError) as caught:
        next(iter(train(config, splits=tiny_splits)))
    # 50 images of 144 bytes with their labels, and 3 times 2 and 3 batches of 16 of them
    has, needs = "has 0.0 MB free", f"needs {(50 * (144 + 8) + 9 * 16 * 144) / 1e6:.1f} MB"
    assert str(caught.value) == f"/dev/shm {has}, and dataloader.num_workers: 3 {needs}: {WAYS_OUT}"


def test_without_workers_no_shared_memory_is_needed(tiny_config, tiny_splits, monkeypatch):
    with_free_bytes(monkeypatch, 0)
    assert next(iter(train(tiny_config(), splits=tiny_splits))).step == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError(
                "unable to allocate shared memory(shm) for file </torch_1>: No space left on device"
            ),
            "/dev/shm has no room for",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. \nIt is"),
            "/dev/shm has no",
        ),
        (OSError(28, "No space left on device"), "/dev/shm has no room for"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "a process of"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "a process of"),
    ],
)
def test_what_the_loader_meets_all_the_same_is_one_line(tiny_config, error, reason):
    with (
        pytest.raises(TrainingError) as caught,
        batches._one_line_errors(tiny_config(dataloader={"num_workers": 2})),
    ):
        raise error
    said = str(caught.value)
    assert said.startswith(f"{reason}") and said.endswith(f": {WAYS_OUT}") and "\n" not in said


def test_errors_of_another_kind_stay_what_they_are(tiny_config):
    with pytest.raises(RuntimeError, match="CUDA error"), batches._one_line_errors(tiny_config()):
        raise RuntimeError("CUDA error")


@pytest.mark.slow
@pytest.mark.skipif(small_disk.missing() is not None, reason=str(small_disk.missing()))
def test_training_in_a_container_with_little_shared_memory_fails_in_one_line(tmp_path):
    (tmp_path / "tiny.yaml").write_text("dataset: {name: digits}\ndataloader: {num_workers: 2}\n")
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    command = f"{mount} && exec {sys.executable} -m capsnet train tiny.yaml"
    done = subprocess.run(
        [*small_disk.ALONE, "sh", "-c", command], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("failed: /dev/shm has 0.1 MB free, and dataloader.num_workers: 2 needs ")
    assert done.stderr.endswith(f": {WAYS_OUT}\n") and done.stderr.count("\n") == 1


def test_images_of_two_digits_need_room_for_both(tiny_config, monkeypatch):
    config = tiny_config(dataloader={"num_workers": 1})
    images = Images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    one = 4 * (64 + 8) + 5 * 16 * 64
    with_free_bytes(monkeypatch, -(-one // 4096) * 4096)
    batches._require_shared_memory(images, config)
    pairs = config.model_copy(update={"dataset": MultiMNIST()})
    with pytest.raises(TrainingError):
        batches._require_shared_memory(images, pairs)
