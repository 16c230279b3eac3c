"""Environment variables that the scheduler, the publisher and workers get."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner import settings
from runner.paths import Home
from runner.tracking import target

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


@pytest.mark.parametrize(
    ("uri", "absolute"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{here}/mlflow.db"),
        ("sqlite:///./sub/../m.db?timeout=30", "sqlite:///{here}/m.db?timeout=30"),
        ("sqlite+pysqlite:///mlflow.db", "sqlite+pysqlite:///{here}/mlflow.db"),
        ("sqlite:///file:mlflow.db?uri=true", "sqlite:///file:{here}/mlflow.db?uri=true"),
        ("sqlite:///~/mlflow.db", "sqlite:///{home}/mlflow.db"),
        ("file:./mlruns", "file://{here}/mlruns"),
        ("file:my%20runs", "file://{here}/my%20runs"),
        ("./mlruns", "{here}/mlruns"),
        ("mlruns", "{here}/mlruns"),
        ("~/mlruns", "{home}/mlruns"),
        *((same, same) for same in ("sqlite:////srv/m.db", "file:///srv/m", "/srv/m", "sqlite:///:memory:")),
        *((same, same) for same in ("http://db:5000", "postgresql://u@db/m", "databricks", "databricks://p")),
    ],
)
def test_a_relative_store_is_that_of_the_directory_in_which_it_is_named(
    uri: str, absolute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    expected = absolute.format(here=tmp_path, home="/home/ada")
    given = settings.given(
        Home(Path("/runs")), {"MLFLOW_TRACKING_URI": uri, "MLFLOW_REGISTRY_URI": uri}, True
    )
    assert given == {"MLFLOW_TRACKING_URI": expected, "MLFLOW_REGISTRY_URI": expected}
    monkeypatch.chdir("/")  # where the scheduler and the publisher run
    assert target(Home(Path("/runs")), given).uri == expected


def test_a_relative_certificate_is_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = settings.given(Home(Path("/runs")), {"MLFLOW_TRACKING_SERVER_CERT_PATH": "ca.pem"}, True)
    assert given == {"MLFLOW_TRACKING_SERVER_CERT_PATH": f"{tmp_path}/ca.pem"}
