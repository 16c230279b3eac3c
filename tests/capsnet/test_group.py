"""Several processes train one network with the results of a single one; if one is lost, all end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import group_member
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE, wait_until

from capsnet import group
from capsnet.config import Config
from capsnet.group import ALONE, Group, GroupError, GroupLost, Part, host, meeting
from capsnet.layers import Dropout
from capsnet.state import State
from capsnet.training import train

TOLERANCE = 1e-5  # of ‖a - b‖ / ‖b‖ for each tensor of weights, after three epochs in float32
# A bias before batch normalisation changes nothing: its gradient is rounding alone, which Adam blows up.
WITHOUT_EFFECT = {"decoder.layers.0.bias", "decoder.norms.0.running_mean"}
ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}

pytestmark = pytest.mark.usefixtures("one_thread")


class Processes:
    """Processes of a training group, and their output."""

    def __init__(self, size: int, folder: Path, *cases: str) -> None:
        self.store = host("127.0.0.1")
        command = [sys.executable, "-m", "group_member", str(size), f"127.0.0.1:{self.store.port}"]
        self.output = folder / "output.txt"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [*command, str(folder), *cases],
                env=ENVIRONMENT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self, pattern: str) -> list[str]:
        return re.findall(pattern, self.output.read_text())

    def wait_for(self, pattern: str) -> str:
        def found() -> list[str]:
            said = self.said(pattern)
            assert said or self.process.poll() is None, self.output.read_text()
            return said

        return wait_until(found, self.output.read_text)[0]

    def kill(self, rank: int) -> None:
        os.kill(int(self.wait_for(rf"rank {rank} is pid (\d+)")), signal.SIGKILL)

    def ends(self) -> dict[int, int]:
        """Wait until all ranks have ended; return each rank's exit code."""
        wait_until(lambda: self.process.poll() is not None, self.output.read_text)
        return {int(rank): int(code) for rank, code in self.said(r"rank (\d) ended with (-?\d+)")}

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Callable[..., Processes]]:
    """Function that starts a group; processes that are left end with the test."""
    started: list[Processes] = []

    def start(size: int, *cases: str) -> Processes:
        started.append(Processes(size, tmp_path, *cases))
        return started[-1]

    yield start
    for each in started:
        each.close()


