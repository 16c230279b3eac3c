"""Whether a queue is at its place, was moved, or is a copy."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import postgres
import pytest

from runner.place import FilePlace, holds, is_copy, of_file, read_file_place
from runner.store import open_store

NOTED = FilePlace("/a/queue.db", "bench", inode=1, device=2)
COPY = FilePlace("/b/queue.db", "bench", inode=9, device=2)


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    "here",
    [
        NOTED,
        replace(NOTED, inode=9),  # put back from a copy
        replace(NOTED, inode=9, device=7, host="another"),  # in another container
        replace(NOTED, file="/b/queue.db"),  # renamed, or the same folder under another path
        replace(NOTED, file="/mnt/queue.db", host="another", device=7),  # the same on a file server
    ],
)
def test_the_queue_itself_is_no_copy_wherever_it_is_and_whatever_is_left(
    here: FilePlace, there: bool
) -> None:
    assert not is_copy(NOTED, here, lambda file: there)


@pytest.mark.parametrize("here", [COPY, replace(COPY, inode=1, device=7)])
def test_another_file_is_a_copy_while_the_queue_is_at_its_place_and_was_moved_otherwise(
    here: FilePlace,
) -> None:
    assert is_copy(NOTED, here, lambda file: file == NOTED.file)
    assert not is_copy(NOTED, here, lambda file: False)


def test_on_another_host_nobody_knows_whether_it_was_copied_or_moved() -> None:
    assert is_copy(NOTED, replace(COPY, host="another"), lambda file: False)


def test_of_before_queues_noted_their_place_the_path_alone_is_known() -> None:
    before = FilePlace(NOTED.file)
    assert not is_copy(before, NOTED, lambda file: True)
    assert is_copy(before, COPY, lambda file: True)
    assert not is_copy(before, COPY, lambda file: False)


def test_a_place_is_kept_as_text(tmp_path: Path) -> None:
    (tmp_path / "queue.db").touch()
    place = of_file(tmp_path / "queue.db")
    assert read_file_place(place.text) == place
    for text in ('{"server": "7", "database": 1}', "nonsense", "[]"):
        assert read_file_place(text) is None


def test_a_file_holds_a_queue_or_not_and_is_not_touched_by_the_question(tmp_path: Path) -> None:
    file = tmp_path / "queue.db"
    with open_store(file) as store:
        store.add([], 1.0)
        store.note_place()
        assert holds(str(file), store.queue_id)  # while it is in use
    content, files = file.read_bytes(), set(tmp_path.iterdir())
    assert holds(str(file), store.queue_id)
    assert not holds(str(file), "another")
    assert (file.read_bytes(), set(tmp_path.iterdir())) == (content, files)
    for other in (tmp_path / "absent", tmp_path, tmp_path / "text"):
        (tmp_path / "text").write_text("no database at all, and long enough to be seen not to be one" * 20)
        assert not holds(str(other), store.queue_id)
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE t (c)")
    assert not holds(str(tmp_path / "other.db"), store.queue_id)


def test_a_queue_in_a_file_tells_its_copies(tmp_path: Path) -> None:
    file, copy = tmp_path / "home/queue.db", tmp_path / "copy/queue.db"
    with open_store(file) as store:
        assert store.original() is None
        store.note_place()
    shutil.copytree(file.parent, copy.parent)
    with open_store(copy) as store:
        assert store.original() == str(file.parent)
        assert store.original(of_file(copy).text) is None
    file.rename(tmp_path / "elsewhere.db")
    with open_store(tmp_path / "elsewhere.db") as store:
        assert store.original() is None
        store.note_place()
    with open_store(copy) as store:  # nothing is at the place that it has noted
        assert store.original() is None
    shutil.copy(tmp_path / "elsewhere.db", tmp_path / "elsewhere2.db")
    with open_store(tmp_path / "elsewhere2.db") as store:
        assert store.original() == str(tmp_path / "elsewhere.db")


def test_a_queue_on_a_server_is_the_same_for_all_hosts_and_a_database_made_from_it_is_a_copy(
    postgres_server: postgres.Server,
) -> None:
    url = postgres_server.new_database()
    name = url.rpartition("/")[2]
    with open_store(url) as store:
        assert store.original() is None
        store.note_place()
        place = store.place()
    with open_store(url.replace("127.0.0.1", "localhost")) as store:
        assert (store.original(), store.place()) == (None, place)
    copy = postgres_server.new_database(template=name)
    with open_store(copy) as store:
        assert store.original() == f"the database {name}"
        another = {**json.loads(place), "server": 1}  # put back on a new server
        assert store.original(json.dumps(another)) is None
        assert store.original("nonsense") is None
    postgres_server.execute(f'ALTER DATABASE "{name}" RENAME TO "{name}-renamed"')
    with open_store(copy) as store:
        assert store.original() == f"the database {name}-renamed"
    postgres_server.execute(f'DROP DATABASE "{name}-renamed"')
    with open_store(copy) as store:
        assert store.original() is None
        store.note_place()
        assert store.original() is None


def test_a_user_who_may_not_ask_which_server_it_is_has_a_queue_all_the_same(
    postgres_server: postgres.Server,
) -> None:
    name = postgres_server.new_database().rpartition("/")[2]
    postgres_server.execute("CREATE ROLE modest LOGIN PASSWORD 'm'")
    postgres_server.execute(
        "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC; GRANT ALL ON SCHEMA public TO modest",
        database=name,
    )
    with open_store(postgres_server.url(name, "modest", "m")) as store:
        store.note_place()
        assert json.loads(store.place())["server"] is None
        assert store.original() is None
