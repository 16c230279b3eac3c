"""Folders that are deleted once the process that made them has ended: real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from runner.held import own_folder

WORKS = """
import sys; from pathlib import Path; from runner.held import own_folder
with own_folder(Path(sys.argv[1])) as folder:
    (folder / "model").write_text("half of it")
    print(folder, flush=True)
    sys.stdin.readline()
"""


def working(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process with a folder of its own, and that folder."""
    command = [sys.executable, "-c", WORKS, parent]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_the_folder_of_a_killed_process_goes_with_the_next_one_and_that_of_a_living_one_stays(
    tmp_path: Path,
) -> None:
    (killed, left), (living, kept) = working(tmp_path), working(tmp_path)
    killed.kill()
    killed.communicate()
    assert (left / "model").exists()
    with own_folder(tmp_path) as own:
        assert list(own.parent.glob("*/model")) == [kept / "model"]
        (own / "model").touch()
    assert not own.exists() and not left.exists()
    living.communicate("go on\n")
    assert living.returncode == 0 and not kept.exists()
