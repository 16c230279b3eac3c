"""Source in the queue's database: there once, as long as any run needs it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from runner import tables
from runner.protocol import PROTOCOL
from runner.rows import NewRun, Origin
from runner.source import Source, SourceError
from runner.states import Event
from runner.store import Store, open_store

OLD = Source({"capsnet/__init__.py": b"", "runner/__init__.py": b"version = 1\n"})
NEW = Source({"capsnet/__init__.py": b"", "runner/__init__.py": b"version = 2\n"})


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    return tmp_path / "queue.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def store(place: Path | str) -> Iterator[Store]:
    with open_store(place) as opened:
        yield opened


@pytest.fixture
def epoch(store: Store) -> int:
    return store.take_over(100.0, "lab", "1.0", code=NEW.digest)


def add(store: Store, source: Source | None = OLD) -> int:
    new = NewRun(name="mnist", config="", num_epochs=5, code=source and source.digest)
    return store.add([new], 1.0, source)[0]


def end(store: Store, epoch: int, run: int) -> None:
    attempt = store.claim(epoch, run, 101.0, gpus=0, cpus=1)
    assert attempt is not None
    store.end(epoch, run, attempt.number, Event.FAIL, 102.0, "failed", "no")


def renew(store: Store, run: int, source: Source) -> None:
    origin = Origin(
        code=source.digest, submit_python="3.12.0", submit_torch=None, git_commit="c0ffee", git_dirty=True
    )
    store.resume(run, origin=origin, source=source, now=103.0)


def kept(store: Store) -> int:
    with store._database.reader.connect() as connection:
        return connection.execute(select(func.count()).select_from(tables.sources)).scalar_one()


def test_source_is_kept_once_for_all_runs_and_comes_back_whole(store: Store) -> None:
    for source in (OLD, OLD, NEW, None):
        add(store, source)
    assert kept(store) == 2
    found = store.source(OLD.digest)
    assert found is not None
    assert (found.protocol, found.archive.files()) == (PROTOCOL, OLD.files)
    assert store.source("0" * 64) is None


def test_a_submit_that_fails_keeps_none(store: Store) -> None:
    with pytest.raises(Exception, match="name"):
        store.add([NewRun(name=None, config="", num_epochs=1)], 1.0, OLD)  # pyright: ignore
    assert kept(store) == 0


def test_source_goes_with_the_last_run_that_needs_it(store: Store, epoch: int) -> None:
    first, second, other = add(store), add(store), add(store, NEW)
    for run in (first, second, other):
        end(store, epoch, run)
    store.remove([first])
    assert store.source(OLD.digest) is not None
    store.remove([second])
    assert store.source(OLD.digest) is None
    assert store.source(NEW.digest) is not None


def test_a_resumed_run_keeps_its_code(store: Store, epoch: int) -> None:
    run = add(store)
    end(store, epoch, run)
    store.resume(run, now=103.0)
    end(store, epoch, run)
    assert [attempt.code for attempt in store.attempts(run)] == [OLD.digest, OLD.digest]


def test_new_code_is_for_the_attempts_to_come_and_what_the_old_ones_ran_stays(
    store: Store, epoch: int
) -> None:
    run = add(store)
    end(store, epoch, run)
    renew(store, run, NEW)
    found = store.run(run)
    assert found is not None
    assert (found.code, found.submit_python, found.git_commit, found.git_dirty) == (
        NEW.digest,
        "3.12.0",
        "c0ffee",
        True,
    )
    end(store, epoch, run)
    assert [attempt.code for attempt in store.attempts(run)] == [OLD.digest, NEW.digest]
    assert kept(store) == 2
    store.remove([run])
    assert kept(store) == 0


def test_code_that_no_attempt_has_run_goes_when_new_code_takes_its_place(store: Store) -> None:
    run = add(store)
    store.ask(run, "cancel", 0.0, 102.0)
    renew(store, run, NEW)
    assert store.source(OLD.digest) is None
    assert store.source(NEW.digest) is not None


def test_the_scheduler_says_which_code_it_is_and_what_it_speaks(store: Store, epoch: int) -> None:
    beat = store.scheduler_beat()
    assert beat is not None
    assert (beat.code, beat.protocol) == (NEW.digest, PROTOCOL)


def test_source_that_was_damaged_in_the_database_is_noticed(store: Store) -> None:
    add(store)
    with store._database.writer.begin() as connection:
        connection.execute(update(tables.sources).values(archive=NEW.archive.data))
    found = store.source(OLD.digest)
    assert found is not None
    with pytest.raises(SourceError, match="is damaged"):
        found.archive.files()


def test_runs_added_and_removed_at_the_same_time_never_lack_their_source(place: Path | str) -> None:
    """The last run that needs it is removed at the moment at which another one that needs it is added."""
    with open_store(place) as store:
        epoch = store.take_over(100.0, "lab", "1.0")
        barrier, failures = threading.Barrier(2), []

        def adding() -> None:
            with open_store(place) as other:
                for _ in range(20):
                    barrier.wait()
                    add(other)

        adder = threading.Thread(target=adding)
        adder.start()
        for _ in range(20):
            for run in store.runs():
                end(store, epoch, run.id)
            ended = [run.id for run in store.runs()]
            barrier.wait()
            store.remove(ended)
            failures += [run.id for run in store.runs() if store.source(OLD.digest) is None]
            wait_for_one(store)
        adder.join()
        assert failures == []


def wait_for_one(store: Store) -> None:
    while not store.runs():
        pass
