"""From the schema of an older version to this one's: the whole way or not at all, on both databases."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import postgres
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, inspect, text

from runner import schema
from runner.migrations import versions
from runner.rows import NewRun
from runner.source import Source
from runner.states import Event, State
from runner.store import StoreError, open_store
from runner.tables import SCHEMA_VERSION, metadata

DATA = Path(__file__).parent / "data"
FIRST = DATA / "queue-schema-1.db"  # made by the version that had no other schema
SECOND = DATA / "queue-schema-2.db"  # made by the last version of it
THIRD = DATA / "queue-schema-3.db"  # likewise
FOURTH = DATA / "queue-schema-4.db"  # likewise
TABLES = ("runs", "attempts", "queue")


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    """An SQLite queue of the first schema."""
    return Path(shutil.copy(FIRST, tmp_path / "queue.db"))


@pytest.fixture
def old_url(postgres_server: postgres.Server) -> str:
    """The same queue on PostgreSQL, although the first version did not support it."""
    url = postgres_server.new_database()
    engine = create_engine(url)
    with closing(sqlite3.connect(FIRST)) as source, engine.begin() as target:
        source.row_factory = sqlite3.Row
        schema.upgrade(target, "1")
        target.execute(text("DROP TABLE alembic_version"))
        for table in TABLES:
            for row in map(dict, source.execute(f"SELECT * FROM {table}")):
                for name in row.keys() & {"git_dirty", "use_best", "down_force"}:
                    row[name] = None if row[name] is None else bool(row[name])
                names = ", ".join(row)
                target.execute(
                    text(f"INSERT INTO {table} ({names}) VALUES ({', '.join(f':{name}' for name in row)})"),
                    row,
                )
        target.execute(text("SELECT setval('runs_id_seq', 7)"))
    engine.dispose()
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def old_place(request: pytest.FixtureRequest) -> Path | str:
    return request.getfixturevalue("old_file" if request.param == "sqlite" else "old_url")


@pytest.fixture(params=["sqlite", "postgresql"])
def vacant(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database that holds nothing."""
    if request.param == "sqlite":
        engine = create_engine(f"sqlite:///{tmp_path / 'queue.db'}")
    else:
        engine = create_engine(request.getfixturevalue("postgres_server").new_database())
    yield engine
    engine.dispose()


def noted(connection: Connection) -> tuple[str, int]:
    """Return the schema's version as Alembic stores it and as the first version stored it."""
    alembics = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    return alembics, connection.execute(text("SELECT schema_version FROM queue")).scalar_one()


def differences(connection: Connection) -> list[object]:
    """Return the changes by which Alembic would turn the database into that of `runner.tables`."""
    options = {"compare_type": True, "compare_server_default": True}
    return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)


class TestTheSchema:
    def test_the_migrations_lead_to_the_tables(self, vacant: Engine) -> None:
        with vacant.begin() as connection:
            schema.upgrade(connection)
            assert differences(connection) == []

    def test_a_new_queue_is_noted_as_the_newest(self, vacant: Engine) -> None:
        with vacant.begin() as connection:
            schema.fill(connection)
            assert noted(connection) == (str(SCHEMA_VERSION), SCHEMA_VERSION)
            schema.upgrade(connection)
            assert differences(connection) == []

    def test_both_ways_make_the_same_keys_and_checks(self, vacant: Engine) -> None:
        """Alembic's comparison leaves out primary keys and checks, so compare them here."""

        def of(connection: Connection) -> dict[str, object]:
            found = inspect(connection)
            return {
                table: (
                    found.get_pk_constraint(table),
                    found.get_foreign_keys(table),
                    found.get_check_constraints(table),
                    sorted(map(words, found.get_indexes(table))),
                )
                for table in (*metadata.tables, "alembic_version")
            }

        def words(index: Mapping[str, Any]) -> list[str]:
            options = {name: str(option) for name, option in index.get("dialect_options", {}).items()}
            return [
                f"{name}: {value}" for name, value in sorted({**index, "dialect_options": options}.items())
            ]

        with vacant.connect() as connection:
            with connection.begin():
                schema.fill(connection)
                made = of(connection)
            with connection.begin():
                metadata.drop_all(connection)
                connection.execute(text("DROP TABLE alembic_version"))
                schema.upgrade(connection)
                assert of(connection) == made

    def test_the_newest_revision_is_the_one_that_this_version_knows(self) -> None:
        files = Path(versions.__path__[0]).glob("v*.py")
        assert sorted(int(file.name[1:].split("_")[0]) for file in files) == list(
            range(1, SCHEMA_VERSION + 1)
        )

    def test_the_comparison_can_fail(self, vacant: Engine) -> None:
        with vacant.begin() as connection:
            schema.upgrade(connection, "1")
            assert {difference[0] for difference in differences(connection)} >= {"add_table", "add_column"}  # pyright: ignore


