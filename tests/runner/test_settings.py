"""Which variables go with the scheduler, the publisher and workers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner import settings
from runner.paths import Home

SHELL = {
    "MLFLOW_TRACKING_URI": "http://db",
    "AWS_ACCESS_KEY_ID": "me",
    "RUNNER_SCRATCH": "/fast",
    "PATH": "/bin",
}


def test_an_object_store_takes_its_credentials_along_and_a_folder_none() -> None:
    remote = Home(Path("/runs"), storage="s3://bucket/runs")
    tracking = {"MLFLOW_TRACKING_URI": "http://db"}
    store = {"AWS_ACCESS_KEY_ID": "me", "RUNNER_SCRATCH": "/fast"}
    given = settings.given(remote, SHELL)
    assert given == {**tracking, **store, "RUNNER_STORAGE": "s3://bucket/runs"}
    assert settings.of_worker(given) == store
    assert settings.given(Home(Path("/runs")), SHELL) == tracking
    assert settings.given(Home(Path("/runs"), storage="/shared"), SHELL) == tracking | {
        "RUNNER_STORAGE": "/shared"
    }


def test_what_is_given_leaves_nothing_of_the_host_that_contradicts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the host's")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "the host's")
    settings.adopt({})
    assert os.environ["AWS_SESSION_TOKEN"] == "the host's"
    assert "MLFLOW_TRACKING_URI" not in os.environ
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the host's")
    settings.adopt({"AWS_ACCESS_KEY_ID": "mine"})
    assert os.environ["AWS_ACCESS_KEY_ID"] == "mine"
    assert "AWS_SESSION_TOKEN" not in os.environ
