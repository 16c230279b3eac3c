"""The queue, move by move, on a real SQLite file and a real PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from runner.rows import Down, Machine, NewRun, Run, Waiting
from runner.states import Event, IllegalMove, State
from runner.store import Occupied, Store, StoreError, Superseded, UnknownRun, open_store


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Path or URL of a queue without runs, which may not exist yet."""
    if request.param == "sqlite":
        return tmp_path / "home" / "queue.db"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def store(place: Path | str) -> Iterator[Store]:
    with open_store(place) as opened:
        yield opened


@pytest.fixture
def epoch(store: Store) -> int:
    return store.take_over(100.0, "lab", "1.0")


@pytest.fixture
def add(store: Store) -> Callable[..., int]:
    return lambda **changes: store.add([new_run(**changes)], now=1.0)[0]


@pytest.fixture
def queued(add: Callable[..., int]) -> int:
    return add()


@pytest.fixture
def running(store: Store, queued: int, epoch: int) -> int:
    store.claim(epoch, queued, 101.0, gpus=1, cpus=2)
    return queued


@pytest.fixture
def finished(store: Store, running: int, epoch: int) -> int:
    store.end(epoch, running, 1, Event.FINISH, 110.0, "finished")
    return running


GPU1 = Machine(name="gpu1", gpus=4, cpus=16.0, leaving=False)


def new_run(**changes) -> NewRun:
    return NewRun(**{"name": "mnist", "config": "num_epochs: 50\n", "num_epochs": 50, **changes})


def row(store: Store, run_id: int) -> Run:
    run = store.run(run_id)
    assert run is not None
    return run


class TestAdding:
    def test_a_run_is_queued_with_all_that_was_said_about_it(self, store: Store) -> None:
        new = new_run(
            name="routing",
            config="num_epochs: 7\nname: Größe\n",
            num_epochs=7,
            priority=3,
            gpus=0.25,
            cpus=2,
            loader_workers=4,
            max_retries=5,
            tags={"paper": "figure 3"},
            exclusive=("/data/best.pt",),
            source_file="experiments/a.yaml",
            submit_directory="/home/ada",
            git_commit="0c15",
            git_dirty=True,
        )
        run = row(store, store.add([new], now=5.0)[0])
        assert {name: getattr(run, name) for name in vars(new)} == vars(new)
        assert (run.id, run.state, run.attempt, run.losses) == (1, State.QUEUED, 0, 0)
        assert (run.submitted_at, run.queued_at, run.started_at, run.ended_at) == (5.0, 5.0, None, None)
        assert (run.intent, run.reason, run.epoch, run.metrics, run.devices) == (None, None, None, {}, ())

    def test_what_is_left_open_reads_back_as_auto(self, store: Store, queued: int) -> None:
        assert (row(store, queued).gpus, row(store, queued).cpus) == ("auto", "auto")

    def test_numbers_come_in_the_order_of_the_list(self, store: Store) -> None:
        ids = store.add([new_run(name=f"run{number}") for number in range(1000)], now=1.0)
        assert ids == list(range(1, 1001))
        assert [run.name for run in store.runs()] == [f"run{number}" for number in range(1000)]

    def test_all_are_queued_or_none(self, store: Store) -> None:
        broken = new_run(name=None)
        with pytest.raises(StoreError, match=r"(?i)not.null"):
            store.add([new_run(), broken], now=1.0)
        assert store.runs() == []

    def test_numbers_begin_above_what_lies_outside_of_the_queue(self, store: Store) -> None:
        assert store.add([new_run()], now=1.0, above=7) == [8]
        assert store.add([new_run(), new_run()], now=1.0, above=3) == [9, 10]
        store.number_above(20)
        store.number_above(15)
        assert store.add([new_run()], now=1.0) == [21]

    def test_a_new_queue_that_is_told_of_the_first_number_goes_on_with_the_second(self, store: Store) -> None:
        store.number_above(0)
        store.number_above(1)
        assert store.add([new_run()], now=1.0) == [2]

    def test_each_run_has_an_identity_of_its_own(self, store: Store) -> None:
        found = {row(store, number).identity for number in store.add([new_run()] * 3, now=1.0)}
        assert len(found) == 3 and all(re.fullmatch("[0-9a-f]{32}", str(identity)) for identity in found)

    def test_adding_nothing_is_no_error(self, store: Store) -> None:
        assert store.add([], now=1.0) == []


