"""The git revision of the directory of submit, read from real repositories."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from runner.git import UNKNOWN, revision


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "tracked.py").write_text("x = 1\n")
    git(tmp_path, "add", "tracked.py")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_a_clean_repository_gives_its_commit_from_a_subdirectory_too(repository: Path) -> None:
    (repository / "experiments").mkdir()
    head = git(repository, "rev-parse", "HEAD")
    assert revision(repository) == (head, False)
    assert revision(repository / "experiments") == (head, False)


def test_a_changed_tracked_file_is_dirty_and_an_untracked_one_is_not(repository: Path) -> None:
    (repository / "new.yaml").write_text("seed: 1\n")
    assert revision(repository).dirty is False
    (repository / "tracked.py").write_text("x = 2\n")
    assert revision(repository).dirty is True
    git(repository, "add", "tracked.py")
    assert revision(repository).dirty is True


def test_a_repository_without_a_commit_is_unknown(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert revision(tmp_path) == UNKNOWN


def test_no_repository_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert revision(tmp_path) == UNKNOWN


def test_no_git_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert revision(tmp_path) == UNKNOWN
