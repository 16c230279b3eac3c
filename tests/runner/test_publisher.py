"""From a run's folder and row to MLflow, against MLflow's own SQLite store."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from published import CONFIG, Scheduler, append_samples, draw, files, mlflow_run, mlflow_runs, points, steps

from capsnet.history import write_history
from runner import ownership, record, tracking
from runner import publisher as publishing
from runner.log_copy import SETTLING_SECONDS, LogCopy
from runner.paths import Home
from runner.publisher import Publisher
from runner.record import SAMPLE
from runner.rows import NewRun
from runner.states import Event, State
from runner.store import Store, open_store
from runner.tracking import Tracker


@pytest.fixture
def home(tmp_path: Path, new_mlflow_store: Path) -> Home:
    home = Home(tmp_path / "runs")
    home.root.mkdir()
    shutil.copy(new_mlflow_store, home.mlflow_database)
    return home


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    with open_store(home) as store:
        yield store


@pytest.fixture
def tracker(home: Home) -> Tracker:
    # An experiment of its own: the copied store's one keeps its files in the template's folder.
    tracker = Tracker(tracking.target(home, {"MLFLOW_EXPERIMENT_NAME": "test"}))
    tracker.check()
    return tracker


@pytest.fixture
def publish(store: Store, home: Home, tracker: Tracker) -> Callable[[], None]:
    """Function that publishes once, like a process that has just been started."""
    return lambda: Publisher(store, home, tracker).publish_once(now=100.0)


@pytest.fixture
def queued_run(store: Store) -> int:
    new = NewRun(
        name="tiny",
        config=CONFIG,
        num_epochs=3,
        tags={"paper": "figure 2", "a+b/../c": "d"},
        source_file="experiments/tiny.yaml",
        git_commit="c0ffee",
        git_dirty=True,
    )
    return store.add([new], now=1.0)[0]


@pytest.fixture
def scheduler(store: Store, home: Home) -> Scheduler:
    return Scheduler(store, home)


@pytest.fixture
def running_run(queued_run: int, scheduler: Scheduler) -> int:
    scheduler.start(queued_run)
    return queued_run


def crash(*_: object, **__: object) -> None:
    """Replace a call during which the process is killed."""
    raise KeyboardInterrupt


def needless(*_: object, **__: object) -> None:
    """Replace a call that must not be made."""
    raise AssertionError("not needed for tags")


def test_a_run_appears_when_it_starts_so_that_mlflows_duration_is_without_its_wait(
    queued_run: int, store: Store, scheduler: Scheduler, publish: Callable[[], None], tracker: Tracker
) -> None:
    publish()
    assert mlflow_runs(tracker) == []
    assert not store.anything_unpublished()
    scheduler.start(queued_run)
    publish()
    run = mlflow_run(tracker)
    assert (run.info.status, run.info.start_time) == ("RUNNING", 20_000)
    assert run.data.tags["runner.submitted"] == "1970-01-01T00:00:01+00:00"
    scheduler.end(queued_run, Event.FAIL)
    publish()
    run = mlflow_run(tracker)
    assert (run.info.status, run.info.end_time) == ("FAILED", 91_000)
    assert run.data.tags["runner.ended"] == "1970-01-01T00:01:31+00:00"


def test_mlflows_duration_is_the_time_of_all_attempts_without_the_waits_between_them(
    running_run: int, scheduler: Scheduler, store: Store, publish: Callable[[], None], tracker: Tracker
) -> None:
    scheduler.end(running_run, Event.INTERRUPT)  # after 71 s
    publish()
    store.resume(running_run, now=500.0)
    scheduler.clock = 990.0
    scheduler.start(running_run)
    publish()
    assert "runner.ended" not in mlflow_run(tracker).data.tags
    store.end(scheduler.epoch, running_run, 2, Event.FAIL, 1_005.0, "failed")  # after 5 s more
    publish()
    run = mlflow_run(tracker)
    assert run.info.end_time - run.info.start_time == 76_000
    assert run.data.tags["runner.ended"] == "1970-01-01T00:16:45+00:00"


def test_a_run_that_an_earlier_version_showed_as_scheduled_is_followed_to_its_end(
    queued_run: int, store: Store, publish: Callable[[], None], tracker: Tracker
) -> None:
    experiment = tracker.client.get_experiment_by_name("test")
    assert experiment is not None
    made = tracker.client.create_run(experiment.experiment_id, 1_000)
    store.bind(queued_run, None, made.info.run_id)
    store.ask(queued_run, "cancel", grace_seconds=5.0, now=2.0)
    publish()
    assert mlflow_run(tracker).info.status == "KILLED"


def test_a_run_has_its_flattened_config_and_tags(
    running_run: int, publish: Callable[[], None], tracker: Tracker, store: Store
) -> None:
    publish()
    run = mlflow_run(tracker)
    assert run.info.run_name == "1-tiny"
    assert run.data.params == {
        "name": "tiny",
        "num_epochs": "3",
        "optim.lr": "0.001",
        "optim.milestone": "[2]",
        "dataset.root": "null",
    }
    assert run.data.tags["runner.id"] == f"{store.queue_id}/{running_run}"
    assert run.data.tags["mlflow.source.git.commit"] == "c0ffee"
    assert run.data.tags["git.dirty"] == "true"
    assert run.data.tags["paper"] == "figure 2"
    assert run.data.tags["a_b/c"] == "d"


def test_an_epoch_is_published_with_the_time_at_which_it_was_measured(
    running_run: int, scheduler: Scheduler, publish: Callable[[], None], tracker: Tracker
) -> None:
    scheduler.measure(running_run, 1, [1, 2], at=1_700_000_000.25)
    publish()
    assert points(tracker, "test/accuracy") == [(1, 0.1, 1_700_000_001_250), (2, 0.2, 1_700_000_002_250)]
    assert points(tracker, "epoch") == [(1, 1.0, 1_700_000_001_250), (2, 2.0, 1_700_000_002_250)]
    run = mlflow_run(tracker)
    assert run.info.status == "RUNNING"
    assert (run.data.tags["host"], run.data.tags["devices"]) == ("box", "cpu")
    assert scheduler.run(running_run).published_epoch == 2


def test_publishing_twice_changes_nothing(
    running_run: int, scheduler: Scheduler, publish: Callable[[], None], tracker: Tracker
) -> None:
    scheduler.measure(running_run, 1, [1, 2])
    publish()
    publish()
    assert steps(tracker) == steps(tracker, "epoch") == [1, 2]


def test_one_process_publishes_each_epoch_as_it_becomes_durable(
    running_run: int, scheduler: Scheduler, store: Store, home: Home, tracker: Tracker
) -> None:
    publisher = Publisher(store, home, tracker)
    for epoch in (1, 2):
        scheduler.measure(running_run, 1, range(1, epoch + 1))
        publisher.publish_once(now=100.0)
        assert steps(tracker) == list(range(1, epoch + 1))


def test_a_crash_between_mlflows_write_and_the_rows_doubles_nothing(
    running_run: int,
    scheduler: Scheduler,
    publish: Callable[[], None],
    tracker: Tracker,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduler.measure(running_run, 1, [1, 2])
    append_samples(scheduler, running_run, 1, [{"time": 50.0, "process_cpu_percentage": 90.0}])

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "published", crash)
        publish()
    assert scheduler.run(running_run).published_epoch is None
    # The next attempt goes on from an earlier checkpoint and measures epoch 2 again, at another time.
    scheduler.end(running_run, Event.LOSE)
    scheduler.start(running_run)
    scheduler.measure(running_run, 2, [1, 2, 3], at=70.0)
    publish()
    assert points(tracker, "test/accuracy") == [(1, 0.1, 51_000), (2, 0.2, 52_000), (3, 0.3, 73_000)]
    assert len(points(tracker, SAMPLE)) == 1


def test_a_crash_between_the_making_of_an_mlflow_run_and_its_note_makes_no_second_one(
    running_run: int,
    scheduler: Scheduler,
    publish: Callable[[], None],
    tracker: Tracker,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "bind", crash)
        publish()
    assert scheduler.run(running_run).mlflow_run_id is None
    publish()
    assert mlflow_run(tracker).info.run_id == scheduler.run(running_run).mlflow_run_id


def test_a_worker_that_was_cut_off_publishes_nothing_more(
    running_run: int, scheduler: Scheduler, publish: Callable[[], None], tracker: Tracker
) -> None:
    scheduler.measure(running_run, 1, [1])
    publish()
    scheduler.end(running_run, Event.LOSE)
    scheduler.start(running_run)
    scheduler.measure(running_run, 1, [1, 2])  # it does not know yet that it has lost its run
    publish()
    assert steps(tracker) == [1]
    scheduler.measure(running_run, 2, [1, 2], at=70.0)
    publish()
    assert points(tracker, "test/accuracy") == [(1, 0.1, 51_000), (2, 0.2, 72_000)]


def test_a_run_that_is_resumed_three_times_is_one_mlflow_run_with_one_point_an_epoch(
    running_run: int, scheduler: Scheduler, publish: Callable[[], None], tracker: Tracker, store: Store
) -> None:
    for attempt in (1, 2, 3):
        scheduler.measure(running_run, attempt, range(1, attempt + 1))
        publish()
        scheduler.end(running_run, Event.INTERRUPT)
        publish()
        assert mlflow_run(tracker).info.status == "KILLED"
        store.resume(running_run, now=200.0)
        publish()
        assert mlflow_run(tracker).info.status == "SCHEDULED"
        scheduler.start(running_run)
    publish()
    assert steps(tracker) == steps(tracker, "epoch") == steps(tracker, "train/loss") == [1, 2, 3]
    assert mlflow_run(tracker).data.tags["runner.attempt"] == "4"
    assert mlflow_run(tracker).info.status == "RUNNING"


def test_an_end_is_published_when_the_copy_of_its_logs_is_whole(
    running_run: int, scheduler: Scheduler, store: Store, home: Home, tracker: Tracker
) -> None:
    logs = LogCopy(store, home)
    publisher = Publisher(store, home, tracker, logs)
    scheduler.measure(running_run, 1, [1])
    scheduler.paths(running_run).attempt(1).log.write_text("epoch 1\n")
    logs.copy_once(now=0.0)
    publisher.publish_once(now=100.0)
    assert scheduler.run(running_run).published_epoch == 1
    scheduler.end(running_run, Event.FAIL)
    for now, published in ((1.0, State.RUNNING), (1.0 + SETTLING_SECONDS, State.FAILED)):
        logs.copy_once(now)
        publisher.publish_once(now=100.0)
        assert scheduler.run(running_run).published_state is published
    assert store.log(running_run, 1) == b"epoch 1\n"


def test_a_failed_run_says_why_and_brings_its_files(
    running_run: int, scheduler: Scheduler, publish: Callable[[], None], tracker: Tracker
) -> None:
    paths = scheduler.paths(running_run)
    scheduler.measure(running_run, 1, [1])
    paths.config.write_text(CONFIG)
    paths.attempt(1).log.write_text("Traceback\n")
    scheduler.end(running_run, Event.FAIL, "loss is nan at epoch 2, step 7")
    publish()
    run = mlflow_run(tracker)
    assert (run.info.status, run.info.end_time) == ("FAILED", 91_000)
    assert run.data.tags["runner.reason"] == "loss is nan at epoch 2, step 7"
    assert files(tracker) == {"config.yaml", "history.csv", "attempts"}
    assert files(tracker, "attempts/1") == {"attempts/1/log.txt"}
    assert (scheduler.home.artifacts / run.info.run_id / "artifacts" / "history.csv").exists()


def test_the_pictures_of_an_ended_run_are_published_once_however_often_that_was_tried(
    running_run: int,
    scheduler: Scheduler,
    publish: Callable[[], None],
    tracker: Tracker,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw(scheduler, running_run, 1, "confusion.png", "rotate.gif", ".perturb.png.tmp")
    publish()
    assert files(tracker, "attempts/1/figures") == set(), "the run goes on, and may draw others"
    scheduler.end(running_run, Event.INTERRUPT)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "published", crash)
        publish()
    publish()
    names = ("confusion.png", "rotate.gif")
    assert files(tracker, "attempts/1/figures") == {f"attempts/1/figures/{name}" for name in names}


def test_the_pictures_of_an_attempt_are_not_mixed_with_those_of_another(
    running_run: int, scheduler: Scheduler, publish: Callable[[], None], tracker: Tracker, store: Store
) -> None:
    draw(scheduler, running_run, 1, "confusion.png", "rotate.gif")
    scheduler.end(running_run, Event.INTERRUPT)
    publish()
    store.resume(running_run, now=200.0)
    scheduler.start(running_run)
    draw(scheduler, running_run, 2, "confusion.png")
    scheduler.end(running_run, Event.INTERRUPT)
    publish()
    assert files(tracker, "attempts/2/figures") == {"attempts/2/figures/confusion.png"}
    assert len(files(tracker, "attempts/1/figures")) == 2
    folder = scheduler.home.artifacts / mlflow_run(tracker).info.run_id / "artifacts/attempts"
    for attempt in (1, 2):
        assert (folder / f"{attempt}/figures/confusion.png").read_text() == f"attempt {attempt}"


def test_a_resumed_run_no_longer_says_why_it_had_failed(
    running_run: int, scheduler: Scheduler, publish: Callable[[], None], tracker: Tracker, store: Store
) -> None:
    scheduler.end(running_run, Event.FAIL, "the disk is full")
    publish()
    store.resume(running_run, now=200.0)
    publish()
    assert "runner.reason" not in mlflow_run(tracker).data.tags


def test_a_cancelled_run_is_killed_and_says_which(
    running_run: int, scheduler: Scheduler, publish: Callable[[], None], tracker: Tracker
) -> None:
    scheduler.end(running_run, Event.CANCEL)
    publish()
    run = mlflow_run(tracker)
    assert (run.info.status, run.data.tags["runner.state"]) == ("KILLED", "CANCELLED")


def test_what_a_resume_changes_becomes_a_tag_beside_the_first_params(
    running_run: int, scheduler: Scheduler, publish: Callable[[], None], tracker: Tracker, store: Store
) -> None:
    publish()
    for epochs in (9, 3):
        scheduler.end(running_run, Event.INTERRUPT)
        config = CONFIG.replace("num_epochs: 3", f"num_epochs: {epochs}")
        store.resume(running_run, config=config, num_epochs=epochs, now=200.0)
        publish()
        run = mlflow_run(tracker)
        assert run.data.params["num_epochs"] == "3"
        assert {key: value for key, value in run.data.tags.items() if key.startswith("config.")} == {
            "config.num_epochs": str(epochs)
        }
        scheduler.start(running_run)


def test_system_samples_of_every_attempt_are_published_once(
    running_run: int, scheduler: Scheduler, store: Store, home: Home, tracker: Tracker
) -> None:
    sample = {"process_cpu_percentage": 150.0, "gpu_0_power_usage_watts": float("nan")}
    publisher = Publisher(store, home, tracker)
    append_samples(scheduler, running_run, 1, [{"time": 1000.0, **sample}])
    publisher.publish_once(now=100.0)
    append_samples(scheduler, running_run, 1, [{"time": 1005.0, **sample}])
    publisher.publish_once(now=100.0)
    scheduler.end(running_run, Event.LOSE)
    scheduler.start(running_run)
    append_samples(scheduler, running_run, 2, [{"time": 1012.0, **sample}])
    Publisher(store, home, tracker).publish_once(now=100.0)
    assert points(tracker, SAMPLE) == [(0, 150.0, 1_000_000), (5, 150.0, 1_005_000), (10, 150.0, 1_012_000)]
    assert "system/gpu_0_power_usage_watts" not in mlflow_run(tracker).data.metrics


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
def test_hosts_whose_clocks_are_an_hour_apart_lose_no_point_and_show_one_run_that_goes_on(
    queued_run: int, scheduler: Scheduler, store: Store, home: Home, tracker: Tracker, skew: float
) -> None:
    publisher = Publisher(store, home, tracker)
    scheduler.clock = 1e6
    starts = []
    for attempt, clock in ((1, skew), (2, 0.0), (3, skew)):
        scheduler.start(queued_run)
        started = scheduler.run(queued_run).started_at
        assert started is not None
        starts.append(started)
        times = [started + clock + second for second in (3.0, 5.0)]
        append_samples(
            scheduler,
            queued_run,
            attempt,
            [{"time": at, "process_cpu_percentage": at % 100} for at in times],
        )
        rows = [
            {"epoch": n, "time": starts[n - 1] + (skew if n != 2 else 0.0), "test/accuracy": n / 10}
            for n in range(1, attempt + 1)
        ]
        write_history(rows, scheduler.paths(queued_run).attempt(attempt).history)
        publisher.publish_once(now=100.0)
        scheduler.end(queued_run, Event.LOSE)
    Publisher(store, home, tracker).publish_once(now=100.0)
    assert steps(tracker, SAMPLE) == [0, 2, 10, 12, 20, 22]
    assert steps(tracker) == [1, 2, 3]


def test_a_sample_at_the_time_of_another_attempts_is_not_taken_for_that_one(
    running_run: int, scheduler: Scheduler, publish: Callable[[], None], tracker: Tracker
) -> None:
    append_samples(scheduler, running_run, 1, [{"time": 50.0, "process_cpu_percentage": 90.0}])
    publish()
    scheduler.end(running_run, Event.LOSE)
    scheduler.start(running_run)
    append_samples(scheduler, running_run, 2, [{"time": 50.0, "process_cpu_percentage": 91.0}])
    publish()
    assert points(tracker, SAMPLE) == [(0, 90.0, 50_000), (10, 91.0, 50_000)]


def test_a_store_that_was_emptied_gets_the_samples_again_from_the_same_process(
    running_run: int, scheduler: Scheduler, store: Store, home: Home, tracker: Tracker
) -> None:
    publisher = Publisher(store, home, tracker)
    append_samples(scheduler, running_run, 1, [{"time": 50.0, "process_cpu_percentage": 90.0}])
    publisher.publish_once(now=100.0)
    before = mlflow_run(tracker).info.run_id
    with sqlite3.connect(home.mlflow_database) as database:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            database.execute(f"DELETE FROM {table}")
    append_samples(scheduler, running_run, 1, [{"time": 51.0, "process_cpu_percentage": 90.0}])
    publisher.publish_once(now=101.0)
    publisher.publish_once(now=200.0)
    assert mlflow_run(tracker).info.run_id != before
    assert steps(tracker, SAMPLE) == [0, 1]


def test_two_runs_of_one_number_in_one_queue_are_two_mlflow_runs(
    home: Home, tracker: Tracker, tmp_path: Path
) -> None:
    """The queue was put back from a copy that was made before the first one."""
    with open_store(home) as store:
        store.close()
    shutil.copy(home.database, tmp_path / "copy.db")
    new = NewRun(name="tiny", config=CONFIG, num_epochs=3)
    for event in (Event.CANCEL, Event.INTERRUPT):
        shutil.copy(tmp_path / "copy.db", home.database)
        with open_store(home) as store:
            assert store.add([new], now=1.0) == [1]
            scheduler = Scheduler(store, home)
            scheduler.start(1)
            scheduler.end(1, event)
            for _ in range(2):
                Publisher(store, home, tracker).publish_once(now=100.0)
    found = mlflow_runs(tracker)
    assert sorted(run.data.tags["runner.state"] for run in found) == ["CANCELLED", "INTERRUPTED"]
    assert len({run.data.tags["runner.id"] for run in found}) == 1
    assert len({run.data.tags["runner.identity"] for run in found}) == 2


def test_an_mlflow_run_that_the_row_names_by_mistake_is_left_to_its_own_run(
    running_run: int, scheduler: Scheduler, publish: Callable[[], None], tracker: Tracker
) -> None:
    publish()
    [first] = mlflow_runs(tracker)
    tracker.client.set_tag(first.info.run_id, "runner.identity", "another")
    scheduler.end(running_run, Event.CANCEL)
    publish()
    assert [run.data.tags["runner.identity"] for run in mlflow_runs(tracker)].count("another") == 1
    assert scheduler.run(running_run).mlflow_run_id != first.info.run_id


def test_a_run_of_before_identities_is_found_by_its_number_alone(tracker: Tracker) -> None:
    tags = {record.IDENTITY: "queue/1", record.RUN_IDENTITY: None}
    before = tracker.open(None, "1-tiny", 1.0, tags)
    assert tracker.open(None, "1-tiny", 1.0, tags).id == before.id
    newer = tracker.open(None, "1-tiny", 1.0, {**tags, record.RUN_IDENTITY: "0123"})
    assert newer.id != before.id
    assert tracker.open(None, "1-tiny", 1.0, tags).id == before.id


def test_nothing_of_another_runs_folder_is_published(
    running_run: int, scheduler: Scheduler, publish: Callable[[], None], tracker: Tracker
) -> None:
    ownership.claim(scheduler.paths(running_run), "f" * 32, submitted_at=0.0)
    scheduler.measure(running_run, 1, [1, 2])
    draw(scheduler, running_run, 1, "confusion.png")
    scheduler.end(running_run, Event.FAIL, "holds another run")
    publish()
    run = mlflow_run(tracker)
    assert (run.info.status, run.data.metrics) == ("FAILED", {})
    assert files(tracker) == set()


def test_a_double_that_a_server_made_late_is_gone_at_the_runs_end(
    running_run: int, scheduler: Scheduler, store: Store, home: Home, tracker: Tracker
) -> None:
    publisher = Publisher(store, home, tracker)
    scheduler.measure(running_run, 1, [1])
    publisher.publish_once(now=100.0)
    [made] = mlflow_runs(tracker)
    tags = {key: made.data.tags[key] for key in (record.IDENTITY, record.RUN_IDENTITY)}
    tracker.client.create_run(made.info.experiment_id, 1000, tags, "1-tiny")
    users_copy = tracker.client.create_run(made.info.experiment_id, 1000, tags, "mine").info.run_id
    tracker.client.log_metric(users_copy, "epoch", 1.0)
    scheduler.end(running_run, Event.FAIL)
    publisher.publish_once(now=100.0)
    assert {run.info.run_id for run in mlflow_runs(tracker)} == {
        made.info.run_id,
        users_copy,
    }


def test_the_publisher_of_a_scheduler_that_was_superseded_publishes_no_more(
    running_run: int, scheduler: Scheduler, store: Store, home: Home, tracker: Tracker
) -> None:
    publisher = Publisher(store, home, tracker)
    publisher.publish_once(now=100.0)
    store.leave(scheduler.epoch)
    scheduler.measure(running_run, 1, [1])
    publisher.publish_once(now=100.0)
    assert not publisher.superseded
    store.take_over(200.0, "another cluster", "1")
    scheduler.measure(running_run, 1, [1, 2])
    publisher.publish_once(now=100.0)
    assert publisher.superseded
    assert steps(tracker) == [1]


def test_an_end_that_another_publisher_notes_late_as_something_else_is_published_again(
    running_run: int, scheduler: Scheduler, store: Store, home: Home, tracker: Tracker
) -> None:
    scheduler.end(running_run, Event.FAIL)
    publisher = Publisher(store, home, tracker)
    publisher.publish_once(now=100.0)
    store.published(running_run, attempt=1, state=State.RUNNING)
    tracker.client.update_run(mlflow_run(tracker).info.run_id, "RUNNING")
    publisher.publish_once(now=101.0)
    assert scheduler.run(running_run).published_state is State.FAILED
    assert mlflow_run(tracker).info.status == "FAILED"


def test_two_publishers_that_make_the_same_mlflow_run_agree_on_one(
    running_run: int,
    scheduler: Scheduler,
    store: Store,
    home: Home,
    tracker: Tracker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = Publisher(store, home, tracker), Publisher(store, home, tracker)
    scheduler.measure(running_run, 1, [1, 2])
    create = tracker.client.create_run

    def create_after_the_first(*arguments: Any) -> Any:
        monkeypatch.setattr(tracker.client, "create_run", create)
        first.publish_once(now=100.0)
        return create(*arguments)

    monkeypatch.setattr(tracker.client, "create_run", create_after_the_first)
    second.publish_once(now=100.0)
    assert "another publisher made its MLflow run" in (scheduler.run(running_run).publish_error or "")
    second.publish_once(now=100.0 + publishing.FIRST_WAIT_SECONDS)
    first.publish_once(now=200.0)
    assert scheduler.run(running_run).publish_error is None
    assert mlflow_run(tracker).info.run_id == scheduler.run(running_run).mlflow_run_id
    assert steps(tracker) == steps(tracker, "epoch") == [1, 2]


def test_a_run_that_mlflow_refuses_is_noted_in_its_row_and_holds_up_no_other(
    running_run: int, publish: Callable[[], None], tracker: Tracker, store: Store, scheduler: Scheduler
) -> None:
    publish()
    tracker.client.delete_run(mlflow_run(tracker).info.run_id)
    [other] = store.add([NewRun(name="other", config=CONFIG, num_epochs=3)], now=2.0)
    scheduler.start(other)
    scheduler.end(running_run, Event.INTERRUPT)
    publish()
    assert "was deleted: restore it in MLflow's UI" in (scheduler.run(running_run).publish_error or "")
    assert scheduler.run(other).publish_error is None
    assert mlflow_run(tracker).info.run_name == "2-other"


def test_a_run_that_could_not_be_published_is_tried_again_less_and_less_often(
    running_run: int, scheduler: Scheduler, store: Store, home: Home, tracker: Tracker
) -> None:
    broken = scheduler.paths(running_run).attempt(1).history
    broken.mkdir(parents=True)
    publisher = Publisher(store, home, tracker)
    publisher.publish_once(now=100.0)
    assert "Is a directory" in (scheduler.run(running_run).publish_error or "")
    broken.rmdir()
    scheduler.measure(running_run, 1, [1])
    publisher.publish_once(now=100.0 + publishing.FIRST_WAIT_SECONDS - 1)
    assert scheduler.run(running_run).publish_error is not None
    publisher.publish_once(now=100.0 + publishing.FIRST_WAIT_SECONDS)
    assert scheduler.run(running_run).publish_error is None
    assert steps(tracker) == [1]


def test_runs_that_are_refused_hold_up_none_of_those_that_started_later(
    store: Store, scheduler: Scheduler, home: Home, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "RUNS_A_ROUND", 2)
    bad, good = "runner: {}\n", CONFIG  # of the first there are no params, and so it is refused for ever
    monkeypatch.setattr(record, "params", lambda config: {"a": "b"} if config == good else 1 / 0)
    store.add([NewRun(name="bad", config=bad, num_epochs=3)] * 2, now=2.0)
    store.add([NewRun(name="good", config=good, num_epochs=3)] * 2, now=2.0)
    for run in store.runs():
        scheduler.start(run.id)
    publisher = Publisher(store, home, tracker)
    for second in range(2):
        publisher.publish_once(now=float(second))
    assert [run.published_state for run in store.runs()] == [None, None, State.RUNNING, State.RUNNING]


def test_many_runs_that_go_on_leave_a_turn_to_those_that_have_ended(
    store: Store, scheduler: Scheduler, home: Home, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "RUNS_A_ROUND", 2)
    *going_on, ended = store.add([NewRun(name=name, config=CONFIG, num_epochs=3) for name in "abcd"], now=2.0)
    for run_id in (*going_on, ended):
        scheduler.start(run_id)
    scheduler.end(ended, Event.FAIL)
    publisher = Publisher(store, home, tracker)
    for second in range(2):
        for run_id in going_on:  # each has something new at every look
            scheduler.measure(run_id, 1, range(1, second + 2))
        publisher.publish_once(now=float(second))
    assert [scheduler.run(run_id).published_epoch for run_id in going_on] == [1, 1, 2]
    assert scheduler.run(ended).published_state is State.FAILED


def test_a_finished_run_whose_history_lags_behind_is_tried_again(
    running_run: int, scheduler: Scheduler, publish: Callable[[], None]
) -> None:
    scheduler.measure(running_run, 1, [1, 2])
    scheduler.end(running_run, Event.FINISH)
    publish()
    assert "ends at epoch 2 of 3" in (scheduler.run(running_run).publish_error or "")
    assert scheduler.run(running_run).published_state is None


def test_a_run_that_stopped_early_is_complete_after_its_last_epoch(
    running_run: int,
    scheduler: Scheduler,
    publish: Callable[[], None],
    tracker: Tracker,
    store: Store,
    tiny_checkpoint: Path,
) -> None:
    reason = "stopped early after epoch 2 of 3: no gain on the validation split since epoch 1"
    scheduler.measure(running_run, 1, [1])
    shutil.copy(tiny_checkpoint, scheduler.paths(running_run).attempt(1).checkpoint)
    scheduler.end(running_run, Event.FINISH, reason, epochs=2)
    publish()
    assert "ends at epoch 1 of 2" in (scheduler.run(running_run).publish_error or "")
    scheduler.measure(running_run, 1, [1, 2])
    publish()
    run = mlflow_run(tracker)
    assert (run.info.status, run.data.tags["runner.reason"]) == ("FINISHED", reason)
    assert steps(tracker) == [1, 2]
    assert [(output.step) for output in run.outputs.model_outputs] == [2]
    assert store.unpublished() == []


def test_a_store_that_was_emptied_gets_the_run_again_from_the_beginning(
    running_run: int, scheduler: Scheduler, publish: Callable[[], None], tracker: Tracker, store: Store
) -> None:
    scheduler.measure(running_run, 1, [1, 2])
    store.bind(running_run, scheduler.run(running_run).mlflow_run_id, "0" * 32)
    store.published(running_run, epoch=2)
    publish()
    assert steps(tracker) == [1, 2]


def test_a_finished_run_brings_its_model_once_however_often_that_was_tried(
    running_run: int,
    scheduler: Scheduler,
    publish: Callable[[], None],
    tracker: Tracker,
    store: Store,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempt = scheduler.paths(running_run).attempt(1)
    scheduler.measure(running_run, 1, [1, 2, 3])
    shutil.copy(tiny_checkpoint, attempt.checkpoint)
    scheduler.end(running_run, Event.FINISH)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tracker.client, "finalize_logged_model", crash)
        publish()
    publish()
    run = mlflow_run(tracker)
    assert run.info.status == "FINISHED"
    [model] = tracker.client.search_logged_models([run.info.experiment_id])
    assert (model.name, model.status, model.source_run_id) == ("tiny", "READY", run.info.run_id)
    assert {metric.key: (metric.value, metric.step) for metric in model.metrics or []} == {
        "epoch": (3.0, 3),
        "train/loss": (1 / 3, 3),
        "test/accuracy": (0.3, 3),
    }
    assert [(output.model_id, output.step) for output in run.outputs.model_outputs] == [(model.model_id, 3)]
    assert steps(tracker) == [1, 2, 3]
    assert (Path(model.artifact_location.removeprefix("file://")) / "MLmodel").exists()
    assert store.unpublished() == []


@pytest.mark.slow
def test_a_model_that_was_made_twice_is_one_at_the_end(
    running_run: int,
    scheduler: Scheduler,
    publish: Callable[[], None],
    tracker: Tracker,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create = tracker.client.create_logged_model

    def create_twice(*arguments: Any, **options: Any) -> Any:
        """Create two models, as after a server's hang or by two publishers at the same time."""
        create(*arguments, **options)
        return create(*arguments, **options)

    monkeypatch.setattr(tracker.client, "create_logged_model", create_twice)
    scheduler.measure(running_run, 1, [1, 2, 3])
    shutil.copy(tiny_checkpoint, scheduler.paths(running_run).attempt(1).checkpoint)
    scheduler.end(running_run, Event.FINISH)
    publish()
    run = mlflow_run(tracker)
    [model] = tracker.client.search_logged_models([run.info.experiment_id])
    assert model.status == "READY"
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]