class TestOpeningAnOlderOne:
    def test_every_run_is_there_as_it_was(self, old_place: Path | str) -> None:
        with open_store(old_place, create=False) as store:
            runs = {run.name: run for run in store.runs()}
            assert {name: run.state for name, run in runs.items()} == {
                "finished": State.FINISHED,
                "running": State.RUNNING,
                "lost-once": State.QUEUED,
                "queued": State.QUEUED,
                "cancelled": State.CANCELLED,
                "failed": State.FAILED,
            }
            finished, running = runs["finished"], runs["running"]
            assert (finished.tags, finished.git_dirty, finished.published_epoch) == (
                {"paper": "figure 3"},
                False,
                50,
            )
            assert finished.config == "name: finished\nnum_epochs: 50\n"
            assert (running.gpus, running.exclusive, running.intent, running.durable_step) == (
                0.5,
                ("/data/best.pt",),
                "interrupt",
                17,
            )
            assert (runs["lost-once"].losses, runs["lost-once"].reason) == (1, "its process died")
            assert [attempt.outcome for attempt in store.attempts(finished.id)] == ["finished"]
            beat = store.scheduler_beat()
            assert beat is not None
            assert (beat.epoch, beat.host, beat.machines, beat.home) == (1, "gpu1", (), None)

    def test_it_goes_on_where_it_was(self, old_place: Path | str) -> None:
        with open_store(old_place) as store:
            assert store.end(1, 2, 1, Event.RELEASE, 1020.0, "stopped") is State.INTERRUPTED
            assert store.add([NewRun(name="new", config="", num_epochs=1)], now=1030.0) == [
                8
            ]  # 7 was removed
            store.add_log(2, 1, 0, b"Epoch 1\n")
            epoch = store.take_over(1100.0, "lab", "2", home="/home/ada/runs")
            attempt = store.claim(epoch, 3, 1101.0, gpus=1, cpus=1)
            assert attempt is not None
            assert attempt.number == 2

    def test_it_is_noted_as_the_newest_and_keeps_its_name(self, old_place: Path | str) -> None:
        with closing(sqlite3.connect(FIRST)) as connection:
            queue_id = connection.execute("SELECT id FROM queue").fetchone()[0]
        with open_store(old_place) as store, store._database.reader.connect() as connection:
            assert store.queue_id == queue_id
            assert noted(connection) == (str(SCHEMA_VERSION), SCHEMA_VERSION)
            assert differences(connection) == []

    def test_a_copy_of_the_file_stays_beside_it(self, old_file: Path) -> None:
        open_store(old_file).close()
        copy = old_file.with_name("queue.db.schema-1")
        with closing(sqlite3.connect(copy)) as kept, closing(sqlite3.connect(FIRST)) as before:
            assert list(kept.iterdump()) == list(before.iterdump())
        assert sorted(path.name for path in old_file.parent.iterdir()) == [
            "queue.db",
            "queue.db.lock",
            "queue.db.schema-1",
        ]

    def test_many_at_the_same_instant_migrate_it_once(self, old_place: Path | str) -> None:
        barrier, failures = threading.Barrier(6), []

        def opening() -> None:
            barrier.wait()
            try:
                open_store(old_place).close()
            except StoreError as error:
                failures.append(error)

        threads = [threading.Thread(target=opening) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        with open_store(old_place) as store, store._database.reader.connect() as connection:
            assert noted(connection) == (str(SCHEMA_VERSION), SCHEMA_VERSION)

    def test_a_scheduler_of_the_first_version_goes_on_meanwhile(self, old_file: Path) -> None:
        """Its statements use these column names and no others."""
        with closing(sqlite3.connect(old_file, isolation_level=None)) as first:
            open_store(old_file).close()
            first.execute("UPDATE queue SET at = 1016.0, cores = 16, message = 'here'")
            first.execute("UPDATE runs SET step = 41, answered_at = 1016.0 WHERE id = 2")
        with open_store(old_file) as store:
            beat, run = store.scheduler_beat(), store.run(2)
        assert beat is not None
        assert run is not None
        assert (beat.at, run.step) == (1016.0, 41)


class TestOpeningOneWithoutCode:
    """A queue of the second schema, whose runs used the installed code."""

    @pytest.fixture
    def second(self, tmp_path: Path) -> Path:
        return Path(shutil.copy(SECOND, tmp_path / "queue.db"))

    def test_every_run_is_there_as_it_was_and_has_no_code(self, second: Path) -> None:
        with open_store(second) as store:
            runs = {run.name: run for run in store.runs()}
            assert {name: run.state for name, run in runs.items()} == {
                "finished": State.FINISHED,
                "running": State.RUNNING,
                "queued": State.QUEUED,
                "failed": State.FAILED,
            }
            assert {(run.code, run.submit_python, run.torch) for run in runs.values()} == {(None, None, None)}
            assert [attempt.code for attempt in store.attempts(runs["running"].id)] == [None]
            assert store.log(runs["running"].id, 1) == b"Epoch 1\n"
            beat = store.scheduler_beat()
        assert beat is not None
        assert (beat.code, beat.protocol) == (None, None)
        assert [machine["name"] for machine in beat.machines] == ["gpu1", "gpu2"]
        assert second.with_name("queue.db.schema-2").exists()

    def test_they_go_on_and_new_ones_bring_code(self, second: Path) -> None:
        source = Source({"capsnet/__init__.py": b"", "runner/__init__.py": b""})
        with open_store(second) as store:
            new = NewRun(name="new", config="", num_epochs=1, code=source.digest)
            assert store.add([new], now=1030.0, source=source) == [5]
            epoch = store.take_over(1100.0, "lab", "3", code="c0de")
            for number in (3, 5):
                assert store.claim(epoch, number, 1101.0, gpus=1, cpus=1)
            assert [store.attempts(number)[-1].code for number in (3, 5)] == [None, source.digest]
            store.remove([1, 4])
            assert store.source(source.digest) is not None

    def test_it_is_noted_as_the_newest(self, second: Path) -> None:
        with open_store(second) as store, store._database.reader.connect() as connection:
            assert noted(connection) == (str(SCHEMA_VERSION), SCHEMA_VERSION)
            assert differences(connection) == []


class TestOpeningOneWithoutBeginnings:
    """A queue of the third schema, which does not store at which epoch and step an attempt began."""

    @pytest.fixture
    def third(self, tmp_path: Path) -> Path:
        return Path(shutil.copy(THIRD, tmp_path / "queue.db"))

    def test_every_run_is_there_as_it_was_and_began_nobody_knows_where(self, third: Path) -> None:
        with open_store(third) as store:
            runs = {run.name: run for run in store.runs()}
            assert {name: (run.state, run.workers, run.gpus) for name, run in runs.items()} == {
                "finished": (State.FINISHED, 1, 1.0),
                "running": (State.RUNNING, 2, 2.0),
                "queued": (State.QUEUED, 1, "auto"),
                "interrupted": (State.INTERRUPTED, 4, 0.0),
            }
            assert {(run.from_epoch, run.from_step, run.computes) for run in runs.values()} == {(None,) * 3}
            [attempt] = store.attempts(runs["running"].id)
            assert (attempt.host, attempt.devices, attempt.from_epoch) == ("gpu1", ("0",), None)
            assert attempt.code is not None and store.source(attempt.code) is not None
        assert third.with_name("queue.db.schema-3").exists()

    def test_what_runs_and_what_goes_on_says_where_it_began(self, third: Path) -> None:
        with open_store(third) as store:
            told = {"from_epoch": 2, "from_step": 5, "computes": "float32 on the CPU"}
            assert store.report(1, 2, 1, 1030.0, **told)
            store.resume(4, now=1040.0)
            epoch = store.take_over(1100.0, "lab", "4")
            assert store.claim(epoch, 4, 1101.0, gpus=0, cpus=2)
            assert store.report(epoch, 4, 2, 1102.0, **told)
            begun = [attempt.from_epoch for number in (2, 4) for attempt in store.attempts(number)]
            assert begun == [2, None, 2]

    def test_it_is_noted_as_the_newest(self, third: Path) -> None:
        with open_store(third) as store, store._database.reader.connect() as connection:
            assert noted(connection) == (str(SCHEMA_VERSION), SCHEMA_VERSION)
            assert differences(connection) == []


class TestOpeningOneWithoutIdentities:
    """A queue of the fourth schema, whose runs have numbers but no identities."""

    @pytest.fixture
    def fourth(self, tmp_path: Path) -> Path:
        return Path(shutil.copy(FOURTH, tmp_path / "queue.db"))

    def test_every_run_is_there_as_it_was_and_has_no_identity(self, fourth: Path) -> None:
        with open_store(fourth) as store:
            runs = {run.name: run for run in store.runs()}
            assert {name: run.state for name, run in runs.items()} == {
                "finished": State.FINISHED,
                "running": State.RUNNING,
                "queued": State.QUEUED,
                "failed": State.FAILED,
            }
            told = {(run.identity, run.user_note, run.overrides, run.annotations) for run in runs.values()}
            assert told == {(None, None, (), 0)}
            assert runs["finished"].computes == "float32 on GPU 0"
        assert fourth.with_name("queue.db.schema-4").exists()

    def test_only_what_tracking_lacks_is_unpublished(self, fourth: Path) -> None:
        with open_store(fourth) as store:
            assert [run.name for run in store.unpublished()] == ["running", "failed"]

    def test_a_new_run_has_an_identity(self, fourth: Path) -> None:
        with open_store(fourth) as store:
            [number] = store.add([NewRun(name="new", config="", num_epochs=1)], now=1030.0)
            run = store.run(number)
        assert run is not None
        assert run.identity is not None and len(run.identity) == 32

    def test_it_is_noted_as_the_newest(self, fourth: Path) -> None:
        with open_store(fourth) as store, store._database.reader.connect() as connection:
            assert noted(connection) == (str(SCHEMA_VERSION), SCHEMA_VERSION)
            assert differences(connection) == []


# Migrates; killed at the statement with the given number, or after the last one if there are fewer.
KILLED = """
import os, signal, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
from runner.store import open_store

left = int(sys.argv[2])

@event.listens_for(Engine, "after_cursor_execute")
def count(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

open_store(sys.argv[1])
"""


@pytest.mark.slow
def test_a_migration_that_is_killed_anywhere_leaves_the_old_schema_or_the_new(old_place: Path | str) -> None:
    names = []
    for statement in range(1, 200):
        run = subprocess.run([sys.executable, "-c", KILLED, str(old_place), str(statement)], check=False)
        engine = create_engine(f"sqlite:///{old_place}" if isinstance(old_place, Path) else old_place)
        with engine.connect() as connection:
            found = schema.look(connection)
            assert found is not None
            if found.is_old:
                assert not inspect(connection).has_table("log_pieces")
            else:
                assert differences(connection) == []
        engine.dispose()
        names.append(found.revision)
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL
    assert names[-1] == SCHEMA_VERSION
    assert names.count(1) > 5


class TestRefusing:
    def refused(self, place: Path | str) -> str:
        with pytest.raises(StoreError) as caught:
            open_store(place)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_a_newer_schema_is_left_alone(self, old_place: Path | str) -> None:
        with open_store(old_place) as store, store._database.writer.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9'"))
        said = self.refused(old_place)
        assert (
            f"written by a newer version of this program (schema 9, this one knows {SCHEMA_VERSION})" in said
        )
        assert said.endswith("update this installation")

    def test_the_first_version_refuses_a_migrated_file(self, old_file: Path) -> None:
        """It compares this number to its own."""
        open_store(old_file).close()
        with closing(sqlite3.connect(old_file)) as connection:
            assert connection.execute("SELECT schema_version FROM queue").fetchone() == (SCHEMA_VERSION,)

    def test_a_file_whose_copy_cannot_be_kept_is_not_migrated(self, old_file: Path) -> None:
        old_file.with_name("queue.db.schema-1.new").mkdir()
        assert str(old_file) in self.refused(old_file)
        with closing(sqlite3.connect(old_file)) as connection:
            assert connection.execute("SELECT schema_version FROM queue").fetchone() == (1,)


def test_opening_an_up_to_date_queue_needs_no_alembic(tmp_path: Path) -> None:
    code = (
        "import sys; from runner.store import open_store\n"
        "for create in (True, False): open_store(sys.argv[1], create).close()\n"
        "print([name for name in ('alembic', 'psycopg', 'mako') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "queue.db")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
