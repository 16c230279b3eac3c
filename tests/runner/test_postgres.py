"""Messages and retries when the PostgreSQL server of a queue is unreachable, refuses or fails."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import postgres
import psycopg
import pytest

from runner.paths import Home
from runner.rows import NewRun
from runner.states import Event
from runner.store import NoQueue, Store, StoreError, Unreachable, open_store

NEW = NewRun(name="mnist", config="num_epochs: 1\n", num_epochs=1)


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    with open_store(postgres_url) as opened:
        yield opened


def refused(place: Path | str, create: bool = True) -> StoreError:
    """Open a queue that cannot be opened; return the one line of error, which contains no password."""
    with pytest.raises(StoreError) as caught:
        open_store(place, create)
    said = str(caught.value)
    assert "\n" not in said
    assert postgres.PASSWORD not in said
    assert "secret" not in said
    return caught.value


def passes(place: str) -> str:
    error = refused(place)
    assert type(error) is Unreachable
    return str(error)


def stays(place: str) -> str:
    error = refused(place)
    assert type(error) is StoreError
    return str(error)


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "said"),
        [
            (
                "postgresql+psycopg2://ada:secret@host/queue",
                "driver is not supported: use postgresql+psycopg://",
            ),
            ("postgres://ada:secret@host/queue", "only PostgreSQL and SQLite are supported: use postgresql+"),
            ("nosuch+driver://ada:secret@host/queue", "only PostgreSQL and SQLite are supported"),
            ("postgresql://ada:secret@host", "postgresql://host: names no database: use postgresql+psycopg"),
            ("postgresql://ada:secret@host/", "names no database"),
            (
                "postgresql://ada:secret@host:five/queue",
                "is not the URL of a database: use postgresql+psycopg",
            ),
            (
                "postgresql://ada:secr@et@host/queue",
                "more than one @: in a user's name or password write %40",
            ),
            ("postgresql://ada:secret@127.0.0.1:1/queue?sslmode=maybe", 'invalid sslmode value: "maybe"'),
            ("postgresql://ada:secret@127.0.0.1:1/queue?colour=red", 'invalid connection option "colour"'),
            ("postgresql://ada:secret@127.0.0.1:1/queue?connect_timeout=a", "bad value for connect_timeout"),
            ("postgresql://ada:secret@127.0.0.1:99999/queue", "invalid port number"),
        ],
    )
    def test_a_wrong_one_is_said_to_be_wrong(self, url: str, said: str) -> None:
        assert said in stays(url)

    def test_the_driver_need_not_be_named(self, postgres_url: str, store: Store) -> None:
        with open_store(postgres_url.replace("+psycopg", ""), create=False) as same:
            assert same.queue_id == store.queue_id

    def test_a_home_names_it(self, postgres_url: str, store: Store, tmp_path: Path) -> None:
        with open_store(Home(tmp_path, postgres_url), create=False) as same:
            assert same.queue_id == store.queue_id

    def test_what_a_url_says_of_the_connection_counts(self, postgres_url: str) -> None:
        options = "?application_name=lab&options=-c%20lock_timeout%3D3s"
        with open_store(postgres_url + options) as store, store._database.writer.connect() as connection:
            shown = [
                connection.exec_driver_sql(f"SHOW {name}").scalar()
                for name in ("application_name", "lock_timeout", "idle_in_transaction_session_timeout")
            ]
        assert shown == ["lab", "3s", "30s"]

    def test_psycopg_is_asked_for_where_it_is_missing(self) -> None:
        code = (
            "import sys; sys.modules['psycopg'] = None\n"
            "from runner.store import StoreError, open_store\n"
            "try: open_store('postgresql://ada:secret@host/queue')\n"
            "except StoreError as error: print(error)"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert run.stdout.startswith("a queue on PostgreSQL needs psycopg: pip install 'psycopg[binary]'")
        assert run.stdout.count("\n") == 1


class TestConnecting:
    def test_a_host_that_nobody_knows(self) -> None:
        said = passes("postgresql://ada:secret@host.invalid/queue")
        assert said.startswith("postgresql://ada@host.invalid/queue: its host is not known here")

    def test_a_port_at_which_nobody_answers(self) -> None:
        with closing(socket.socket()) as taken:
            taken.bind(("127.0.0.1", 0))  # and does not listen
            port = taken.getsockname()[1]
            said = passes(f"postgresql://ada:secret@127.0.0.1:{port}/queue")
        assert said == f"postgresql://ada@127.0.0.1:{port}/queue: no server answers there: is it running?"

    def test_a_socket_at_which_nobody_answers(self, tmp_path: Path) -> None:
        assert "no server answers there" in passes(f"postgresql:///queue?host={tmp_path}")

    @pytest.mark.slow
    def test_a_port_at_which_somebody_listens_and_says_nothing(self) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as mute:
            began = time.monotonic()
            said = passes(f"postgresql://ada:secret@127.0.0.1:{mute.getsockname()[1]}/queue")
        assert "the server does not answer" in said
        assert time.monotonic() - began < 15.0

    def test_a_wrong_password(self, postgres_server: postgres.Server) -> None:
        said = stays(postgres_server.url("postgres", password="secret"))
        assert said.endswith("the user or the password is wrong: correct RUNNER_DATABASE_URL")

    def test_no_password(self, postgres_server: postgres.Server) -> None:
        url = f"postgresql://postgres@127.0.0.1:{postgres_server.port}/postgres"
        assert "the server wants a password" in stays(url)

    def test_a_missing_database(self, postgres_server: postgres.Server) -> None:
        assert "there is no database of this name: make it with `createdb`" in stays(
            postgres_server.url("nix")
        )

    def test_a_missing_role(self, postgres_server: postgres.Server) -> None:
        # Through the network the server does not tell a missing role from a wrong password.
        assert "the user or the password is wrong" in stays(postgres_server.url("postgres", user="nobody"))
        through_socket = (
            f"postgresql://nobody@/postgres?host={postgres_server.folder}&port={postgres_server.port}"
        )
        assert "there is no user of this name: make it with `createuser`" in stays(through_socket)

    def test_a_server_without_encryption_where_it_is_wanted(self, postgres_server: postgres.Server) -> None:
        assert "does not support SSL" in stays(postgres_server.url("postgres") + "?sslmode=require")


class TestMaking:
    def test_a_vacant_database_holds_no_queue_until_it_is_made(
        self, postgres_server: postgres.Server
    ) -> None:
        url = postgres_server.new_database()
        error = refused(url, create=False)
        assert isinstance(error, NoQueue)
        assert str(error).endswith(": there is no queue yet: submit a run")
        with open_store(url) as made, open_store(url, create=False) as found:
            assert made.queue_id == found.queue_id

    def test_a_database_of_something_else_is_left_alone(self, postgres_server: postgres.Server) -> None:
        url = postgres_server.new_database()
        name = url.rpartition("/")[2]
        postgres_server.execute("CREATE TABLE runs (run_uuid text)", database=name)
        assert "a database of something else: make another one with `createdb`" in stays(url)
        tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        assert postgres_server.execute(tables, database=name) == [("runs",)]

    def test_a_user_who_may_make_no_tables(self, postgres_server: postgres.Server) -> None:
        url = postgres_server.new_database()
        postgres_server.execute("CREATE ROLE reader LOGIN PASSWORD 'secret'")
        name = url.rpartition("/")[2]
        theirs = postgres_server.url(name, user="reader", password="secret")
        assert "this user may make no tables: GRANT CREATE ON SCHEMA public" in stays(theirs)
        open_store(url).close()
        assert "this user may not use the queue's tables" in stays(theirs)


class TestStaying:
    def test_every_limit_is_set(self, store: Store) -> None:
        with store._database.writer.connect() as connection:
            shown = {
                name: connection.exec_driver_sql(f"SHOW {name}").scalar()
                for name in ("lock_timeout", "idle_in_transaction_session_timeout", "transaction_isolation")
            }
        assert shown == {
            "lock_timeout": "10s",
            "idle_in_transaction_session_timeout": "30s",
            "transaction_isolation": "read committed",
        }

    def test_a_read_sees_one_state(self, store: Store) -> None:
        with store._reading() as connection:
            before = connection.exec_driver_sql("SELECT count(*) FROM runs").scalar()
            store.add([NEW], now=1.0)
            assert connection.exec_driver_sql("SELECT count(*) FROM runs").scalar() == before == 0

    def test_words_that_a_database_refuses_are_kept_as_far_as_they_go(self, store: Store) -> None:
        (run,) = store.add([NEW], now=1.0)
        epoch = store.take_over(2.0, "lab", "1")
        store.claim(epoch, run, 3.0, gpus=1, cpus=1)
        store.end(epoch, run, 1, Event.FAIL, 4.0, "failed", "bad magic \0\1 in \udcff.png")
        ended = store.run(run)
        assert ended is not None
        assert ended.reason == "bad magic \N{REPLACEMENT CHARACTER}\1 in ?.png"

    def test_a_connection_that_the_server_ended_is_replaced(self, store: Store, postgres_server) -> None:
        store.add([NEW], now=1.0)
        postgres_server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'runner'"
        )
        assert len(store.runs()) == 1

    def test_a_server_that_was_restarted_is_found_again(self, postgres_server, store: Store) -> None:
        store.add([NEW], now=1.0)
        for mode in ("fast", "immediate"):
            postgres_server.restart(mode)
            assert len(store.runs()) == 1

    def test_a_server_that_is_down_is_unreachable_until_it_is_up(self, postgres_server, store: Store) -> None:
        with postgres_server.down():
            for act in (store.runs, lambda: store.add([NEW], now=1.0)):
                with pytest.raises(Unreachable, match=r"no server answers there: is it running\?$"):
                    act()
        assert store.add([NEW], now=1.0) == [1]

    def test_a_server_that_has_no_connection_left(self, postgres_server) -> None:
        url = postgres_server.new_database()
        postgres_server.execute("CREATE ROLE ada LOGIN PASSWORD 'secret'")
        theirs = postgres_server.url(url.rpartition("/")[2], user="ada", password="secret")
        held = []
        try:
            while len(held) < 100:
                held.append(postgres_server.connect("postgres"))
        except psycopg.OperationalError:
            pass
        try:
            assert "the server has no connection left: try again" in passes(theirs)
        finally:
            for connection in held:
                connection.close()

    def test_a_commit_whose_answer_is_lost_is_said_to_be_in_doubt(
        self, store: Store, postgres_server: postgres.Server
    ) -> None:
        # Checked at the commit, where the server ends the connection as a crash would.
        postgres_server.execute(
            "CREATE FUNCTION fall() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$; "
            "CREATE CONSTRAINT TRIGGER fall AFTER INSERT ON runs DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION fall()",
            database=store._database.writer.url.database or "",
        )
        try:
            with pytest.raises(Unreachable, match="may be done or not: look before you ask again"):
                store.add([NEW], now=1.0)
        finally:
            postgres_server.execute(
                "DROP TRIGGER fall ON runs; DROP FUNCTION fall",
                database=store._database.writer.url.database or "",
            )
        assert store.runs() == []

    @pytest.mark.slow
    def test_a_writer_that_is_kept_waiting_says_so(self, store: Store, postgres_server) -> None:
        (run,) = store.add([NEW], now=1.0)
        with closing(postgres_server.connect(store._database.writer.url.database)) as other:
            other.execute("BEGIN; SELECT * FROM runs FOR UPDATE")
            with pytest.raises(Unreachable, match="another process has kept the queue busy: try again"):
                store.set_priority_each([run], 1)
        store.set_priority_each([run], 2)

    @pytest.mark.slow
    def test_a_server_that_hangs_is_given_up(self, postgres_server, store: Store) -> None:
        store.add([NEW], now=1.0)
        with postgres_server.hung():
            for act in (store.runs, lambda: store.add([NEW], now=1.0)):
                began = time.monotonic()
                with pytest.raises(Unreachable, match="the server does not answer"):
                    act()
                assert time.monotonic() - began < 30.0
        assert len(store.runs()) == 1

    @pytest.mark.slow
    def test_a_server_that_hangs_in_the_middle_of_a_transaction_is_given_up(
        self, postgres_server, store: Store
    ) -> None:
        began = time.monotonic()
        with pytest.raises(Unreachable, match="the server does not answer"), store._writing() as connection:
            connection.exec_driver_sql("INSERT INTO log_pieces SELECT 1, 1, 1, ''  WHERE false")
            with postgres_server.hung():
                connection.exec_driver_sql("SELECT 1")
        assert time.monotonic() - began < 30.0
        assert store.add([NEW], now=1.0) == [1]
