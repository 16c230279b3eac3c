"""A disk that takes no more, as a process meets it whose files must not grow beyond a limit."""

import subprocess
import sys

import pytest

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
    """Trains in a process whose files may have so many bytes."""
    (tmp_path / "tiny.yaml").write_text(TINY)

    def call(size, *arguments):
        command = [sys.executable, "-c", LIMITED, str(size), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return call


@pytest.mark.slow
def test_a_full_disk_is_named_and_leaves_the_checkpoint_from_before_and_no_half_file(train, tmp_path):
    assert train(2**30).returncode == 0
    folder = tmp_path / "out/tiny"
    files = {file.name for file in folder.iterdir()}
    size = (folder / "checkpoint.pt").stat().st_size
    full = train(size // 2, "--resume", "--set=num_epochs=2")
    assert full.stderr == "failed: [Errno 27] File too large: 'out/tiny/.checkpoint.pt.tmp'\n"
    assert full.returncode == 1
    assert {file.name for file in folder.iterdir()} == files
    assert load(folder / "checkpoint.pt")["epoch"] == 1


def test_what_a_writer_says_of_itself_stays(tmp_path):
    def write(file):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        write_atomically(tmp_path / "file", write)
    assert list(tmp_path.iterdir()) == []
