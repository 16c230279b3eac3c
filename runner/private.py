"""The private folder of this user on this machine: for the local Ray, and for source that workers import.

Standard library only, and nothing of ours but `capsnet.private`: it travels (`runner.guest`).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from capsnet.private import private_folder

VARIABLE = "RUNNER_RAY_DIR"


def named_folder() -> Path | None:
    """Return the folder that the variable names."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser().absolute() if named else None


def runner_folder() -> Path:
    """`RUNNER_RAY_DIR`, or a folder of our own in the temporary directory; made where there is none.

    Raises NotPrivate where another user could put something there; OSError.
    """
    default = Path(tempfile.gettempdir()) / f"capsnet-runner-{os.getuid()}"
    return private_folder(named_folder() or default, f"set {VARIABLE} to a folder of your own")