class TestOrder:
    def test_the_queue_is_ordered_by_priority_and_then_by_number(self, store: Store, add) -> None:
        for priority in (0, 5, 0, 5):
            add(priority=priority)
        assert [run.id for run in store.queue()] == [2, 4, 1, 3]
        assert [run.id for run in store.line()] == [2, 4, 1, 3]

    def test_placement_reads_what_it_asks_of_a_run_and_no_more(self, store: Store, running: int, add) -> None:
        add(gpus=0.5, cpus=2, loader_workers=4, exclusive=("/data/best.pt",))
        add()
        assert store.line() == [
            Waiting(2, 0.5, 2, 4, ("/data/best.pt",)),
            Waiting(3, "auto", "auto", 0, ()),
        ]

    def test_a_run_that_was_lost_keeps_its_place(self, store: Store, running: int, add, epoch: int) -> None:
        add()
        store.end(epoch, running, 1, Event.LOSE, 102.0, "lost")
        assert [run.id for run in store.queue()] == [1, 2]

    def test_a_queued_run_can_be_moved_to_the_front(self, store: Store, queued: int, add) -> None:
        last = add()
        store.set_priority_each([last], 1)
        assert [run.id for run in store.queue()] == [last, queued]

    def test_a_running_run_has_no_place_to_change(self, store: Store, running: int) -> None:
        why = str(store.set_priority_each([running], 1)[running])
        assert why == "run 1: it is RUNNING and has no place in the queue to change"

    def test_runs_can_be_asked_for_by_name(self, store: Store, add) -> None:
        first, _, last = add(name="a"), add(name="A"), add(name="a")
        assert [run.id for run in store.named("a")] == [first, last]

    def test_runs_can_be_asked_for_by_state(self, store: Store, finished: int, add) -> None:
        later = add()
        assert [run.id for run in store.runs({State.FINISHED})] == [finished]
        assert [run.id for run in store.runs({State.QUEUED, State.RUNNING})] == [later]
        assert store.runs(set()) == []
        assert store.counts() == {state: state in (State.FINISHED, State.QUEUED) for state in State}


@pytest.mark.parametrize(
    ("look", "index"),
    [
        (Store.line, "runs_in_order"),
        (lambda store: store.runs([State.RUNNING]), "runs_in_order"),
        (lambda store: store.latest(20), "runs_by_end"),
        (Store.unpublished, "runs_to_publish"),
        (lambda store: store.behind(0, 20), "runs_to_publish"),
        (Store.anything_unpublished, "runs_to_publish"),
    ],
)
def test_what_is_looked_at_each_second_does_not_walk_over_runs_that_have_ended(
    store: Store, look: Callable[[Store], object], index: str
) -> None:
    plan: list[str] = []

    def explain(connection: Connection, _: object, statement: str, parameters: Any, *__: object) -> None:
        if statement.startswith("SELECT") and not plan:
            plan.append("")  # before the statements below come here too
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(
                    "SET LOCAL enable_seqscan = off"
                )  # quicker where there are no runs
            how = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
            plan.extend(map(str, connection.exec_driver_sql(how + statement, parameters)))

    event.listen(store._database.reader, "before_cursor_execute", explain)
    look(store)
    assert index in " ".join(plan)


