"""C that comes with the package as text: compiled where it runs, for the processor that it runs on.

What was compiled is kept in a folder of the user, under a name that is made of everything that it depends
on: the text, the compiler, its options, and what the compiler knows of the processor. So a home that hosts
of several kinds share holds one file for each kind.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from capsnet import caches
from capsnet.files import write_atomically

# No -ffast-math: what is not finite must stay so, as a loss that is not ends a run.
OPTIONS = ["-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared", "-std=gnu11"]
COMPILERS = ["cc", "gcc", "clang"]
LONGEST = 120  # seconds


class NativeError(Exception):
    """Error where C code cannot be compiled or loaded here; the message is the reason, in one line."""


def library(source: Path) -> ctypes.CDLL:
    """The compiled C file `source`, with access to the libraries that this process has loaded.

    Compiled by `CC` where the environment names it, else by the first of COMPILERS that there is. Raises
    NativeError.
    """
    compiler = _compiler()
    text = source.read_bytes()
    # These name the compiler's version too, and each instruction set that -march=native stands for.
    macros = _run([*compiler, *OPTIONS, "-dM", "-E", "-x", "c", os.devnull])
    parts = text, shlex.join(OPTIONS).encode(), macros
    name = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:32]
    try:
        path = caches.folder() / f"{source.stem}-{name}.so"
        if _is_whole(path):
            return ctypes.CDLL(str(path))
        with tempfile.TemporaryDirectory() as temporary:
            built = Path(temporary) / path.name
            _run([*compiler, *OPTIONS, "-o", str(built), str(source)])
            return ctypes.CDLL(str(_kept(built, path)))
    except OSError as error:
        raise NativeError(str(error)) from error


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CC", ""))
    if named:
        return named
    found = next(filter(None, map(shutil.which, COMPILERS)), None)
    if found is None:
        raise NativeError(f"there is no C compiler: none of {', '.join(COMPILERS)}, and CC is not set")
    return [found]


def _run(command: list[str]) -> bytes:
    """Run a compiler and return its output. Raises NativeError."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeError(str(error)) from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines() or [f"exit code {done.returncode}"]
        raise NativeError(f"{command[0]}: {next((line for line in lines if 'error' in line), lines[0])}")
    return done.stdout


def _is_whole(path: Path) -> bool:
    """Return whether a kept library ends with its own digest: half a library could crash the process."""
    try:
        content = path.read_bytes()
    except OSError:
        return False  # to be compiled, and then loading says what is wrong
    size = hashlib.sha256().digest_size
    return hashlib.sha256(content[:-size]).digest() == content[-size:]


def _kept(built: Path, path: Path) -> Path:
    """Keep a library at `path`, and return it; `built` if it cannot be kept, as in a read-only home."""
    content = built.read_bytes()
    sealed = content + hashlib.sha256(content).digest()  # loaders ignore what follows a library's end
    try:
        write_atomically(path, lambda file: file.write(sealed), shared=True)
    except OSError:
        return built
    return path
