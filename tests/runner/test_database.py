"""Opening the queue: an existing one, a new one, and the message if neither is possible."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import pytest
from patience import PATIENCE

from runner import sqlite
from runner.paths import Home
from runner.rows import NewRun
from runner.store import NoQueue, StoreError, open_store
from runner.tables import SCHEMA_VERSION

NEW = NewRun(name="mnist", config="num_epochs: 1\n", num_epochs=1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "home" / "queue.db"


def queue_id(place: Home | Path | str, create: bool = True) -> str:
    with open_store(place, create) as store:
        return store.queue_id


def test_a_queue_keeps_its_id_however_it_is_named(file: Path) -> None:
    assert queue_id(file) == queue_id(Home(file.parent)) == queue_id(f"sqlite:///{file}", create=False)


def test_two_queues_have_two_ids(file: Path) -> None:
    assert queue_id(file) != queue_id(file.with_name("other.db"))


def test_signs_that_mean_something_in_a_url_may_be_in_a_path(tmp_path: Path) -> None:
    odd = tmp_path / "50% of #1? [new]" / "queue.db"
    queue_id(odd)
    assert odd.exists()


def test_looking_for_a_queue_where_there_is_none_makes_nothing(file: Path) -> None:
    with pytest.raises(NoQueue, match="there is no queue yet: submit a run"):
        open_store(file, create=False)
    assert not file.parent.exists()


def test_an_empty_file_is_no_queue_yet(file: Path) -> None:
    file.parent.mkdir(parents=True)
    file.touch()
    with pytest.raises(NoQueue):
        open_store(file, create=False)
    assert queue_id(file) == queue_id(file)


def test_what_a_killed_first_opening_left_does_not_disturb_the_next(file: Path) -> None:
    file.parent.mkdir(parents=True)
    for left in ("queue.db.new", "queue.db.new-wal", "queue.db.new-shm", "queue.db.lock"):
        (file.parent / left).write_bytes(b"half a queue")
    queue_id(file)
    assert sorted(path.name for path in file.parent.iterdir()) == ["queue.db", "queue.db.lock"]


def test_the_journal_of_a_deleted_queue_does_not_come_back_to_life_in_the_next(file: Path) -> None:
    with open_store(file) as store:
        deleted = store.queue_id
        store.add([NEW], now=1.0)
        journals = {path: path.read_bytes() for path in map(Path, (f"{file}-wal", f"{file}-shm"))}
    file.unlink()
    for path, content in journals.items():
        path.write_bytes(content)
    with open_store(file) as store:
        assert store.queue_id != deleted
        assert store.runs() == []


def test_every_transaction_is_on_the_disk_before_it_counts(file: Path) -> None:
    with open_store(file) as store, store._database.reader.connect() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


def test_readers_do_not_wait_for_a_writer(file: Path) -> None:
    with open_store(file) as store, closing(sqlite3.connect(file, isolation_level=None)) as writer:
        store.add([NEW], now=1.0)
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM runs")
        assert len(store.runs()) == 1
        writer.execute("ROLLBACK")


def test_a_writer_waits_for_another_one(file: Path) -> None:
    with open_store(file) as store, closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        adding = threading.Thread(target=store.add, args=([NEW], 1.0))
        adding.start()
        adding.join(0.2)
        assert adding.is_alive()
        other.execute("COMMIT")
        adding.join(PATIENCE)
        assert len(store.runs()) == 1


class TestErrors:
    def refused(self, place: Path | str) -> str:
        with pytest.raises(StoreError) as caught:
            open_store(place)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        file = tmp_path / "queue.db"
        file.write_text("name: mnist\n" * 500)
        assert self.refused(file) == f"{file}: is not a database: set RUNNER_HOME to another folder"
        assert file.read_text() == "name: mnist\n" * 500

    def test_a_database_of_something_else_is_left_alone(self, tmp_path: Path) -> None:
        file = tmp_path / "queue.db"
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("CREATE TABLE runs (id)")
        before = file.read_bytes()
        assert (
            self.refused(file) == f"{file}: a database of something else: set RUNNER_HOME to another folder"
        )
        assert file.read_bytes() == before

    def test_a_newer_schema_is_refused(self, file: Path) -> None:
        queue_id(file)
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = ?", [str(SCHEMA_VERSION + 1)])
        assert self.refused(file) == (
            f"{file}: written by a newer version of this program (schema {SCHEMA_VERSION + 1}, "
            f"this one knows {SCHEMA_VERSION}): update this installation"
        )

    def test_a_damaged_database(self, file: Path) -> None:
        queue_id(file)
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        assert "put back a copy of it, or set RUNNER_HOME" in self.refused(file)

    def test_a_folder_where_the_file_should_be(self, tmp_path: Path) -> None:
        assert "cannot be opened" in self.refused(tmp_path)

    def test_a_home_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "home").write_text("")
        assert self.refused(tmp_path / "home" / "queue.db").endswith("set RUNNER_HOME to another folder")

    def test_a_home_where_nothing_can_be_made(self) -> None:
        assert self.refused(Path("/proc/home/queue.db")).endswith(": set RUNNER_HOME to another folder")

    def test_a_url_of_another_kind_of_database(self) -> None:
        said = self.refused("mysql://ada:secret@host/queue")
        assert "only PostgreSQL and SQLite are supported: use postgresql+psycopg://" in said
        assert "secret" not in said

    def test_a_url_that_is_none(self) -> None:
        assert "not the URL of a database" in self.refused("://")

    @pytest.mark.parametrize("text", ["ada:secret@host/queue", "postgresql:/ada:secret@host/queue"])
    def test_what_is_named_as_a_url_and_is_none_is_not_made_a_file(
        self, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(StoreError, match="RUNNER_DATABASE_URL is not the URL of a database") as caught:
            open_store(Home(tmp_path, text))
        assert "secret" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_a_queue_in_memory(self) -> None:
        assert "must outlive this process" in self.refused("sqlite:///:memory:")
        assert "must outlive this process" in self.refused("sqlite://")

    def test_a_database_that_stays_busy(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
        with open_store(file) as store, closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="another process has kept it busy"):
                store.add([NEW], now=1.0)

    def test_a_folder_in_which_the_user_may_not_write(self) -> None:
        script = (
            "import os, sys\n"
            "from runner.rows import NewRun; from runner.store import StoreError, open_store\n"
            "from sqlalchemy.dialects import sqlite\n"
            "os.getuid() or os.setuid(65534)  # the superuser may write anywhere\n"
            "try:\n"
            "    open_store(sys.argv[1]).add([NewRun(name='a', config='', num_epochs=1)], now=1.0)\n"
            "except StoreError as error:\n"
            "    print(error)"
        )
        with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to other users
            file = Path(folder) / "queue.db"
            queue_id(file)
            file.chmod(0o444)
            Path(folder).chmod(0o555)
            command = [sys.executable, "-c", script, str(file)]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            Path(folder).chmod(0o755)
        assert said.count("\n") == 1
        assert "make it writable" in said or "is its folder writable?" in said
