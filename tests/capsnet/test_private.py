"""Folders that are this user's alone: made so, or refused in a line that says what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from other_user import as_another_user, needs_another_user, shared_folder

from capsnet.private import NotPrivate, private_folder

REMEDY = "set RUNNER_RAY_DIR to a folder of your own"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_a_new_folder_is_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        folder = private_folder(tmp_path / "new", REMEDY)
    finally:
        os.umask(before)
    assert mode(folder) & 0o077 == 0
    assert private_folder(folder, REMEDY) == folder


@pytest.mark.parametrize(
    ("bits", "said"),
    [
        (0o755, "look into"),
        (0o701, "look into"),
        (0o702, "write to"),
        (0o777, "write to"),
    ],
)
def test_a_folder_that_is_open_to_others_is_refused_and_left_as_it_is(
    tmp_path: Path, bits: int, said: str
) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(bits)
    with pytest.raises(
        NotPrivate, match=f"other users may {said} {folder}: `chmod 700 {folder}`, or {REMEDY}"
    ):
        private_folder(folder, REMEDY)
    assert mode(folder) == bits  # it may be a folder that serves others, such as /tmp for root


def test_a_cache_may_be_read_by_others_but_not_written(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o755)
    assert private_folder(folder, REMEDY, others_may_read=True) == folder
    folder.chmod(0o757)
    with pytest.raises(NotPrivate, match="other users may write to"):
        private_folder(folder, REMEDY, others_may_read=True)


def test_a_group_of_one_user_alone_is_no_other_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems with a umask of 002 make such a group for each user."""
    import grp
    import pwd

    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o775)
    name = pwd.getpwuid(os.getuid()).pw_name
    for members, group in [(["ada"], name), ([], "lab")]:
        found = grp.struct_group((group, "x", folder.stat().st_gid, members))
        monkeypatch.setattr(grp, "getgrgid", lambda gid, found=found: found)
        with pytest.raises(NotPrivate, match="write to"):
            private_folder(folder, REMEDY, others_may_read=True)
    alone = grp.struct_group((name, "x", folder.stat().st_gid, []))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: alone)
    assert private_folder(folder, REMEDY, others_may_read=True) == folder


def test_a_file_in_its_place_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(FileExistsError):
        private_folder(tmp_path / "taken", REMEDY)


@needs_another_user
def test_what_another_user_has_made_is_refused() -> None:
    with shared_folder() as shared:
        assert as_another_user("mkdir -m 700 $1/theirs && mkdir -m 777 $1/open", shared).returncode == 0
        for name in ("theirs", "open"):
            with pytest.raises(NotPrivate, match=f"{shared / name} belongs to another user: {REMEDY}"):
                private_folder(shared / name, REMEDY, others_may_read=True)


@needs_another_user
def test_a_link_counts_only_where_this_user_has_made_it() -> None:
    with shared_folder() as shared:
        own = private_folder(shared / "own", REMEDY)
        (shared / "mine").symlink_to(own)
        assert private_folder(shared / "mine", REMEDY) == shared / "mine"
        assert as_another_user("ln -s $1/own $1/theirs", shared).returncode == 0
        with pytest.raises(NotPrivate, match="belongs to another user"):
            private_folder(shared / "theirs", REMEDY)
