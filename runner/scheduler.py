"""The scheduler: look, decide, act, about three times a second.

All that it knows stands in the store and in the cluster, so that one which was killed goes on where it
was. It calls nothing that can block for seconds, MLflow least of all.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from runner import attendance, cluster, placement, publisher_actor, resources, storage
from runner.attempt import Assignment, Status
from runner.attendance import Close, Note, Seen, TellToStop
from runner.cluster import Answer, Death, Member, Silence
from runner.paths import Home
from runner.publisher_actor import PublisherActor
from runner.resources import Booking
from runner.rows import Machine, Run
from runner.states import Event, State
from runner.store import Store
from runner.worker import Worker

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2  # for the answers of all workers together
BEAT_SECONDS = 1.0  # between two signs of life
REPORT_SECONDS = 1.0  # between two rows that say how far a run is
PUBLISHER_SECONDS = 2.0  # between two looks whether one is needed
HOLD_SECONDS = 30.0  # before a run whose folder could not be written is started again
UNKNOWN = ""  # machine of an adopted run until its worker answers; Ray counts what it holds meanwhile


class Interval:
    """Says at most every so many seconds that something is due; does not mind when the clock is set."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


class Scheduler:
    """One epoch of scheduling; a second one that takes over makes every write of this one fail."""

    def __init__(self, store: Store, home: Home, epoch: int, tracking: Mapping[str, str]) -> None:
        self._store = store
        self._home = home
        self._epoch = epoch
        self._tracking = tracking
        self._publisher: Member | None = None
        self._beats = Interval(BEAT_SECONDS)
        self._looks = Interval(PUBLISHER_SECONDS)
        self._reports: dict[int, Interval] = defaultdict(lambda: Interval(REPORT_SECONDS))  # by run
        self._held: dict[int, float] = {}  # runs not to be started before a monotonic time
        self._members: dict[int, Member] = {}  # by run
        self._bookings: dict[int, Booking] = {}  # by run

    def tick(self, now: float) -> None:
        """Do once all that is to do.

        Raises:
            Superseded: another scheduler has taken over; nothing was written.
        """
        down = self._store.down_requested()
        if self._beats.due():
            self._beat(now, "going down" if down else None)
        self._attend(now, down.at if down else None, kill_at_once=bool(down and down.force))
        if down is None:
            self._place(now)
        self._see_to_publisher()

    def _beat(self, now: float, message: str | None) -> None:
        machines = [
            Machine(name=found.name, gpus=int(found.gpus), cpus=found.cpus, leaving=False)
            for found in cluster.machines()
        ]
        self._store.beat(
            self._epoch, now, pid=os.getpid(), host=socket.gethostname(), machines=machines, message=message
        )

    def _attend(self, now: float, down_since: float | None, kill_at_once: bool) -> None:
        running = self._store.runs([State.RUNNING])
        for run in running:
            self._adopt(run)
        answers = cluster.poll(self._members.values(), POLL_SECONDS)
        for run in running:
            seen = self._look(run, answers)
            for action in attendance.attend(run, seen, now, down_since, kill_at_once):
                self._act(run, action, now)

    def _adopt(self, run: Run) -> None:
        """Find the worker of a run that an earlier scheduler started."""
        if run.id in self._members:
            return
        if (member := cluster.find(_actor_name(run.id, run.attempt))) is not None:
            self._members[run.id] = member
            held = self._store.attempts(run.id)[-1]
            self._bookings[run.id] = Booking(UNKNOWN, held.gpus, held.cpus, held.devices)

    def _look(self, run: Run, answers: Mapping[str, Answer | Silence | Death]) -> Seen:
        match answers.get(_actor_name(run.id, run.attempt)):
            case Answer(status):
                return Seen(status=status)
            case Silence(seconds):
                return Seen(silent_seconds=seconds)
            case Death(reason):
                return Seen(dead=reason, ending=self._ending(run))
            case _:
                return Seen(dead="its worker is gone", ending=self._ending(run))

    def _ending(self, run: Run) -> storage.Ending | None:
        return storage.read_ending(self._home.run(run.id, run.name).attempt(run.attempt))

    def _act(self, run: Run, action: attendance.Action, now: float) -> None:
        match action:
            case Note(status):
                self._note(run, status, now)
            case TellToStop():
                cluster.tell(self._members[run.id], "stop")
            case Close():
                self._close(run, action, now)

    def _note(self, run: Run, status: Status, now: float) -> None:
        """Write down an answer; often enough for a person who watches, for each costs the disk a write."""
        held = self._bookings[run.id]
        self._bookings[run.id] = replace(held, machine=status.node, devices=status.fields.get("devices", ()))
        if self._reports[run.id].due() or status.ending is not None:
            # Pyright takes the field `epoch` for the positional parameter of that name.
            self._store.report(self._epoch, run.id, run.attempt, now, **status.fields)  # pyright: ignore

    def _close(self, run: Run, close: Close, now: float) -> None:
        """End the attempt's process first: what it holds must be free when the row says so."""
        if (member := self._members.pop(run.id, None)) is not None:
            cluster.kill(member)
        self._bookings.pop(run.id, None)
        self._reports.pop(run.id, None)
        state = self._store.end(
            self._epoch, run.id, run.attempt, close.event, now, close.outcome, close.reason
        )
        ending = f"{close.outcome} ({close.reason})" if close.reason else close.outcome
        log.info("run %d, attempt %d: %s, now %s", run.id, run.attempt, ending, state)

    def _place(self, now: float) -> None:
        queued = [run for run in self._store.queue() if self._held.get(run.id, 0.0) < time.monotonic()]
        if not queued:
            return
        free = resources.nodes(cluster.machines(), list(self._bookings.values()))
        waiting = [placement.resolve(run, free) for run in queued]
        running = [placement.resolve(run, free) for run in self._store.runs([State.RUNNING])]
        for start in placement.place(waiting, running, free):
            self._start(start, now)

    def _start(self, start: placement.Start, now: float) -> None:
        if self._store.claim(self._epoch, start.run_id, now, start.gpus, start.cpus) is None:
            return  # cancelled a moment ago
        run = self._store.run(start.run_id)
        assert run is not None, "only an ended run can be removed"
        try:
            storage.prepare(self._home.run(run.id, run.name), run.attempt, run.config)
        except OSError as error:  # a full disk is nobody's fault: others may start, this one tries again
            self._held[run.id] = time.monotonic() + HOLD_SECONDS
            self._close(run, Close(Event.RELEASE, "lost", f"its folder cannot be written: {error}"), now)
            return
        self._bookings[run.id] = Booking(start.node, start.gpus, start.cpus)
        self._members[run.id] = cluster.start(
            _actor_name(run.id, run.attempt),
            Worker,
            [self._assignment(run, start)],
            gpus=start.gpus,
            cpus=start.cpus,
            node=start.node,
        )
        log.info("run %d, attempt %d: started on %s", run.id, run.attempt, start.node)

    def _see_to_publisher(self) -> None:
        """Keep a publisher alive while there is something to publish; it leaves by itself."""
        if not self._looks.due():
            return
        if self._publisher is not None:
            if isinstance(cluster.poll([self._publisher], 0.0)[publisher_actor.NAME], Death):
                self._publisher = None
        elif self._store.unpublished():
            arguments = [str(self._home.root), self._tracking]
            self._publisher = cluster.start(publisher_actor.NAME, PublisherActor, arguments)

    def _assignment(self, run: Run, start: placement.Start) -> Assignment:
        return Assignment(
            home=str(self._home.root),
            run=run.id,
            name=run.name,
            attempt=run.attempt,
            node=start.node,
            config=run.config,
            cpus=start.cpus,
            gpus=start.gpus,
            use_best=run.use_best,
        )


def _actor_name(run_id: int, attempt: int) -> str:
    return f"run-{run_id}-{attempt}"