class TestClaiming:
    def test_a_claim_begins_an_attempt(self, store: Store, queued: int, epoch: int) -> None:
        attempt = store.claim(epoch, queued, 101.0, gpus=0.5, cpus=2)
        assert attempt is not None
        assert (attempt.run, attempt.number, attempt.started_at) == (queued, 1, 101.0)
        assert (attempt.gpus, attempt.cpus, attempt.outcome) == (0.5, 2, None)
        run = row(store, queued)
        assert (run.state, run.attempt, run.started_at) == (State.RUNNING, 1, 101.0)

    def test_no_attempt_starts_before_its_run_was_submitted_or_ends_before_it_started(
        self, store: Store, add, epoch: int
    ) -> None:
        (run_id,) = store.add([new_run()], now=100.0)
        attempt = store.claim(epoch, run_id, 99.5, gpus=1, cpus=1)
        assert attempt is not None and attempt.started_at == 100.0
        store.end(epoch, run_id, 1, Event.INTERRUPT, 99.0, "stopped")
        (attempt,), run = store.attempts(run_id), row(store, run_id)
        assert (run.submitted_at, run.started_at, run.ended_at) == (100.0, 100.0, 100.0)
        assert attempt.ended_at == 100.0

    def test_an_attempt_has_a_number_above_those_of_which_files_are_there(
        self, store: Store, queued: int, epoch: int
    ) -> None:
        attempt = store.claim(epoch, queued, 101.0, gpus=1, cpus=1, after=3)
        assert attempt is not None and attempt.number == row(store, queued).attempt == 4
        store.end(epoch, queued, 4, Event.LOSE, 102.0, "lost")
        again = store.claim(epoch, queued, 103.0, gpus=1, cpus=1, after=2)
        assert again is not None and again.number == 5

    def test_a_run_cannot_be_claimed_twice(self, store: Store, running: int, epoch: int) -> None:
        assert store.claim(epoch, running, 102.0, gpus=1, cpus=1) is None
        assert len(store.attempts(running)) == 1

    def test_a_run_that_was_cancelled_a_moment_ago_is_not_claimed(
        self, store: Store, queued: int, epoch: int
    ) -> None:
        store.ask(queued, "cancel", 5.0, now=100.5)
        assert store.claim(epoch, queued, 101.0, gpus=1, cpus=1) is None
        assert row(store, queued).state is State.CANCELLED

    def test_what_auto_came_to_first_holds_for_later_attempts(self, store: Store, add, epoch: int) -> None:
        run_id = add(gpus="auto", cpus="auto")
        store.claim(epoch, run_id, 101.0, gpus=1, cpus=2)
        store.end(epoch, run_id, 1, Event.LOSE, 102.0, "lost", "its machine is gone")
        assert [(run.gpus, run.cpus) for run in store.line()] == [(1, "auto")]

    def test_a_run_that_does_not_exist_is_not_claimed(self, store: Store, epoch: int) -> None:
        assert store.claim(epoch, 99, 101.0, gpus=1, cpus=1) is None


class TestReports:
    def test_a_report_is_in_the_row_and_leaves_alone_what_it_does_not_name(
        self, store: Store, running: int, epoch: int
    ) -> None:
        store.report(epoch, running, 1, 102.0, epoch=3, step=7, accuracy=0.99, metrics={"a": 0.5})
        assert store.report(epoch, running, 1, 103.0, step=8)
        run = row(store, running)
        assert (run.epoch, run.step, run.accuracy, run.answered_at) == (3, 8, 0.99, 103.0)
        assert run.metrics == {"a": 0.5}

    def test_where_the_worker_is_stays_with_its_attempt(self, store: Store, running: int, epoch: int) -> None:
        store.report(epoch, running, 1, 102.0, host="gpu1", pid=77, devices=("0", "2"))
        store.end(epoch, running, 1, Event.LOSE, 103.0, "lost")
        store.claim(epoch, running, 104.0, gpus=1, cpus=1)
        run, (first, second) = row(store, running), store.attempts(running)
        assert (first.host, first.pid, first.devices) == ("gpu1", 77, ("0", "2"))
        assert (second.host, second.pid, second.devices) == (None, None, ())
        assert (run.host, run.pid, run.devices, run.answered_at) == (None, None, (), None)

    def test_a_worker_of_an_old_attempt_changes_nothing(self, store: Store, running: int, epoch: int) -> None:
        store.end(epoch, running, 1, Event.LOSE, 102.0, "lost")
        store.claim(epoch, running, 103.0, gpus=1, cpus=1)
        before = row(store, running)
        assert store.report(epoch, running, 1, 104.0, epoch=49) is False
        assert store.end(epoch, running, 1, Event.FINISH, 105.0, "finished") is None
        assert row(store, running) == before

    def test_a_report_after_the_end_changes_nothing(self, store: Store, finished: int, epoch: int) -> None:
        assert store.report(epoch, finished, 1, 111.0, epoch=49) is False
        assert row(store, finished).epoch is None


