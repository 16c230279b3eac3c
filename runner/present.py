"""The code as it is here now: what a run gets when it is submitted, or resumed with new code."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from runner import git, source, versions
from runner.rows import Origin
from runner.source import Source


class Present(NamedTuple):
    """Source, and what the queue notes of where it comes from."""

    source: Source
    origin: Origin


def present(directory: Path) -> Present:
    """Return the source and origin of this process, started in `directory`. Raises SourceError."""
    found = source.here()
    revision, (python, torch) = git.revision(directory), versions.here()
    origin = Origin(
        code=found.digest,
        submit_python=python,
        submit_torch=torch,
        git_commit=revision.commit,
        git_dirty=revision.dirty,
    )
    return Present(found, origin)
