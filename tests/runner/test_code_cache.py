"""The folder from which a process imports source: complete, private, and this user's alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from other_user import as_another_user, needs_another_user, shared_folder
from patience import PATIENCE

from capsnet.private import NotPrivate, private_folder
from runner import code_cache, source
from runner.code_cache import settle
from runner.source import Archive, Source

SOURCE = Source(
    {
        "capsnet/__init__.py": b"kind = 'submitted'\n",
        "capsnet/late.py": b"import capsnet\nkind = capsnet.kind\n",
        "runner/__init__.py": b"",
    }
)
# Has only the pickled function and archive, as on a node; then imports our packages.
BRING = """
import pickle, subprocess, sys, tempfile
tempfile.tempdir = sys.argv[2]
bring, archive = pickle.load(open(sys.argv[1], "rb"))
if sys.argv[3:]: import capsnet
try:
    bring(archive)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
import capsnet.late
child = [sys.executable, "-P", "-c", "import capsnet.late; print(capsnet.late.kind)"]
print(capsnet.late.kind, subprocess.run(child, capture_output=True, text=True).stdout.strip())
"""
HOLD = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_SH)
print(flush=True)
sys.stdin.read()
"""
SETTLE = """
import sys
from pathlib import Path
from runner import code_cache, source
print(code_cache.settle(source.here().archive, Path(sys.argv[1])).stat().st_ino)
"""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def bring(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Function that brings SOURCE to another process, from a checkout whose packages differ."""
    from ray.cloudpickle import cloudpickle

    from runner import cluster

    assert cluster.guests  # which lets travel what `bring` needs
    sent = tmp_path / "sent"
    sent.write_bytes(cloudpickle.dumps((code_cache.bring, SOURCE.archive)))
    checkout = tmp_path / "checkout"
    edited = {**SOURCE.files, "capsnet/__init__.py": b"kind = 'edited'\n"}
    source.write(edited, checkout)

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", BRING, str(sent), str(tmp_path), *words]
        environment = {**os.environ, "PYTHONPATH": str(checkout), "RUNNER_RAY_DIR": str(tmp_path / "own")}
        return subprocess.run(
            command,
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    return call


def held(place: Path) -> dict[str, bytes]:
    return source.read({package: place / package for package in source.PACKAGES})


def test_source_is_unpacked_once_where_nobody_else_looks(cache: Path) -> None:
    place = settle(SOURCE.archive, cache)
    made = place.stat().st_ino
    assert held(place) == SOURCE.files
    assert cache.stat().st_mode & 0o777 == 0o700
    assert settle(SOURCE.archive, cache).stat().st_ino == made


def edited(place: Path) -> None:
    (place / "capsnet" / "late.py").write_text("kind = 'edited'\n")


def lacking(place: Path) -> None:
    (place / "capsnet" / "late.py").unlink()


def with_another_file(place: Path) -> None:
    (place / "capsnet" / "more.py").write_text("")


def replaced(place: Path) -> None:
    shutil.rmtree(place)
    place.write_text("")


@pytest.mark.parametrize("harm", [edited, lacking, with_another_file, replaced])
def test_a_damaged_folder_is_made_anew(cache: Path, harm: Callable[[Path], None]) -> None:
    harm(settle(SOURCE.archive, cache))
    assert held(settle(SOURCE.archive, cache)) == SOURCE.files
    settle(Source({"capsnet/a.py": b"", "runner/b.py": b""}).archive, cache)
    assert not [entry for entry in cache.iterdir() if entry.name.startswith(".")]


def test_what_a_killed_process_left_half_made_does_not_hinder(cache: Path) -> None:
    part = private_folder(cache, "") / f".{SOURCE.digest}"
    source.write({"capsnet/half.py": b""}, part)
    assert held(settle(SOURCE.archive, cache)) == SOURCE.files
    assert not part.exists()


def test_nothing_is_left_of_an_archive_that_is_damaged(cache: Path) -> None:
    with pytest.raises(source.SourceError, match="damaged"):
        settle(Archive(SOURCE.digest, b"nonsense"), cache)
    assert [entry.name for entry in cache.iterdir()] == ["lock"]


def test_source_that_nobody_has_used_for_a_week_goes_and_what_a_process_uses_stays(cache: Path) -> None:
    archives = [Source({"capsnet/a.py": b"%d" % n, "runner/b.py": b""}).archive for n in range(3)]
    unused, used, newest = (settle(archive, cache) for archive in archives)
    long_ago = unused.stat().st_mtime - code_cache.UNUSED_SECONDS - 60
    for place in (unused, used):
        os.utime(place, (long_ago, long_ago))
    command = [sys.executable, "-c", HOLD, str(used)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdin
        process.stdout.readline()
        settle(SOURCE.archive, cache)
        assert (unused.exists(), used.exists(), newest.exists()) == (False, True, True)
        process.stdin.close()


def test_many_processes_at_once_make_one_folder(cache: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", SETTLE, str(cache)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    made = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes) and len(set(made)) == 1


@needs_another_user
@pytest.mark.parametrize("theirs", ["capsnet-runner-0", "named"])
def test_source_is_not_imported_from_where_another_user_could_put_some(
    monkeypatch: pytest.MonkeyPatch, theirs: str
) -> None:
    with shared_folder() as shared:
        monkeypatch.setattr("tempfile.tempdir", str(shared))
        monkeypatch.delenv("RUNNER_RAY_DIR", raising=False)
        if theirs == "named":
            monkeypatch.setenv("RUNNER_RAY_DIR", str(shared / theirs))
        assert as_another_user("mkdir -m 777 $1/$2", shared, theirs).returncode == 0
        with pytest.raises(NotPrivate, match="belongs to another user: set RUNNER_RAY_DIR to a folder of"):
            settle(SOURCE.archive)
        assert not list((shared / theirs).iterdir())


def test_a_process_imports_what_it_was_brought_and_so_do_its_children(bring) -> None:
    assert bring().stdout.strip() == "submitted submitted"


def test_a_process_that_has_imported_other_source_says_so_in_one_line_with_both_names(
    bring, tmp_path: Path
) -> None:
    done = bring("import first")
    other = source.digest(held(tmp_path / "checkout"))
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1 and line.startswith("ImportError: capsnet is imported from ")
    assert str(tmp_path / "checkout") in line and other in line and SOURCE.digest in line