class TestEnding:
    def test_an_attempt_ends_once(self, store: Store, finished: int, epoch: int) -> None:
        assert store.end(epoch, finished, 1, Event.FAIL, 120.0, "failed", "late news") is None
        (attempt,) = store.attempts(finished)
        assert (attempt.outcome, attempt.ended_at, attempt.reason) == ("finished", 110.0, None)
        run = row(store, finished)
        assert (run.state, run.ended_at, run.reason) == (State.FINISHED, 110.0, None)

    def test_a_failure_is_final_and_keeps_its_reason(self, store: Store, running: int, epoch: int) -> None:
        state = store.end(epoch, running, 1, Event.FAIL, 110.0, "failed", "loss is nan at epoch 3, step 117")
        assert state is State.FAILED
        assert row(store, running).reason == "loss is nan at epoch 3, step 117"

    def test_a_run_that_was_released_is_queued_without_counting_a_loss(
        self, store: Store, running: int, epoch: int
    ) -> None:
        assert store.end(epoch, running, 1, Event.RELEASE, 110.0, "stopped") is State.QUEUED
        run = row(store, running)
        assert (run.losses, run.queued_at, run.ended_at, run.attempt) == (0, 110.0, None, 1)

    def test_an_event_that_a_running_run_does_not_know_changes_nothing(
        self, store: Store, running: int, epoch: int
    ) -> None:
        with pytest.raises(IllegalMove):
            store.end(epoch, running, 1, Event.RESUME, 110.0, "stopped")
        assert store.attempts(running)[0].outcome is None


class TestTheLatest:
    def test_those_that_ended_last_are_found_by_number(self, store: Store, add, epoch: int) -> None:
        runs = [add() for _ in range(5)]
        for run, at in zip(runs, (50.0, 20.0, 40.0, 40.0), strict=False):
            store.ask(run, "cancel", 1.0, now=at)
        store.resume(runs[0], now=60.0)
        assert [run.id for run in store.latest(2)] == runs[2:4]
        assert [run.id for run in store.latest(9)] == runs[1:4]


class TestLosses:
    def lose(self, store: Store, epoch: int, run_id: int, **progress) -> State | None:
        """Begin the next attempt, report `progress`, and record that its process died."""
        attempt = store.claim(epoch, run_id, 200.0, gpus=1, cpus=1)
        assert attempt is not None
        store.report(epoch, run_id, attempt.number, 201.0, **progress)
        return store.end(epoch, run_id, attempt.number, Event.LOSE, 202.0, "lost", "its process died")

    def test_a_run_is_given_up_when_lost_once_more_than_its_retries(
        self, store: Store, add, epoch: int
    ) -> None:
        run = add(max_retries=2)
        assert [self.lose(store, epoch, run) for _ in range(3)] == [State.QUEUED, State.QUEUED, State.FAILED]
        assert row(store, run).reason == "its process died"

    def test_without_retries_the_first_loss_is_the_last(self, store: Store, add, epoch: int) -> None:
        assert self.lose(store, epoch, add(max_retries=0)) is State.FAILED

    def test_a_checkpoint_that_advances_makes_up_for_the_losses(self, store: Store, add, epoch: int) -> None:
        run = add(max_retries=1)
        positions = [(0, 10), (0, 20), (1, 0), (1, 5)]
        states = [self.lose(store, epoch, run, durable_epoch=e, durable_step=s) for e, s in positions]
        assert states == [State.QUEUED] * 4
        assert row(store, run).losses == 1

    def test_a_checkpoint_that_stays_where_it_was_does_not(self, store: Store, add, epoch: int) -> None:
        run = add(max_retries=1)
        states = [self.lose(store, epoch, run, durable_epoch=3, durable_step=0) for _ in range(2)]
        assert states == [State.QUEUED, State.FAILED]

    def test_nor_does_one_that_fell_back_and_has_not_passed_the_old_mark(
        self, store: Store, add, epoch: int
    ) -> None:
        run = add(max_retries=1)
        self.lose(store, epoch, run, durable_epoch=3, durable_step=9)
        assert self.lose(store, epoch, run, durable_epoch=3, durable_step=2) is State.FAILED
        assert (row(store, run).durable_epoch, row(store, run).durable_step) == (3, 9)

    def test_resume_forgets_them(self, store: Store, add, epoch: int) -> None:
        run = add(max_retries=0)
        self.lose(store, epoch, run)
        store.resume(run, now=300.0)
        assert row(store, run).losses == 0


