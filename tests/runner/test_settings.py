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
    given = settings.given(remote, SHELL, local=False)
    assert given == {**tracking, **store, "RUNNER_STORAGE": "s3://bucket/runs"}
    assert settings.of_worker(given) == store
    assert settings.given(Home(Path("/runs")), SHELL, local=False) == tracking
    shared = Home(Path("/runs"), storage="/shared")
    assert settings.given(shared, SHELL, local=False) == tracking | {"RUNNER_STORAGE": "/shared"}


def test_the_local_ray_gets_the_way_to_the_network_and_the_database_and_a_cluster_has_its_own() -> None:
    network = {"https_proxy": "http://proxy:3128", "NO_PROXY": "db", "SSL_CERT_FILE": "/etc/ca.pem"}
    shell = network | {"PGPASSFILE": "/home/ada/pass", "OMP_NUM_THREADS": "1", "MPLBACKEND": "nbagg"}
    home = Home(Path("/runs"))
    on_a_server = Home(Path("/runs"), "postgresql+psycopg://runner@db/runner")
    assert settings.given(home, shell, local=True) == network
    assert settings.given(on_a_server, shell, local=True) == network | {"PGPASSFILE": "/home/ada/pass"}
    assert settings.given(on_a_server, shell, local=False) == {}
    assert settings.of_worker(settings.given(on_a_server, shell, local=True)) == network


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