def test_tags_and_a_note_of_a_running_run_are_published_and_taken_away(
    running_run: int, publish: Callable[[], None], tracker: Tracker, store: Store
) -> None:
    publish()
    store.tag([running_run], {"paper": "figure 3", "a+b/../c": None, "seen": "yes"})
    store.note([running_run], "too high a rate")
    publish()
    tags = mlflow_run(tracker).data.tags
    assert (tags["paper"], tags["seen"], tags[record.NOTE]) == ("figure 3", "yes", "too high a rate")
    assert "a_b/c" not in tags
    store.tag([running_run], {"paper": None})
    store.note([running_run], None)
    publish()
    tags = mlflow_run(tracker).data.tags
    assert tags["seen"] == "yes" and not {"paper", record.NOTE} & tags.keys()
    run = store.run(running_run)
    assert run is not None and run.published_annotations == run.annotations == 4


@pytest.fixture
def published_run(running_run: int, scheduler: Scheduler, publish: Callable[[], None], store: Store) -> int:
    """A failed run that is completely published."""
    scheduler.measure(running_run, 1, [1, 2])
    scheduler.end(running_run, Event.FAIL, "loss is not a number")
    publish()
    assert not store.anything_unpublished()
    return running_run


def test_a_run_that_ended_long_ago_gets_tags_without_its_files_and_metrics_again(
    published_run: int,
    scheduler: Scheduler,
    publish: Callable[[], None],
    tracker: Tracker,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.rmtree(scheduler.paths(published_run).folder)
    for expensive in ("open", "add_points", "add_file", "add_model", "set_status"):
        monkeypatch.setattr(Tracker, expensive, needless)
    store.tag([published_run], {"paper": "figure 4"})
    store.note([published_run], "diverges")
    publish()
    tags = mlflow_run(tracker).data.tags
    assert (tags["paper"], tags[record.NOTE]) == ("figure 4", "diverges")
    assert not store.anything_unpublished()
    publish()  # and nothing is left to do


def test_one_process_publishes_what_is_changed_again_and_again_of_an_ended_run(
    published_run: int, store: Store, home: Home, tracker: Tracker
) -> None:
    publisher = Publisher(store, home, tracker)
    for text in ("one", "two", None, "two"):
        store.note([published_run], text)
        publisher.publish_once(now=100.0)
        assert mlflow_run(tracker).data.tags.get(record.NOTE) == text


def test_one_process_publishes_what_is_said_of_a_running_run_though_it_gets_no_further(
    running_run: int, scheduler: Scheduler, store: Store, home: Home, tracker: Tracker
) -> None:
    publisher = Publisher(store, home, tracker)
    scheduler.measure(running_run, 1, [1])
    for text in ("one", "two"):
        store.note([running_run], text)
        publisher.publish_once(now=100.0)
        assert mlflow_run(tracker).data.tags[record.NOTE] == text
    store.published(running_run, annotations=1)  # as an older publisher notes late
    publisher.publish_once(now=101.0)
    assert scheduler.run(running_run).published_annotations == 2


def test_what_was_written_in_mlflow_itself_stays(
    published_run: int, scheduler: Scheduler, publish: Callable[[], None], tracker: Tracker, store: Store
) -> None:
    store.note([published_run], "of the queue")
    publish()
    mlflow_id = mlflow_run(tracker).info.run_id
    tracker.client.set_tag(mlflow_id, "theirs", "kept")
    tracker.client.set_tag(mlflow_id, record.NOTE, "written in MLflow")
    store.resume(published_run, now=200.0)
    publish()
    store.ask(published_run, "cancel", 1.0, now=201.0)
    publish()
    tags = mlflow_run(tracker).data.tags
    assert (tags["theirs"], tags[record.NOTE]) == ("kept", "written in MLflow")
    store.note([published_run], "of the queue again")
    publish()
    assert mlflow_run(tracker).data.tags[record.NOTE] == "of the queue again"


def test_a_tag_that_could_not_be_taken_away_at_first_is_taken_away_later(
    published_run: int,
    publish: Callable[[], None],
    tracker: Tracker,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.tag([published_run], {"paper": None, "a+b/../c": None})
    with monkeypatch.context() as patch:
        patch.setattr(tracker.client, "delete_tag", crash)
        with pytest.raises(KeyboardInterrupt):
            publish()
    assert mlflow_run(tracker).data.tags["paper"] == "figure 2"
    publish()
    assert not {"paper", "a_b/c"} & mlflow_run(tracker).data.tags.keys()


def test_a_tag_of_a_run_that_an_earlier_version_published_can_be_taken_away(
    publish: Callable[[], None], tracker: Tracker, store: Store, scheduler: Scheduler
) -> None:
    """An earlier version stored no list of the user's tags in MLflow."""
    config = f"{CONFIG.strip()[:-1]}, tags: {{paper: figure 2}}}}\n"
    [early] = store.add(
        [NewRun(name="early", config=config, num_epochs=3, tags={"paper": "figure 2"})], now=2.0
    )
    scheduler.start(early)
    publish()
    found = mlflow_run(tracker)
    assert found.data.tags["paper"] == "figure 2"
    tracker.client.delete_tag(found.info.run_id, record.OF_USER)
    store.tag([early], {"paper": None})
    publish()
    assert "paper" not in mlflow_run(tracker).data.tags


def test_a_run_that_mlflow_has_lost_is_published_again_with_its_tags(
    published_run: int, home: Home, new_mlflow_store: Path, store: Store
) -> None:
    shutil.copy(new_mlflow_store, home.mlflow_database)
    store.tag([published_run], {"paper": "figure 5"})
    fresh = Tracker(tracking.target(home, {"MLFLOW_EXPERIMENT_NAME": "test"}))
    Publisher(store, home, fresh).publish_once(now=100.0)
    assert mlflow_run(fresh).data.tags["paper"] == "figure 5"
    assert steps(fresh) == [1, 2]
    assert files(fresh)
