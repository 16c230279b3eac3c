"""Temporary files of writers that were killed, and of writers that live: real processes."""

import errno
import fcntl
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from patience import wait_until

from capsnet.files import ABANDONED_SECONDS, clear_temporaries, write_atomically

WRITES = """
import sys; from pathlib import Path; from capsnet.files import write_atomically
def write(file):
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.readline()
    file.write(b" and half")
write_atomically(Path(sys.argv[1]), write, shared=sys.argv[2] == "shared")
"""


@contextmanager
def writing(path, kind="shared"):
    """A process that is in the middle of writing a file, and the temporary file that it writes."""
    command = [sys.executable, "-c", WRITES, path, kind]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    before = set(path.parent.glob(".*.tmp"))
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        (part,) = set(path.parent.glob(".*.tmp")) - before
        yield process, part
        process.kill()


def left_by_a_killed_writer(path, kind="shared"):
    with writing(path, kind) as (process, part):
        process.kill()
        process.wait()
    assert part.read_bytes() == b"half"
    return part


def text(content):
    return lambda file: file.write(content)


def test_what_a_killed_writer_left_is_deleted_by_the_next_writer_of_that_file(tmp_path):
    of_this, of_another = (left_by_a_killed_writer(tmp_path / name) for name in ("file", "file.x"))
    write_atomically(tmp_path / "file", text(b"whole"), shared=True)
    assert not of_this.exists() and of_another.exists()
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_a_name_with_signs_of_patterns_is_that_name(tmp_path):
    left = left_by_a_killed_writer(tmp_path / "[a]*")
    write_atomically(tmp_path / "[a]*", text(b"whole"), shared=True)
    assert not left.exists()


def test_a_living_writer_keeps_its_temporary_file_and_its_file_becomes_whole(tmp_path):
    with writing(tmp_path / "file") as (process, part):
        write_atomically(tmp_path / "file", text(b"ours"), shared=True)
        clear_temporaries(tmp_path)
        assert part.read_bytes() == b"half"
        _, _ = process.communicate("go on\n")
        assert process.returncode == 0
    assert (tmp_path / "file").read_bytes() == b"half and half"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_all_that_killed_writers_left_in_a_folder_can_be_deleted(tmp_path):
    for name, kind in (("checkpoint.pt", "own"), ("a.png", "shared")):
        left_by_a_killed_writer(tmp_path / name, kind)
    (tmp_path / "checkpoint.pt").write_bytes(b"whole")
    clear_temporaries(tmp_path)
    clear_temporaries(tmp_path / "absent")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def is_blocked(pid):
    """Whether a process waits for a file lock."""
    return any(
        "->" in line and str(pid) in line.split() for line in Path("/proc/locks").read_text().splitlines()
    )


def test_a_writer_of_the_same_temporary_file_waits_for_the_one_before(tmp_path):
    with writing(tmp_path / "file", "own") as (first, _):
        command = [sys.executable, "-c", WRITES, tmp_path / "file", "own"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as second:
            wait_until(lambda: is_blocked(second.pid) or second.poll() is not None)
            first.communicate("go on\n")
            second.communicate("go on\n")
    assert (first.returncode, second.returncode) == (0, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def old(path):
    long_ago = path.lstat().st_mtime - ABANDONED_SECONDS - 1
    os.utime(path, (long_ago, long_ago), follow_symlinks=False)


def test_links_that_killed_processes_left_go_once_they_are_old(tmp_path):
    young, other = tmp_path / ".log.txt.00000000.tmp", tmp_path / ".log.txt.11111111.tmp"
    for link in (young, other):
        link.symlink_to("attempts/1/log.txt")
    old(other)
    clear_temporaries(tmp_path)
    assert young.is_symlink() and not other.is_symlink()


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_files_are_written_and_only_old_temporary_ones_are_deleted(
    tmp_path, monkeypatch, error
):
    def refuse(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", refuse)
    young, other = tmp_path / ".file.00000000.tmp", tmp_path / ".file.11111111.tmp"
    for part in (young, other):
        part.write_bytes(b"half")
    old(other)
    write_atomically(tmp_path / "file", text(b"whole"), shared=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, "file"]
