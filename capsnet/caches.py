"""Folders in which compilers keep compiled code, which later runs execute without checking it.

Each must be a folder to which no other user can write. PyTorch's own choice, `/tmp/torchinductor_USER`,
belongs to the user who makes it first.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import sys
import tempfile
from pathlib import Path

from capsnet.private import NotPrivate, private_folder

# Variables that name the caches of `torch.compile`, and the folder of each where the user has named none.
COMPILERS = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}


def folder() -> Path:
    """Return this user's folder for compiled code; one of this process where that cannot be written.

    Raises NotPrivate where other users could write to it.
    """
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        path = (Path(named) if named else Path.home() / ".cache").absolute() / "capsnet"
        private_folder(path, "set XDG_CACHE_HOME to a folder of your own", others_may_read=True)
    except NotPrivate:
        raise
    except (OSError, RuntimeError):  # as on a read-only disk; the latter where there is no home
        return _temporary()
    return path if os.access(path, os.W_OK) else _temporary()


@functools.cache
def _temporary() -> Path:
    path = Path(tempfile.mkdtemp(prefix="capsnet-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def secure_compilers() -> None:
    """Have `torch.compile` in this process and its children use no folder that another user could fill.

    To be called first before anything of PyTorch's compiler is imported, which takes note of its folder,
    makes it, and leaves its permissions to the umask. Raises NotPrivate and, where a folder that a variable
    names cannot be made, OSError.
    """
    for variable, name in COMPILERS.items():
        named = os.environ.get(variable)
        by_user = named is not None and named != _choice_of_pytorch()
        path = Path(named).absolute() if named and by_user else folder() / name
        remedy = f"set {variable} to a folder of your own"
        os.environ[variable] = str(private_folder(path, remedy, others_may_read=True))
    # Compiled headers lie in PyTorch's own choice whatever the variable says. (Where the function is defined
    # has changed from version to version, and this module has always had it.)
    from torch._inductor.runtime.runtime_utils import default_cache_dir  # pyright: ignore[reportPrivateImportUsage]

    remedy = "delete it, or set TMPDIR to a folder of your own"
    private_folder(Path(default_cache_dir()), remedy, others_may_read=True)


def _choice_of_pytorch() -> str | None:
    """The folder that PyTorch's compiler sets the variable to; None where it has not been imported."""
    compiler = sys.modules.get("torch._inductor.runtime.runtime_utils")
    return None if compiler is None else compiler.default_cache_dir()