class TestIntents:
    def test_a_queued_run_is_interrupted_or_cancelled_at_once(self, store: Store, queued: int, add) -> None:
        assert store.ask(queued, "interrupt", 30.0, now=50.0) is State.INTERRUPTED
        assert store.ask(add(), "cancel", 30.0, now=50.0) is State.CANCELLED
        assert row(store, queued).ended_at == 50.0
        assert row(store, queued).intent is None

    def test_a_running_run_keeps_running_until_its_worker_has_saved(
        self, store: Store, running: int, epoch: int
    ) -> None:
        assert store.ask(running, "interrupt", 30.0, now=105.0) is State.RUNNING
        run = row(store, running)
        assert (run.intent, run.intent_at, run.grace_seconds) == ("interrupt", 105.0, 30.0)
        assert store.end(epoch, running, 1, Event.RELEASE, 108.0, "stopped") is State.INTERRUPTED
        run = row(store, running)
        assert (run.intent, run.intent_at, run.grace_seconds, run.ended_at) == (None, None, None, 108.0)

    @pytest.mark.parametrize("event", [Event.LOSE, Event.RELEASE, Event.INTERRUPT])
    def test_a_run_whose_process_dies_meanwhile_does_what_was_intended(
        self, store: Store, running: int, epoch: int, event: Event
    ) -> None:
        store.ask(running, "cancel", 30.0, now=105.0)
        assert store.end(epoch, running, 1, event, 106.0, "lost", "killed") is State.CANCELLED

    def test_a_run_that_finishes_meanwhile_is_finished(self, store: Store, running: int, epoch: int) -> None:
        store.ask(running, "cancel", 30.0, now=105.0)
        assert store.end(epoch, running, 1, Event.FINISH, 106.0, "finished") is State.FINISHED
        assert row(store, running).intent is None

    def test_cancel_is_stronger_than_interrupt_whichever_came_first(
        self, store: Store, running: int, add, epoch: int
    ) -> None:
        other = add()
        store.claim(epoch, other, 101.0, gpus=1, cpus=1)
        for intent in ("interrupt", "cancel"):
            store.ask(running, intent, 30.0, now=105.0)
        for intent in ("cancel", "interrupt"):
            store.ask(other, intent, 30.0, now=105.0)
        assert (row(store, running).intent, row(store, other).intent) == ("cancel", "cancel")

    def test_asked_again_with_less_patience_the_earlier_deadline_counts(
        self, store: Store, running: int
    ) -> None:
        store.ask(running, "interrupt", 600.0, now=105.0)
        store.ask(running, "interrupt", 5.0, now=115.0)
        assert (row(store, running).intent_at, row(store, running).grace_seconds) == (105.0, 15.0)
        store.ask(running, "interrupt", 600.0, now=116.0)
        assert row(store, running).grace_seconds == 15.0

    def test_a_run_that_has_ended_cannot_be_cancelled(self, store: Store, finished: int) -> None:
        with pytest.raises(IllegalMove, match="run 1: it is FINISHED and cannot be cancelled"):
            store.ask(finished, "cancel", 30.0, now=120.0)


