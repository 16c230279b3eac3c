"""Downloads of a data set's missing files: once, whole or not at all, else an error that says what to do."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from http.client import HTTPException
from pathlib import Path

from capsnet import locks
from capsnet.dataset_files import require_place, ways_out
from capsnet.images import DataError

TEMPORARY = ".download-"  # the beginning of the name of the folder that is downloaded into
REPLACE = "put an undamaged copy there, or delete it to have it downloaded again"  # of a damaged file
Missing = Callable[[], list[str]]  # the names of the files that are not there
Fetch = Callable[[Path, list[str]], Path]  # downloads such names into an empty folder, says where they lie


def complete(root: Path, place: str, missing: Missing, fetch: Fetch, gzipped: bool = False) -> None:
    """Download the files that are missing into `root`/`place`; what is there stays as it is.

    `gzipped` says that they may also be put there packed. Raises DataError when they cannot be had.
    """
    lacking = missing()
    if not lacking:
        return
    require_place(root, place)
    try:
        with _locked(root):
            if still := missing():  # otherwise another run has downloaded them meanwhile
                _bring(root, place, still, fetch)
    except (OSError, HTTPException, RuntimeError, ImportError) as error:
        raise DataError(
            f"{root / place} lacks {', '.join(lacking)}, and downloading failed ({cause(error)}): "
            f"{ways_out(place, gzipped)}"
        ) from error


def cause(error: BaseException) -> str:
    """Return an error in one line; its type where it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _bring(root: Path, place: str, names: list[str], fetch: Fetch) -> None:
    """Download files and put them in their place; what a killed download left is deleted."""
    for left in root.glob(f"{TEMPORARY}*/"):  # the lock says that no other one is under way
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=root) as temporary:
        with redirect_stdout(sys.stderr):  # a download's progress is no output of ours
            fetched = fetch(Path(temporary), names)
        (root / place).mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.move(fetched / name, root / place / name)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold a lock on `root`, so that runs which start together download once."""
    root.mkdir(exist_ok=True)
    with locks.locked(root / ".download.lock", "dataset.root or CAPSNET_DATA"):
        yield
