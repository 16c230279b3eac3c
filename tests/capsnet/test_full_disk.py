"""A disk that takes no more: of a process whose files must not grow, and a small file system that is full."""

import json
import re
import subprocess
import sys

import pytest
import small_disk

from capsnet.checkpoint import load
from capsnet.files import write_atomically

LIMITED = """\
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails as it does on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), -1))
from capsnet.cli import main
raise SystemExit(main(["train", "tiny.yaml", *sys.argv[2:]]))
"""

TINY = """\
num_epochs: 1
batch_size: 256
threads: 1
dataset: {name: digits, size: 12}
model: {conv_channels: 8, kernel_size: 5, primary_types: 3, decoder: {hidden: [16]}}
"""


@pytest.fixture
def train(tmp_path):
    """Function that runs training in a process whose files may have at most `size` bytes."""
    (tmp_path / "tiny.yaml").write_text(TINY)

    def call(size, *arguments):
        command = [sys.executable, "-c", LIMITED, str(size), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return call


@pytest.mark.slow
def test_a_disk_that_stays_full_is_named_and_leaves_the_checkpoint_from_before_and_no_half_file(
    train, tmp_path
):
    assert train(2**30).returncode == 0
    folder = tmp_path / "out/tiny"
    files = {file.name for file in folder.iterdir()}
    size = (folder / "checkpoint.pt").stat().st_size
    full = train(size // 2, "--resume", "--set=num_epochs=2", "--set=checkpoint.interval_seconds=0.1")
    place = r"File too large: out/tiny/\.checkpoint\.pt\.tmp"
    assert re.search(rf"warning: cannot save since \d\d:\d\d: {place}; training goes on\n", full.stdout)
    kept = "what was saved before is kept"
    assert re.fullmatch(rf"failed: could not be saved for \d s: {place}; {kept}\n", full.stderr)
    assert full.returncode == 1
    assert {file.name for file in folder.iterdir()} == files
    assert load(folder / "checkpoint.pt")["epoch"] == 1


@pytest.mark.slow
def test_training_goes_on_over_a_disk_that_is_full_for_a_while(tmp_path):
    if (reason := small_disk.missing()) is not None:
        pytest.skip(reason)
    (tmp_path / "disk").mkdir()
    command = [*small_disk.ALONE, sys.executable, small_disk.__file__, str(tmp_path / "disk")]
    settings = TINY.replace("num_epochs: 1", "num_epochs: 5\ncheckpoint: {interval_seconds: 6.0}")
    done = subprocess.run(command, input=settings, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)
    assert (seen["durable while full"], seen["whole while full"]) == ([1, 0], 1)
    full, over = seen["troubles"]
    assert full.startswith("No space left on device") and over is None
    assert (seen["durable"], seen["whole"]) == ([5, 0], 5)
    assert seen["said"].count("TensorBoard's log cannot be written: No space left on device") == 1
    assert seen["curve"] == [1, 2, 3, 4, 5]
    assert seen["files"] == ["checkpoint.previous.pt", "checkpoint.pt", "history.csv"]


def test_what_a_writer_says_of_itself_stays(tmp_path):
    def write(file):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        write_atomically(tmp_path / "file", write)
    assert list(tmp_path.iterdir()) == []
