"""Folders to which no other user of the machine may write, as code is run from there.

Standard library only: it travels to machines that have nothing else of ours (runner.guest).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


class NotPrivate(PermissionError):  # noqa: N818 - the name says what is wrong
    """A folder is another user's, or open to others; one line that says what to do."""


def private_folder(path: Path, remedy: str, others_may_read: bool = False) -> Path:
    """Make a folder of mode 0700, or check that the one at `path` is this user's alone; return `path`.

    Permissions of an existing folder are never changed, for it may serve something else, too. A link is
    followed only where it is this user's. `others_may_read`: enough for caches, which hold no secret.
    `remedy`: ends the message, as in "set RUNNER_RAY_DIR to a folder of your own".

    Raises:
        NotPrivate: it belongs to another user, or other users may write there (or look into it).
        OSError: it cannot be made; a file in its way is a FileExistsError.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    link, folder = path.lstat(), path.stat()
    if any(found.st_uid != os.getuid() for found in (link, folder)):
        raise NotPrivate(f"{path} belongs to another user: {remedy}")
    others = stat.S_IRWXO if _has_only_its_user(folder.st_gid) else stat.S_IRWXG | stat.S_IRWXO
    open_to_others = folder.st_mode & others
    if open_to_others & (stat.S_IWGRP | stat.S_IWOTH):
        raise NotPrivate(f"other users may write to {path}: `chmod 700 {path}`, or {remedy}")
    if open_to_others and not others_may_read:
        raise NotPrivate(f"other users may look into {path}: `chmod 700 {path}`, or {remedy}")
    return path


def _has_only_its_user(gid: int) -> bool:
    """Return whether a group is a user's private one, as many systems make for each, with a umask of 002."""
    try:
        import grp
        import pwd

        group = grp.getgrgid(gid)
        return group.gr_name == pwd.getpwuid(os.getuid()).pw_name and not group.gr_mem
    except (ImportError, KeyError):  # a system without groups, or a number without a name
        return False
