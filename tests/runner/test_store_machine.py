"""The queue under any order of events, against a model of it: its promises hold after each event."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import postgres
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runner.rows import Intent, NewRun, Outcome, Run
from runner.states import ENDED, UNFINISHED, Event, IllegalMove, State
from runner.store import Store, Superseded, open_store

OUTCOMES: dict[Event, Outcome] = {
    Event.FINISH: "finished",
    Event.FAIL: "failed",
    Event.LOSE: "lost",
    Event.RELEASE: "stopped",
}
INTENTS: dict[Intent, State] = {"interrupt": State.INTERRUPTED, "cancel": State.CANCELLED}

intents = st.sampled_from(list(INTENTS))
picks = st.integers(0, 3)  # which of the runs that an event can happen to


@dataclass(frozen=True)
class Expected:
    """Model of a run: the values that its row in the queue must have."""

    state: State
    priority: int
    max_retries: int
    num_epochs: int = 10
    attempt: int = 0
    losses: int = 0
    intent: Intent | None = None
    durable: tuple[int, int] | None = None
    from_best: bool = False  # the next checkpoint counts, also one of fewer steps


def stronger(intent: Intent, other: Intent | None) -> Intent:
    return "cancel" if "cancel" in (intent, other) else "interrupt"


class QueueMachine(RuleBasedStateMachine):
    """Actions of users, a scheduler, its workers, and superseded ones, in any order."""

    def new_place(self) -> Path | str:
        """Return the place of a new queue without runs."""
        self.folder = tempfile.TemporaryDirectory()
        return Path(self.folder.name) / "queue.db"

    @initialize()
    def open(self) -> None:
        self.place = self.new_place()
        self.store: Store = open_store(self.place)
        self.now = 0.0
        self.expected: dict[int, Expected] = {}
        self.removed: set[int] = set()
        self.outcomes: dict[tuple[int, int], Outcome] = {}
        self.epoch = self.store.take_over(self.tick(), "lab", "1")

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def tick(self) -> float:
        """Advance the clock by a second, less than the age at which a scheduler's beat is stale."""
        self.now += 1.0
        return self.now

    def there_are(self, *states: State) -> list[int]:
        return sorted(number for number, run in self.expected.items() if run.state in states)

    def choose(self, pick: int, *states: State) -> tuple[int, Expected]:
        numbers = self.there_are(*states)
        number = numbers[pick % len(numbers)]
        return number, self.expected[number]

    @precondition(lambda self: len(self.expected) < 4)
    @rule(priority=st.integers(-1, 1), max_retries=st.integers(0, 2))
    def add(self, priority: int, max_retries: int) -> None:
        new = NewRun(name="mnist", config="", num_epochs=10, priority=priority, max_retries=max_retries)
        (number,) = self.store.add([new], self.tick())
        assert number not in self.expected.keys() | self.removed
        self.expected[number] = Expected(State.QUEUED, priority, max_retries)

    @precondition(lambda self: self.there_are(State.QUEUED))
    @rule(pick=picks)
    def start(self, pick: int) -> None:
        number, run = self.choose(pick, State.QUEUED)
        attempt = self.store.claim(self.epoch, number, self.tick(), 1, 1)
        assert attempt is not None
        assert attempt.number == run.attempt + 1
        self.expected[number] = replace(run, state=State.RUNNING, attempt=attempt.number)

    @precondition(lambda self: self.there_are(State.RUNNING))
    @rule(pick=picks, epoch=st.integers(0, 1), step=st.integers(0, 1))
    def make_durable(self, pick: int, epoch: int, step: int) -> None:
        number, run = self.choose(pick, State.RUNNING)
        assert self.store.report(
            self.epoch, number, run.attempt, self.tick(), durable_epoch=epoch, durable_step=step
        )
        if run.from_best or run.durable is None or (epoch, step) > run.durable:
            self.expected[number] = replace(run, losses=0, durable=(epoch, step), from_best=False)

    @precondition(lambda self: self.there_are(State.RUNNING))
    @rule(pick=picks, event=st.sampled_from([Event.LOSE, *OUTCOMES]), meanwhile=st.lists(intents, max_size=2))
    def end(self, pick: int, event: Event, meanwhile: list[Intent]) -> None:
        number, run = self.choose(pick, State.RUNNING)
        for intent in meanwhile:
            assert self.store.ask(number, intent, 30.0, self.tick()) is State.RUNNING
            run = replace(run, intent=stronger(intent, run.intent))
        state = self.store.end(self.epoch, number, run.attempt, event, self.tick(), OUTCOMES[event])
        losses = run.losses + (event is Event.LOSE)
        if event is Event.FINISH:
            after = State.FINISHED
        elif event is Event.FAIL:
            after = State.FAILED
        elif run.intent:
            after = INTENTS[run.intent]
        else:
            after = State.FAILED if event is Event.LOSE and losses > run.max_retries else State.QUEUED
        assert state is after
        self.outcomes[number, run.attempt] = OUTCOMES[event]
        self.expected[number] = replace(run, state=after, losses=losses, intent=None)

    @precondition(lambda self: self.there_are(*UNFINISHED))
    @rule(pick=picks, intent=intents, grace=st.floats(0, 60))
    def ask(self, pick: int, intent: Intent, grace: float) -> None:
        number, run = self.choose(pick, *UNFINISHED)
        state = self.store.ask(number, intent, grace, self.tick())
        if run.state is State.QUEUED:
            assert state is INTENTS[intent]
            self.expected[number] = replace(run, state=state)
        else:
            assert state is State.RUNNING
            self.expected[number] = replace(run, intent=stronger(intent, run.intent))

    @precondition(lambda self: self.there_are(*ENDED))
    @rule(pick=picks, more=st.sampled_from([0, 5]), best=st.booleans())
    def resume(self, pick: int, more: int, best: bool) -> None:
        number, run = self.choose(pick, *ENDED)
        num_epochs = run.num_epochs + more
        if run.state is State.FINISHED and not more:
            with pytest.raises(IllegalMove):
                self.store.resume(number, num_epochs=num_epochs, use_best=best, now=self.tick())
            return
        self.store.resume(number, num_epochs=num_epochs, use_best=best, now=self.tick())
        durable = (run.durable[0], 0) if best and run.durable else run.durable
        self.expected[number] = replace(
            run, state=State.QUEUED, losses=0, num_epochs=num_epochs, durable=durable, from_best=best
        )

    @precondition(lambda self: self.there_are(*ENDED))
    @rule(pick=picks, files_first=st.booleans())
    def remove(self, pick: int, files_first: bool) -> None:
        number, _ = self.choose(pick, *ENDED)
        if files_first:
            self.store.begin_removal([number], self.tick())
            with pytest.raises(IllegalMove):
                self.store.resume(number, num_epochs=1000, now=self.tick())
        self.store.remove([number])
        self.removed.add(number)
        del self.expected[number]

    @precondition(lambda self: self.expected)
    @rule(pick=picks)
    def what_comes_too_late_is_refused(self, pick: int) -> None:
        number, run = self.choose(pick, *State)
        over = {run.attempt - 1} if run.state is State.RUNNING else {run.attempt - 1, run.attempt}
        for attempt in over:
            assert self.store.report(self.epoch, number, attempt, self.tick(), epoch=9) is False
            assert self.store.end(self.epoch, number, attempt, Event.FINISH, self.tick(), "finished") is None
        if run.state is not State.QUEUED:
            assert self.store.claim(self.epoch, number, self.tick(), 1, 1) is None
        with pytest.raises(IllegalMove):
            if run.state in ENDED:
                self.store.ask(number, "cancel", 1.0, self.tick())
            else:
                self.store.resume(number, num_epochs=99, now=self.tick())
        if run.state in UNFINISHED:
            with pytest.raises(IllegalMove):
                self.store.remove([number])

    @precondition(lambda self: self.expected)
    @rule(pick=picks)
    def another_scheduler_takes_over(self, pick: int) -> None:
        old, self.epoch = self.epoch, self.store.take_over(self.tick(), "lab", "1")
        assert self.epoch == old + 1
        number, run = self.choose(pick, *State)
        for write in (
            lambda: self.store.claim(old, number, self.tick(), 1, 1),
            lambda: self.store.report(old, number, run.attempt, self.tick(), epoch=9),
            lambda: self.store.end(old, number, run.attempt, Event.FINISH, self.tick(), "finished"),
        ):
            with pytest.raises(Superseded):
                write()

    @rule()
    def open_again(self) -> None:
        queue_id = self.store.queue_id
        self.store.close()
        self.store = open_store(self.place, create=False)
        assert self.store.queue_id == queue_id

    @invariant()
    def every_run_is_what_it_should_be(self) -> None:
        rows = {run.id: run for run in self.store.runs()}
        assert rows.keys() == self.expected.keys()
        for run_id, expected in self.expected.items():
            self.check(rows[run_id], expected)

    @invariant()
    def the_queue_is_in_order(self) -> None:
        queued = [
            (-run.priority, number) for number, run in self.expected.items() if run.state is State.QUEUED
        ]
        assert [run.id for run in self.store.queue()] == [number for _, number in sorted(queued)]

    def check(self, run: Run, expected: Expected) -> None:
        durable = None if run.durable_epoch is None else (run.durable_epoch, run.durable_step)
        actual = (run.state, run.attempt, run.losses, run.intent, durable, run.num_epochs)
        assert actual == (
            expected.state,
            expected.attempt,
            expected.losses,
            expected.intent,
            expected.durable,
            expected.num_epochs,
        )
        assert (run.ended_at is not None) == (run.state in ENDED)
        attempts = self.store.attempts(run.id)
        assert [attempt.number for attempt in attempts] == list(range(1, run.attempt + 1))
        for attempt in attempts:
            assert attempt.outcome == self.outcomes.get((run.id, attempt.number))
            assert (attempt.ended_at is None) == (attempt.outcome is None)
        unended = [attempt.number for attempt in attempts if attempt.outcome is None]
        assert unended == ([run.attempt] if run.state is State.RUNNING else [])


class PostgresMachine(QueueMachine):
    """The same on PostgreSQL; each example empties the same queue."""

    server: postgres.Server
    url: str

    def new_place(self) -> str:
        self.server.empty_queue(self.url)
        return self.url


@pytest.fixture(scope="class")
def postgres_machine(postgres_server: postgres.Server, postgres_queue: str) -> None:
    PostgresMachine.server, PostgresMachine.url = postgres_server, postgres_queue


@pytest.mark.slow
@pytest.mark.usefixtures("postgres_machine")
class TestPostgresQueue(PostgresMachine.TestCase):
    pass


TestQueue = QueueMachine.TestCase
TestQueue.settings = TestPostgresQueue.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # every step is a transaction on the disk
)
