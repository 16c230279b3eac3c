"""Ctrl-C in a terminal, which reaches every process of a command at once."""

import os
import signal
import subprocess
import sys

import pytest

from capsnet.checkpoint import load

WITH_WORKERS = """\
num_epochs: 100000
batch_size: 256
threads: 1
dataset: {name: digits, size: 12}
model: {conv_channels: 8, kernel_size: 5, primary_types: 3, decoder: {hidden: [16]}}
dataloader: {num_workers: 2}
"""


# Prints when the process begins from which all workers are forked: it imports PyTorch for seconds.
TELLING = """\
from multiprocessing.forkserver import ForkServer
from capsnet.cli import main

really = ForkServer.ensure_running

def ensure_running(self):
    really(self)
    print("workers begin", flush=True)

ForkServer.ensure_running = ensure_running
raise SystemExit(main(["train", "tiny.yaml"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "epochs"), [("workers begin", 0), ("epoch 2/", 2)])
def test_ctrl_c_reaches_the_workers_too_and_training_saves_all_the_same(tmp_path, moment, epochs):
    (tmp_path / "tiny.yaml").write_text(WITH_WORKERS)
    with subprocess.Popen(
        [sys.executable, "-c", TELLING],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(moment):
                break
        os.killpg(process.pid, signal.SIGINT)
        printed, errors = process.communicate()
    assert errors == ""
    assert "stopped and saved; to go on" in printed
    assert process.returncode == 130
    assert load(tmp_path / "out/tiny/checkpoint.pt")["epoch"] >= epochs