class TestResuming:
    @pytest.mark.parametrize("event", [Event.INTERRUPT, Event.CANCEL, Event.FAIL])
    def test_a_run_that_did_not_finish_is_queued_again(
        self, store: Store, running: int, epoch: int, event: Event
    ) -> None:
        store.report(epoch, running, 1, 105.0, epoch=3, durable_epoch=2, durable_step=40)
        store.end(epoch, running, 1, event, 110.0, "stopped", "why")
        store.resume(running, now=120.0)
        run = row(store, running)
        assert (run.state, run.queued_at, run.ended_at, run.reason) == (State.QUEUED, 120.0, None, None)
        assert (run.attempt, run.num_epochs, run.config) == (1, 50, "num_epochs: 50\n")
        assert (run.epoch, run.durable_epoch, run.durable_step) == (3, 2, 40)

    def test_a_finished_run_goes_on_only_with_more_epochs(self, store: Store, finished: int) -> None:
        for num_epochs in (None, 49, 50):
            with pytest.raises(IllegalMove, match="only with more than 50 epochs: add --set num_epochs=100"):
                store.resume(finished, num_epochs=num_epochs, now=120.0)
        store.resume(finished, config="num_epochs: 51\n", num_epochs=51, now=120.0)
        run = row(store, finished)
        assert (run.state, run.num_epochs, run.config) == (State.QUEUED, 51, "num_epochs: 51\n")

    def test_a_run_that_stopped_early_goes_on_only_where_it_may_go_longer(
        self, store: Store, running: int, epoch: int
    ) -> None:
        store.report(epoch, running, 1, 105.0, durable_epoch=29, durable_step=7)
        store.end(epoch, running, 1, Event.FINISH, 110.0, "finished", "stopped early after epoch 30", 30)
        run = row(store, running)
        assert (run.state, run.reason) == (State.FINISHED, "stopped early after epoch 30")
        assert (run.durable_epoch, run.durable_step, run.last_epoch, run.num_epochs) == (30, 0, 30, 50)
        for num_epochs in (None, 50, 100):
            with pytest.raises(IllegalMove, match="add --set stop_after_epochs_without_gain=null"):
                store.resume(running, num_epochs=num_epochs, now=120.0)
        with pytest.raises(IllegalMove, match="only with more than 30 epochs: add --set num_epochs=60"):
            store.resume(running, num_epochs=30, longer=True, now=120.0)
        store.resume(running, num_epochs=50, longer=True, now=120.0)
        run = row(store, running)
        assert (run.state, run.reason, run.stopped_early) == (State.QUEUED, None, False)

    @pytest.mark.parametrize("stage", ["queued", "running"])
    def test_a_run_that_has_not_ended_cannot_be_resumed(
        self, store: Store, stage: str, request: pytest.FixtureRequest
    ) -> None:
        run = request.getfixturevalue(stage)
        with pytest.raises(IllegalMove, match=f"it is {stage.upper()} and cannot be resumed"):
            store.resume(run, num_epochs=100, now=120.0)

    def test_the_best_weights_are_used_until_a_checkpoint_has_followed_them(
        self, store: Store, running: int, epoch: int
    ) -> None:
        store.report(epoch, running, 1, 105.0, durable_epoch=20, durable_step=0)
        store.end(epoch, running, 1, Event.INTERRUPT, 110.0, "stopped")
        store.resume(running, use_best=True, now=120.0)
        store.claim(epoch, running, 121.0, gpus=1, cpus=1)
        assert row(store, running).use_best
        store.report(epoch, running, 2, 122.0, epoch=13)
        assert row(store, running).use_best
        store.report(epoch, running, 2, 123.0, durable_epoch=12, durable_step=30)
        run = row(store, running)
        assert (run.use_best, run.durable_epoch, run.durable_step) == (False, 12, 30)


