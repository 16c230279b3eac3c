"""Versions of Python and PyTorch, at a run's submission and on its node; without importing PyTorch."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple


class Versions(NamedTuple):
    """Versions of Python and of PyTorch; None: not known, or not installed."""

    python: str | None
    torch: str | None


def here() -> Versions:
    """Return the versions in this process."""
    try:
        return Versions(platform.python_version(), version("torch"))
    except PackageNotFoundError:  # a laptop from which runs are submitted
        return Versions(platform.python_version(), None)


def differences(found: Versions, submitted: Versions) -> list[str]:
    """Return the version differences between a run's node and its submission that may change results."""
    pairs = {
        "Python": (found.python, submitted.python, _minor),
        "PyTorch": (found.torch, submitted.torch, _public),
    }
    return [
        f"{name} {now} and not {before} as at its submission"
        for name, (now, before, part) in pairs.items()
        if now and before and part(now) != part(before)
    ]


def _minor(python: str) -> str:
    return ".".join(python.split(".")[:2])


def _public(torch: str) -> str:
    """Return the version without what a build adds, such as "+cpu"."""
    return torch.partition("+")[0]
