"""Reading how an attempt ended from a storage that is slow or unreachable."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from patience import PATIENCE, wait_until

from runner.endings import ASKERS, WAIT_SECONDS, Endings, Question
from runner.paths import Home
from runner.rows import NewRun, Run
from runner.storage import Ending, Folders, StorageError, prepare, write_ending
from runner.store import open_store


class Slow(Folders):
    """Folders that answer only once `released` is set."""

    def __init__(self, home: Home) -> None:
        super().__init__(home)
        self.released = threading.Event()
        self.away = False
        self.asked: list[int] = []

    def ending(self, run: Run) -> Ending | None:
        if self.away:
            raise StorageError("s3://bucket does not answer")
        self.asked.append(run.id)
        assert self.released.wait(PATIENCE)
        return super().ending(run)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    with open_store(tmp_path / "queue.db") as store:
        [number] = store.add([NewRun(name="digits", config="", num_epochs=3)], 1.0)
        run = store.run(number)
    assert run is not None
    return replace(run, attempt=1)


@pytest.fixture
def home(tmp_path: Path, run: Run) -> Home:
    """A home with a run whose attempt has finished."""
    home = Home(tmp_path)
    prepare(home.run(run.id, run.name), 1, "")
    write_ending(home.run(run.id, run.name).attempt(1), Ending(1, "finished", None, 2.0))
    return home


def asked(endings: Endings, run: Run) -> Question:
    endings.ask([run])
    return endings.of(run)


def test_an_ending_in_a_folder_is_known_at_once(home: Home, run: Run) -> None:
    known = asked(Endings(Folders(home)), run)
    assert known.answered and known.answer is not None and known.answer.kind == "finished"


def test_nobody_waits_for_a_slow_storage_and_it_is_asked_once(home: Home, run: Run) -> None:
    slow = Slow(home)
    endings = Endings(slow)
    assert not asked(endings, run).answered
    assert not asked(endings, run).answered
    slow.released.set()
    wait_until(lambda: endings.of(run).answered)
    assert endings.of(run).answer == Ending(1, "finished", None, 2.0)
    assert slow.asked == [run.id]


def askers() -> int:
    return sum(thread.name == "endings" for thread in threading.enumerate())


def test_however_many_have_died_they_are_waited_for_together_and_asked_by_a_few(home: Home, run: Run) -> None:
    dead = [replace(run, id=number) for number in range(1, 201)]
    slow = Slow(home)
    endings = Endings(slow)
    before, began = askers(), time.monotonic()
    endings.ask(dead)
    assert time.monotonic() - began < 200 * WAIT_SECONDS / 4
    assert askers() - before == ASKERS
    wait_until(lambda: len(slow.asked) == ASKERS)
    endings.forget(dead[199])  # killed meanwhile: its ending is not needed any more
    slow.released.set()
    wait_until(lambda: all(endings.of(one).answered for one in dead[:199]))
    assert sorted(slow.asked) == [*range(1, 200)]
    assert [one.id for one in dead[:199] if endings.of(one).answer is not None] == [run.id]


def test_a_storage_that_is_away_is_told_and_asked_until_it_answers(home: Home, run: Run) -> None:
    away = Slow(home)
    away.released.set()
    away.away = True
    endings = Endings(away)
    assert not asked(endings, run).answered
    wait_until(lambda: endings.trouble)
    assert endings.trouble == f"how run {run.id} ended is not known: s3://bucket does not answer"
    away.away = False
    wait_until(lambda: endings.of(run).answered)
    assert endings.trouble is None