class TestRemoving:
    def test_a_removed_run_is_gone_with_its_attempts_and_its_number_never_comes_back(
        self, store: Store, finished: int, add
    ) -> None:
        store.remove([finished])
        assert store.run(finished) is None
        assert store.attempts(finished) == []
        assert add() == finished + 1

    def test_all_are_removed_or_none(self, store: Store, finished: int, add) -> None:
        waiting = add()
        with pytest.raises(IllegalMove, match="run 2: it is QUEUED: cancel it first"):
            store.remove([finished, waiting])
        with pytest.raises(IllegalMove, match="run 2: it is QUEUED: cancel it first"):
            store.begin_removal([finished, waiting], now=1.0)
        assert [run.id for run in store.runs()] == [finished, waiting]
        assert row(store, finished).intent is None

    def test_a_run_whose_files_go_is_neither_resumed_nor_published_and_stays_until_it_is_removed(
        self, store: Store, finished: int
    ) -> None:
        assert store.anything_unpublished()
        for _ in range(2):
            store.begin_removal([finished], now=1.0)
        assert row(store, finished).is_going
        with pytest.raises(IllegalMove, match="run 1: it is being deleted"):
            store.resume(finished, num_epochs=500, now=2.0)
        assert not store.anything_unpublished()
        assert store.unpublished() == store.behind(after=0, at_most=9) == []
        store.remove([finished])
        assert store.runs() == []


def test_a_run_that_does_not_exist_is_said_to_be_unknown(store: Store) -> None:
    assert store.run(7) is None
    for act in (
        lambda: store.ask(7, "cancel", 1.0, now=1.0),
        lambda: store.resume(7, now=1.0),
        lambda: store.begin_removal([7], now=1.0),
        lambda: store.remove([7]),
    ):
        with pytest.raises(UnknownRun, match="there is no run 7"):
            act()


class TestSchedulers:
    def test_an_old_scheduler_writes_nothing_more(self, store: Store, running: int, add, epoch: int) -> None:
        waiting = add()
        newer = store.take_over(102.0, "lab", "1.0")
        before = store.runs(), store.scheduler_beat()
        for act in (
            lambda: store.beat(epoch, 103.0),
            lambda: store.claim(epoch, waiting, 103.0, gpus=1, cpus=1),
            lambda: store.report(epoch, running, 1, 103.0, epoch=9),
            lambda: store.end(epoch, running, 1, Event.FINISH, 103.0, "finished"),
            lambda: store.leave(epoch),
        ):
            with pytest.raises(Superseded, match=f"epoch {newer} has taken over from that of epoch {epoch}"):
                act()
        assert (store.runs(), store.scheduler_beat()) == before

    def test_another_cluster_takes_over_only_when_the_beat_is_stale(self, store: Store, epoch: int) -> None:
        store.beat(epoch, 110.0, host="gpu1")
        with pytest.raises(Occupied, match=r"served by lab \(host gpu1, last seen 29 s ago\)"):
            store.take_over(139.0, "other", "1.0")
        assert store.take_over(140.0, "other", "1.0") == epoch + 1

    def test_the_same_cluster_takes_over_at_once(self, store: Store, epoch: int) -> None:
        assert store.take_over(100.0, "lab", "1.0") == epoch + 1

    def test_any_cluster_takes_over_at_once_from_one_that_has_left(self, store: Store, epoch: int) -> None:
        store.leave(epoch)
        assert store.scheduler_beat() is None
        assert store.take_over(100.5, "other", "1.0") == epoch + 1

    def test_a_beat_says_who_serves_the_queue_and_with_what(self, store: Store) -> None:
        assert store.scheduler_beat() is None
        epoch = store.take_over(100.0, "lab", "1.0")
        store.beat(epoch, 101.0, pid=7, host="gpu1", machines=[GPU1], message="no MLflow")
        beat = store.scheduler_beat()
        assert beat is not None
        assert (beat.epoch, beat.at, beat.cluster, beat.version) == (epoch, 101.0, "lab", "1.0")
        assert (beat.pid, beat.host, beat.cores, beat.gpus, beat.message) == (7, "gpu1", 16, 4, "no MLflow")
        assert beat.machines == (GPU1,)

    def test_a_wish_to_go_down_stays_until_it_is_withdrawn(self, store: Store) -> None:
        assert store.down_requested() is None
        store.ask_down(50.0, force=True)
        assert store.down_requested() == Down(at=50.0, force=True)
        store.clear_down()
        assert store.down_requested() is None


