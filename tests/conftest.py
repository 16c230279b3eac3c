"""Fixtures and settings of all tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import s3
from hypothesis import HealthCheck, settings

import capsnet  # noqa: F401 - before PyTorch, whose threads it keeps from spinning

if TYPE_CHECKING:
    import postgres

# A busy machine must not fail a property: what is tested is what comes out, not how soon.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def _own_state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have homes of tests recorded in a folder of the tests, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """A PostgreSQL server for all tests; a test that stops it starts it again."""
    import postgres  # needs psycopg, which is not there where capsnet is tested alone

    if (reason := postgres.missing()) is not None:
        pytest.skip(reason)
    with postgres.server("fsync=off", "max_connections=40") as server:
        yield server


@pytest.fixture(scope="session")
def postgres_queue(postgres_server: postgres.Server) -> str:
    """The URL of a queue on PostgreSQL, to be emptied before it is used again."""
    from runner.store import open_store

    url = postgres_server.new_database()
    open_store(url).close()
    return url


@pytest.fixture
def postgres_url(postgres_server: postgres.Server, postgres_queue: str) -> str:
    """The URL of a queue without runs on PostgreSQL, whose numbers begin at 1."""
    postgres_server.empty_queue(postgres_queue)
    return postgres_queue


@pytest.fixture(scope="session")
def s3_process() -> Iterator[s3.Server]:
    """An S3 server for all tests; a test that stops or kills it lets it go on, or starts it again."""
    if (reason := s3.missing()) is not None:
        pytest.skip(reason)
    with s3.server() as server:
        yield server


@pytest.fixture
def s3_server(s3_process: s3.Server, monkeypatch: pytest.MonkeyPatch) -> s3.Server:
    """The server, with this process's variables set for it."""
    for key, value in s3_process.variables.items():
        monkeypatch.setenv(key, value)
    return s3_process
