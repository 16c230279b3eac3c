"""Versions of Python and PyTorch at a run's submission, and on the host where it runs."""

from __future__ import annotations

import platform
from importlib.metadata import version

import pytest

from runner.versions import Versions, differences, here

SUBMITTED = Versions("3.11.7", "2.15.0+cpu")


def test_the_versions_here_are_those_that_would_be_imported() -> None:
    assert here() == (platform.python_version(), version("torch"))


@pytest.mark.parametrize(
    "found", [SUBMITTED, Versions("3.11.9", "2.15.0+cu132"), Versions(None, None), Versions("3.11.7", None)]
)
def test_patches_builds_and_what_is_not_known_are_no_difference(found: Versions) -> None:
    assert differences(found, SUBMITTED) == []


def test_what_differs_is_named_with_both_versions() -> None:
    assert differences(Versions("3.12.1", "2.14.1+cpu"), SUBMITTED) == [
        "Python 3.12.1 and not 3.11.7 as at its submission",
        "PyTorch 2.14.1+cpu and not 2.15.0+cpu as at its submission",
    ]


def test_a_run_from_a_host_without_pytorch_has_nothing_to_compare() -> None:
    assert differences(Versions("3.11.7", "2.15.0"), Versions("3.11.7", None)) == []
