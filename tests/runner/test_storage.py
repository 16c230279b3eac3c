"""The same contract for every storage: a folder of this host, one that is shared, an object store."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from capsnet import checkpoint
from capsnet.figures import output
from runner import storage
from runner.paths import Home
from runner.rows import NewRun, Run
from runner.storage import Ending, Log, Storage, StorageError
from runner.store import open_store
from runner.workplace import Workplace
from runner.workplace import of as workplace_of

CONFIG = "num_epochs: 3\n"


@dataclass
class Kept:
    """A storage, and the runs of one home in it."""

    home: Home
    storage: Storage
    scratch: Path

    def work(self, run: Run) -> Workplace:
        """Begin the run's newest attempt, as scheduler and worker do."""
        self.storage.prepare(run)
        place = workplace_of(self.home, run.id, run.name, run.attempt, run.config, identity=run.identity)
        place.open()
        place.claim(0.0, lambda trouble: None)
        return place

    def elsewhere(self, folder: Path) -> Storage:
        """Return the storage as seen by another host, which shares only the storage with this one."""
        return storage.of(replace(self.home, root=folder)) if self.home.remote else self.storage


@pytest.fixture(params=["home", "shared folder", "s3"])
def kept(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    place = None
    if request.param == "shared folder":
        place = str(tmp_path / "shared")
    if request.param == "s3":
        place = request.getfixturevalue("s3_server").new_url()
    monkeypatch.setenv("RUNNER_SCRATCH", str(tmp_path / "scratch"))
    home = Home(tmp_path / "home", storage=place)
    home.root.mkdir()
    return Kept(home, storage.of(home), tmp_path / "scratch" / f"runner-scratch-{os.getuid()}")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose first attempt has begun."""
    with open_store(tmp_path / "queue.db") as store:
        [number] = store.add([NewRun(name="digits", config=CONFIG, num_epochs=3)], 1.0)
        run = store.run(number)
    assert run is not None
    return replace(run, id=7, attempt=1)


def untroubled(trouble: object) -> None:
    raise AssertionError(trouble)


def write(place: Workplace, number: int, text: bytes) -> None:
    """Save a checkpoint, as the keeper of an attempt does."""
    file = place.run.attempt(number).checkpoint
    previous = checkpoint.previous_path(file)
    if file.exists():
        file.replace(previous)
    file.write_bytes(text)
    place.run.attempt(number).history.write_text("epoch,time\n" + f"{len(text)},0\n")
    place.save()


def read(kept: Storage, run: Run) -> bytes | None:
    with kept.checkpoint(run) as file:
        return None if file is None else file.read_bytes()


def test_a_queue_takes_a_storage_for_its_own_and_no_other_queue_may_use_it(kept: Kept) -> None:
    kept.storage.check("queue-1")
    kept.storage.check("queue-1")
    if kept.home.storage is None:
        return
    with pytest.raises(StorageError, match=r"holds the runs of another queue \(queue-1\)"):
        kept.storage.check("queue-2")


def test_what_was_saved_is_found_by_whoever_looks_from_another_host(
    kept: Kept, run: Run, tmp_path: Path
) -> None:
    other = kept.elsewhere(tmp_path / "other")
    assert read(other, run) is None
    place = kept.work(run)
    for text in (b"one", b"second", b"the third"):
        write(place, 1, text)
        assert read(other, run) == text
    paths = other.read(run, "metrics")
    assert paths.attempt(1).history.read_text() == "epoch,time\n9,0\n"
    place.leave()
    assert read(other, run) == b"the third"


def test_logs_samples_pictures_and_boards_arrive_as_they_grow(kept: Kept, run: Run, tmp_path: Path) -> None:
    other = kept.elsewhere(tmp_path / "other")
    place = kept.work(run)
    attempt = place.run.attempt(1)
    attempt.figures.mkdir()
    place.run.tensorboard.mkdir()
    for line in ("one\n", "two\n"):
        with attempt.log.open("a") as log, attempt.system.open("a") as system:
            log.write(line)
            system.write(line)
        (attempt.figures / "curves.png").write_text(line)
        with (place.run.tensorboard / "events.out.tfevents.1.host").open("a") as events:
            events.write(line)
        place.settle(0.0, untroubled)
        paths = other.read(run, Log(), "metrics", "figures", "tensorboard")
        seen = paths.attempt(1)
        assert seen.log.read_text() == seen.system.read_text() == attempt.log.read_text()
        assert (seen.figures / "curves.png").read_text() == line
        assert (paths.tensorboard / "events.out.tfevents.1.host").read_text() == attempt.log.read_text()
        assert (paths.folder / "log.txt").read_text() == attempt.log.read_text()
    assert paths.config.read_text() == CONFIG


def test_of_several_workers_the_log_of_the_one_that_is_asked_for_arrives(
    kept: Kept, run: Run, tmp_path: Path
) -> None:
    place = kept.work(run)
    attempt = place.run.attempt(1)
    for rank in range(3):
        attempt.log_of(rank).write_text(f"rank {rank}\n")
    place.settle(0.0, untroubled)
    for rank in range(3):
        one = kept.elsewhere(tmp_path / f"reader-{rank}").read(run, Log(rank)).attempt(1)
        assert one.log_of(rank).read_text() == f"rank {rank}\n"
        assert not kept.home.remote or one.logs == [one.log_of(rank)]


def test_an_ending_is_known_once_it_was_put_down(kept: Kept, run: Run) -> None:
    place = kept.work(run)
    assert kept.storage.ending(run) is None
    ending = Ending(1, "failed", "loss is nan", 12.5)
    place.end(ending)
    assert kept.storage.ending(run) == ending
    later = replace(run, attempt=2)
    kept.work(later)
    assert kept.storage.ending(later) is None


def test_the_next_attempt_gets_what_the_one_before_has_saved_and_the_oldest_goes(
    kept: Kept, run: Run
) -> None:
    for number, texts in ((1, [b"1a", b"1b"]), (2, [b"2a"]), (3, [b"3a", b"3b"]), (4, [])):
        place = kept.work(replace(run, attempt=number))
        place.fetch_earlier(0.0, untroubled)
        if number > 1:
            earlier = place.run.attempt(number - 1).checkpoint
            assert earlier.read_bytes() == {2: b"1b", 3: b"2a", 4: b"3b"}[number]
        for text in texts:
            write(place, number, text)
        place.leave()
    last = replace(run, attempt=4)
    assert read(kept.storage, last) == b"3b"
    assert read(kept.storage, replace(run, attempt=2)) is None, "attempt 3 has two checkpoints of its own"


def test_a_run_without_a_checkpoint_begins_anew(kept: Kept, run: Run) -> None:
    kept.work(run).leave()
    place = kept.work(replace(run, attempt=2))
    place.fetch_earlier(0.0, untroubled)
    assert not place.run.attempt(1).checkpoint.exists()


def test_a_deleted_run_leaves_nothing_and_its_size_is_known_before(kept: Kept, run: Run) -> None:
    place = kept.work(run)
    write(place, 1, bytes(100_000))
    other = replace(run, id=77)
    write(kept.work(other), 1, b"another run's")
    assert 100_000 <= kept.storage.size(run) < 150_000
    kept.storage.delete(run)
    assert read(kept.storage, run) is None
    assert kept.storage.size(run) == 0
    assert not kept.home.run(run.id, run.name).folder.exists()
    assert read(kept.storage, other) == b"another run's"


def test_pictures_that_were_drawn_later_are_kept(kept: Kept, run: Run, tmp_path: Path) -> None:
    write(kept.work(run), 1, b"weights")
    with kept.storage.checkpoint(run) as file:
        assert file is not None
        output.save(b"drawn", output.folder_of(file) / "rotate.png")
        kept.storage.keep_figures(file)
    paths = kept.elsewhere(tmp_path / "other").read(run, "figures")
    assert (paths.attempt(1).figures / "rotate.png").read_text() == "drawn"


def test_scratch_folders_go_at_the_end_and_those_of_killed_processes_later(kept: Kept, run: Run) -> None:
    if not kept.home.remote:
        pytest.skip("only an object store needs scratch folders")
    abandoned = kept.scratch / "some-other-run"
    kept.scratch.mkdir(mode=0o700, parents=True)
    abandoned.mkdir()
    (abandoned / "owner.lock").touch()
    place = kept.work(run)
    assert not abandoned.exists()
    second = kept.work(replace(run, id=8))
    assert len(list(kept.scratch.glob("*/"))) == 2
    assert kept.scratch.stat().st_mode & 0o777 == 0o700
    place.leave()
    second.leave()
    assert [file.name for file in kept.scratch.iterdir()] == ["lock"]