CASES = ("capsules", "batch_norm", "dropout", "odd", "clipped")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Function that returns the folder with the states of all CASES, trained by `size` processes."""
    folders: dict[int, Path] = {}

    def folder(size: int) -> Path:
        if size not in folders:
            folders[size] = tmp_path_factory.mktemp(f"group of {size}")
            group = Processes(size, folders[size], *CASES)
            try:
                assert group.ends() == dict.fromkeys(range(size), 0), group.output.read_text()
            finally:
                group.close()
        return folders[size]

    return folder


def alone(case: str, state: State | None = None) -> State:
    return group_member.end(group_member.config(case), state)[0]


def read(path: Path) -> State:
    return torch.load(path, weights_only=True)


def require_same(one: State, other: State) -> None:
    """Assert that two states have the same weights and the same metrics, up to rounding."""
    beginning = next(train(Config.model_validate(one["config"]), splits=group_member.splits())).snapshot()
    for name, weights in one["model"].items():
        if name in WITHOUT_EFFECT:
            continue
        size = weights.double().norm() + 1e-12
        assert (weights.double() - other["model"][name]).norm() / size < TOLERANCE, name
    moved = [
        float((weights - beginning["model"][name]).double().norm() / weights.double().norm())
        for name, weights in one["model"].items()
        if name.endswith("weight") and "norms" not in name
    ]
    assert min(moved) > 1000 * TOLERANCE, moved
    assert len(one["history"]) == len(other["history"]) == group_member.EPOCHS
    for expected, row in zip(one["history"], other["history"], strict=True):
        for name in expected.keys() - {"time", "epoch_seconds", "images_per_second"}:
            assert row[name] == pytest.approx(expected[name], rel=1e-3), name


# ---- the parts of a batch


@given(st.integers(1, 9), st.integers(1, 200))
def test_every_image_is_in_one_part_and_the_parts_are_even(size, count):
    parts = [Group(rank, size).part(count) for rank in range(size)]
    if count < size:
        assert [part.rows for part in parts] == [slice(0, count)] * size
        assert [part.weight for part in parts] == [1.0] + [0.0] * (size - 1)
        return
    taken = [image for part in parts for image in range(count)[part.rows]]
    assert taken == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert [part.weight for part in parts] == [1.0] * size
    if size > 1:
        assert parts[0].sizes == [len(part) for part in parts]


def test_dropout_draws_for_the_whole_batch():
    features = torch.ones(5, 40)
    drawn = []
    for part in (ALONE.part(5), Part(Group(0, 2), 5), Part(Group(1, 2), 5)):
        layer = Dropout(0.5)
        layer.generator = np.random.default_rng(1)
        layer.part = part
        drawn.append(layer(features[part.rows]))
    whole, first, second = drawn
    assert torch.equal(whole, torch.cat([first, second]))


# ---- the same weights


@pytest.mark.parametrize("size", [2, 4])
def test_several_workers_reach_the_weights_of_one(trained, size):
    """With shifts, batch normalisation, dropout, uneven parts, and a last batch smaller than four workers.

    And with a gradient that is shortened by its length over the whole batch.
    """
    for case in CASES:
        together = read(trained(size) / f"{case}.pt")
        assert together["execution"]["workers"] == size
        require_same(alone(case), together)


def test_a_checkpoint_of_four_goes_on_alone_and_one_of_one_goes_on_with_two(trained, processes, tmp_path):
    middle = read(trained(4) / "capsules.middle.pt")
    assert (middle["epoch"], middle["step"], middle["execution"]["workers"]) == (1, 3, 4)
    with pytest.warns(UserWarning, match="workers 4 -> 1.*the last bits may differ"):
        gone_on = alone("capsules", middle)
    undisturbed, own_middle = group_member.end(group_member.config("capsules"))
    require_same(undisturbed, gone_on)

    torch.save(own_middle, tmp_path / "capsules.begun.pt")
    group = processes(2, "capsules")
    assert group.ends() == {0: 0, 1: 0}
    assert len(group.said("workers 1 -> 2.*the last bits may differ")) == 1
    require_same(undisturbed, read(tmp_path / "capsules.pt"))


def test_all_workers_of_a_run_that_stops_early_end_by_themselves(processes, tmp_path):
    members = processes(2, "early")
    assert members.ends() == {0: 0, 1: 0}, members.output.read_text()
    state = read(tmp_path / "early.pt")
    assert [row["epoch"] for row in state["history"]] == [1, 2]
    assert state["best"]["epoch"] == 1


@pytest.mark.slow
def test_workers_that_load_their_data_or_compile_reach_the_same_weights(processes, tmp_path):
    group = processes(2, "loaded", "compiled")
    assert group.ends() == {0: 0, 1: 0}, group.output.read_text()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where there is no compiler, one worker goes without as well
        for case in ("loaded", "compiled"):
            require_same(alone(case), read(tmp_path / f"{case}.pt"))


@pytest.mark.slow
def test_torchrun_trains_one_network_and_prints_once(tmp_path):
    config = group_member.config("capsules", checkpoint={"log_dir": str(tmp_path / "log")})
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = ["torch.distributed.run", "--nproc-per-node=2", "-m", "capsnet", "train", str(file)]
    run = subprocess.run(
        [sys.executable, "-m", *command],
        env=ENVIRONMENT,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("epoch 1/3") == 1
    assert read(tmp_path / "out" / "run" / "checkpoint.pt")["execution"]["workers"] == 2


@pytest.mark.slow
def test_torchrun_stopped_by_ctrl_c_saves(tmp_path):
    """A terminal sends SIGINT to all of them, and torchrun then sends its own."""
    config = group_member.config("endless", checkpoint={"interval_seconds": 9999})
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = ["torch.distributed.run", "--nproc-per-node=2", "-m", "capsnet", "train", str(file)]
    output = tmp_path / "output.txt"
    with output.open("w") as opened:
        run = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=ENVIRONMENT,
            cwd=tmp_path,
            stdout=opened,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: run.poll() is not None or "epoch 3/" in output.read_text(), output.read_text)
        assert run.poll() is None, output.read_text()
        os.killpg(run.pid, signal.SIGINT)
        run.wait(PATIENCE)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    assert "stopped and saved; to go on: " in output.read_text()
    assert read(tmp_path / "out" / "run" / "checkpoint.pt")["epoch"] >= 3


# ---- those that go


@pytest.mark.parametrize("gone", [0, 1])
def test_the_others_end_when_one_was_killed(processes, gone):
    group = processes(2, "endless")
    group.wait_for("epoch 2")
    group.kill(gone)
    assert group.ends() == {gone: -signal.SIGKILL, 1 - gone: 3}
    assert group.said(rf"rank {1 - gone}: another process of the group has gone: .+")


@pytest.mark.slow
def test_the_others_end_when_rank_0_takes_no_more_steps(processes):
    group = processes(2, "stopped")
    assert group.ends() == {0: 0, 1: 3}, group.output.read_text()


def test_rank_0_says_that_the_loss_is_not_finite(processes):
    group = processes(2, "not_finite")
    assert group.ends() == {0: 4, 1: 3}, group.output.read_text()
    assert group.said(r"rank 0: loss is nan at epoch 1, step \d")


# ---- whose error it is


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: device-side assert triggered", 710),
        torch.distributed.DistBackendError(
            "NCCL error in: NCCLUtils.cpp:77, unhandled cuda error\nncclUnhandledCudaError: Call to CUDA "
            "function failed.\nLast error:\nCuda failure 710 'device-side assert triggered'"
        ),
        torch.distributed.DistBackendError("ncclInvalidUsage: Duplicate GPU detected"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 17 bytes"),
        NotImplementedError("not for this type"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_its_own_is_not_the_loss_of_another(error):
    with pytest.raises(type(error)) as raised, group._losses():
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    "error",
    [
        torch.distributed.DistBackendError(
            "NCCL error in: NCCLUtils.cpp:77, remote process exited or there was a network error\n"
            "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting"
        ),
        torch.distributed.DistBackendError("NCCL communicator was aborted on rank 1."),
        torch.distributed.DistNetworkError("Broken pipe"),
        torch.distributed.DistStoreError("wait timeout after 1000ms, keys: /0"),
        RuntimeError("[/build/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer"),
        RuntimeError("[enforce fail at /build/gloo/transport/tcp/device.cc:88] rv != -1. Network is down"),
        RuntimeError("Application timeout caused pair closure"),
    ],
    ids=str,
)
def test_the_loss_of_another_is_known_by_what_pytorch_raises(error):
    with pytest.raises(GroupLost, match="another process of the group has gone"), group._losses():
        raise error


def test_a_member_that_fails_by_itself_says_why_and_the_others_that_it_has_gone(processes):
    members = processes(2, "own_error")
    assert members.ends() == {0: 3, 1: 5}, members.output.read_text()
    assert members.said("rank 1 by itself: Invalid scalar type")
    assert members.said(r"rank 0: another process of the group has gone: .+")


def test_a_member_that_waits_for_one_that_hangs_says_that_it_is_lost(processes):
    members = processes(2, "hanging")
    assert members.ends() == {0: 3, 1: 0}, members.output.read_text()
    assert members.said(r"rank 0: another process of the group has gone: .*[Tt]imed? ?out")


def test_who_has_left_a_group_has_none_of_its_threads(processes):
    members = processes(2, "compiling")
    assert members.ends() == {0: 0, 1: 0}, members.output.read_text()
    assert len(members.said(r"rank \d talks by \['gloo_tcp_loop', ")) == 2
    assert len(members.said(r"rank \d leaves \[\]")) == 2


# ---- what cannot be


def test_fewer_images_in_a_batch_than_workers_are_refused():
    config = group_member.config("capsules", batch_size=3)
    with pytest.raises(GroupError, match="a batch of 3 images cannot be split over 4 workers: raise"):
        next(train(config, splits=group_member.splits(), group=Group(0, 4)))


def test_a_group_that_does_not_come_about_says_so():
    store = host("127.0.0.1", timeout_seconds=1.0)
    with (
        pytest.raises(GroupError, match="rank 0 of 2: not all of the group have come"),
        meeting(0, 2, f"127.0.0.1:{store.port}", "cpu", timeout_seconds=1.0),
    ):
        pass


def test_nobody_at_the_address_is_said():
    with (
        pytest.raises(GroupError, match=r"rank 1 of 2: nobody is at 127\.0\.0\.1:9"),
        meeting(1, 2, "127.0.0.1:9", "cpu", timeout_seconds=1.0),
    ):
        pass