class TestLogs:
    def test_pieces_are_read_as_one_from_anywhere(self, store: Store, running: int) -> None:
        assert (store.log(running, 1), store.log_size(running, 1)) == (b"", 0)
        store.add_log(running, 1, 0, b"one\n")
        store.add_log(running, 1, 4, b"two\n")
        store.add_log(running, 2, 0, b"again\n")
        assert [store.log(running, 1, position) for position in (0, 2, 4, 6, 8)] == [
            b"one\ntwo\n",
            b"e\ntwo\n",
            b"two\n",
            b"o\n",
            b"",
        ]
        assert store.log_size(running, 1) == 8

    def test_a_piece_is_kept_once_and_goes_with_its_run(self, store: Store, finished: int) -> None:
        for _ in range(2):
            store.add_log(finished, 1, 0, b"one\n")
        assert store.log(finished, 1) == b"one\n"
        store.remove([finished])
        assert store.add_log(finished, 1, 4, b"two\n") == 0
        assert store.log(finished, 1) == b""

    def test_a_second_copier_leaves_no_gap_and_learns_where_to_go_on(
        self, store: Store, running: int
    ) -> None:
        assert store.add_log(running, 1, 0, b"one\n") == 4
        assert store.add_log(running, 1, 0, b"one\ntwo\n") == 4
        assert store.add_log(running, 1, 8, b"three\n") == 4
        assert store.log(running, 1) == b"one\n"

    def test_a_log_that_is_whole_stays_so(self, store: Store, running: int) -> None:
        store.add_log(running, 1, 0, b"one\n")
        assert not store.log_whole(running, 1)
        assert store.add_log(running, 1, 4, b"") == 4
        assert store.log_whole(running, 1)
        assert store.add_log(running, 1, 4, b"two\n") == 4
        assert [store.log(running, 1, position) for position in (0, 4)] == [b"one\n", b""]
        assert (store.log_size(running, 1), store.log_whole(running, 2)) == (4, False)


class TestPublishing:
    def test_what_tracking_may_lack_is_known(self, store: Store, finished: int, epoch: int, add) -> None:
        assert [run.id for run in store.unpublished()] == [finished]
        assert store.anything_unpublished()
        store.bind(finished, None, "abc")
        store.published(finished, attempt=1, epoch=50, state=State.FINISHED)
        assert store.unpublished() == []
        assert not store.anything_unpublished()
        later = add()
        assert store.unpublished() == [] and not store.anything_unpublished()
        store.claim(epoch, later, 200.0, gpus=0, cpus=1)
        assert [run.id for run in store.unpublished()] == [later]
        run = row(store, finished)
        assert (run.published_epoch, run.mlflow_run_id, run.published_state) == (50, "abc", State.FINISHED)

    def test_an_error_is_noted_until_it_is_over(self, store: Store, running: int) -> None:
        store.published(running, error="http://mlflow: away")
        assert row(store, running).publish_error == "http://mlflow: away"
        store.published(running, epoch=3)
        assert row(store, running).publish_error is None

    def test_what_an_older_attempt_came_to_says_nothing_about_a_newer_one(
        self, store: Store, running: int, epoch: int
    ) -> None:
        store.end(epoch, running, 1, Event.FAIL, 110.0, "failed", "first")
        store.resume(running, now=111.0)
        store.claim(epoch, running, 112.0, gpus=1, cpus=1)
        store.end(epoch, running, 2, Event.FAIL, 113.0, "failed", "second")
        store.published(running, attempt=1, state=State.FAILED)
        assert [run.id for run in store.unpublished()] == [running]

    def test_the_first_of_two_publishers_says_which_mlflow_run_it_is(
        self, store: Store, running: int
    ) -> None:
        assert store.bind(running, None, "abc") == "abc"
        assert store.bind(running, None, "def") == "abc"
        assert store.bind(running, "abc", "def") == "def"  # MLflow's store was emptied
        assert row(store, running).mlflow_run_id == "def"

    def test_a_run_that_was_removed_meanwhile_is_no_error(self, store: Store, finished: int) -> None:
        store.remove([finished])
        assert store.bind(finished, None, "abc") is None
        store.published(finished, state=State.FINISHED)
        assert store.runs() == []
