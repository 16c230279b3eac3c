"""The scheduler: look, decide, act, about three times a second.

Its whole state is in the store and in the cluster, so that a scheduler started anew goes on where a killed
one was. It calls nothing that can block for seconds, MLflow least of all.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from runner import attendance, cluster, crew, placement, publisher_actor, resources, settings, spread, storage
from runner.attempt import Assignment, Status
from runner.attendance import Avoid, Close, Note, Seen, TellToStop
from runner.cluster import Answer, Death, Fault, Lack, Member, Reply, Silence
from runner.crew import Follower
from runner.endings import Endings
from runner.ownership import PlaceTaken
from runner.paths import Home
from runner.protocol import cannot_speak
from runner.publisher_actor import PublisherActor
from runner.resources import Booking
from runner.rows import Machine, Run
from runner.source import Archive, SourceError
from runner.states import Event, State
from runner.store import Store
from runner.worker import Worker

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2  # for the answers of all workers together
BEAT_SECONDS = 1.0  # between two signs of life
REPORT_SECONDS = 1.0  # between two rows that say how far a run is
PUBLISHER_SECONDS = 2.0  # between two looks whether one is needed
HOLD_SECONDS = 30.0  # before a run whose folder could not be written is started again
AVOID_SECONDS = 300.0  # in which a machine that cannot run what we start is left alone
UNKNOWN = ""  # machine of an adopted worker that Ray has on none yet; Ray counts what it holds meanwhile


class Interval:
    """Timer that is due at most once in so many seconds, by a monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


@dataclass
class Charge:
    """A running run's worker, and what it holds."""

    member: Member
    booking: Booking
    followers: list[Follower] = field(default_factory=list)  # the run's other workers, by rank
    trained: bool = False  # the worker has reported that it takes no more steps
    lacking: Booking | None = None  # of the worker, if not the first, whose machine cannot run it
    reports: Interval = field(default_factory=lambda: Interval(REPORT_SECONDS))
    close: Close | None = None  # it has ended so, and the store may not know it yet

    @property
    def members(self) -> list[Member]:
        return [self.member, *(each.member for each in self.followers if each.member is not None)]

    @property
    def bookings(self) -> list[Booking]:
        return [self.booking, *(each.booking for each in self.followers)]


@dataclass(frozen=True)
class Avoided:
    """A machine on which nothing is started before a monotonic time."""

    until: float
    reason: str


class Scheduler:
    """One epoch of scheduling; a second one that takes over makes every write of this one fail."""

    def __init__(self, store: Store, home: Home, epoch: int, given: Mapping[str, str], own: Archive) -> None:
        """`given`: variables for the publisher and the workers (runner.settings).

        `own`: the code of the scheduler itself, which the publisher gets, and runs that have none.
        """
        self._own = own
        self._store = store
        self._home = home
        self._epoch = epoch
        self._given = given
        self._storage = storage.of(home)
        self._endings = Endings(self._storage)
        self._publisher: Member | None = None
        self._beats = Interval(BEAT_SECONDS)
        self._looks = Interval(PUBLISHER_SECONDS)
        self._held: dict[int, float] = {}  # runs not to be started before a monotonic time
        self._avoided: dict[str, Avoided] = {}  # by the machine's id
        self._charges: dict[int, Charge] = {}  # by run
        self._machines: list[cluster.Machine] = []

    def tick(self, now: float) -> None:
        """Do one round: look, decide and act.

        Raises:
            Superseded: another scheduler has taken over; nothing was written.
            Unreachable: the store does not answer; what was not written is tried again by the next tick.
        """
        down = self._store.down_requested()
        self._machines = cluster.machines()
        if self._beats.due():
            self._beat(now, "going down" if down else None)
        self._attend(now, down.at if down else None, kill_at_once=bool(down and down.force))
        if down is None:
            self._place(now)
        self._see_to_publisher()

    def keep_workers(self) -> None:
        """Ask the workers for their status while the store is away, lest they take themselves for cut off.

        The next `tick` gets the same answers again; how an attempt ended is on its host's disk as well.
        """
        cluster.poll(self._open_members(), POLL_SECONDS)

    @property
    def outstays(self) -> bool:
        """Whether this process keeps a drained machine from going, and may live on another one."""
        here = cluster.own_node()
        leaving = any(machine.id == here and machine.leaving for machine in self._machines)
        others = any(not machine.leaving and machine.id not in self._shut() for machine in self._machines)
        return (
            leaving
            and others
            and all(booking.machine != here for held in self._charges.values() for booking in held.bookings)
        )

    def give_way(self) -> None:
        """End the publisher, which may live on the same machine; the next scheduler starts another."""
        if self._publisher is not None:
            cluster.kill(self._publisher)

    def _beat(self, now: float, message: str | None) -> None:
        shut = self._shut()
        said = [message] if message else []
        said += filter(None, [self._endings.trouble])
        said += [f"{avoided.reason}; nothing starts there for a while" for avoided in shut.values()]
        machines = [
            Machine(
                name=found.name,
                gpus=int(found.gpus),
                cpus=found.cpus,
                leaving=found.leaving or found.id in shut,
            )
            for found in self._machines
        ]
        self._store.beat(
            self._epoch,
            now,
            pid=os.getpid(),
            host=socket.gethostname(),
            machines=machines,
            message="; ".join(said) or None,
        )

    def _shut(self) -> dict[str, Avoided]:
        """Return the machines on which nothing is started at the moment, though they are not drained."""
        now = time.monotonic()
        return {machine: avoided for machine, avoided in self._avoided.items() if avoided.until > now}

    def _attend(self, now: float, down_since: float | None, kill_at_once: bool) -> None:
        running = self._store.runs([State.RUNNING])
        for gone in self._charges.keys() - {run.id for run in running}:
            del self._charges[gone]  # its end was written, and the store's answer lost
        for run in running:
            self._adopt(run)
        answers = _understood(cluster.poll(self._open_members(), POLL_SECONDS))
        looks: list[tuple[Run, Seen]] = []
        for run in running:
            charge = self._charges.get(run.id)
            if charge is not None and charge.close is not None:
                self._close(run, charge.close, now)
            else:
                looks.append((run, attendance.taken_for_dead(run, self._look(run, answers))))
        in_haste = {
            run.id for run, _ in looks if kill_at_once or attendance.overdue(run, now, down_since) is not None
        }
        self._endings.ask([run for run, seen in looks if seen.dead is not None or run.id in in_haste])
        for run, seen in looks:
            if seen.dead is not None:
                known = self._endings.of(run)
                if not known.answered and run.id not in in_haste:
                    continue  # it may have finished: another start now would be for nothing
                seen = replace(seen, ending=known.answer)
            for action in attendance.attend(run, seen, now, down_since, kill_at_once):
                self._act(run, action, now)

    def _open_members(self) -> list[Member]:
        charges = [charge for charge in self._charges.values() if charge.close is None]
        return [member for charge in charges for member in charge.members]

    def _adopt(self, run: Run) -> None:
        """Find the worker of a run that an earlier scheduler started."""
        if run.id in self._charges:
            return
        if (member := cluster.find(_actor_name(run.id, run.attempt))) is not None:
            held = self._store.attempts(run.id)[-1]
            devices = held.devices if run.workers == 1 else ()  # of several they are those of all
            gpus, cpus = (spread.share(each, run.workers) for each in (held.gpus, held.cpus))

            def booked(found: Member | None) -> Booking:
                """Ask Ray for its machine: a worker that cannot run there never reports which one it is."""
                machine = None if found is None else cluster.node_of(found)
                return Booking(machine or UNKNOWN, gpus, cpus, devices)

            others = [cluster.find(name) for name in _actor_names(run)[1:]]
            followers = [Follower(rank, other, booked(other)) for rank, other in enumerate(others, 1)]
            self._charges[run.id] = Charge(member, booked(member), followers)

    def _look(self, run: Run, answers: Mapping[str, Reply]) -> Seen:
        first = self._look_at_first(run, answers)
        charge = self._charges.get(run.id)
        if charge is None or not charge.followers:
            return first
        meets_at = first.status.meets_at if first.status is not None else None
        for follower in crew.noted(charge.followers, answers):
            if follower.member is not None and meets_at not in (None, follower.told):
                cluster.tell(follower.member, "meet", meets_at)
                follower.told = meets_at
        charge.lacking = crew.lacking(charge.followers, answers)
        charge.trained = charge.trained or (first.status is not None and first.status.trained)
        seen = crew.seen_with(charge.followers, first, answers, charge.trained)
        machine = self._machine_of(run)
        held = {booking.machine for booking in charge.bookings}
        leaving = any(found.leaving for found in self._machines if found.id in held)
        return replace(seen, machine=machine.name if machine else seen.machine, leaving=leaving)

    def _look_at_first(self, run: Run, answers: Mapping[str, Reply]) -> Seen:
        machine = self._machine_of(run)
        seen = Seen()
        if machine is not None:
            seen = Seen(machine=machine.name, leaving=machine.leaving)
        match answers.get(_actor_name(run.id, run.attempt)):
            case Answer(status):
                return replace(seen, status=status)
            case Fault(reason):
                return replace(seen, fault=reason)
            case Lack(reason):
                return replace(seen, lack=reason)
            case Silence(seconds):
                return replace(seen, silent_seconds=seconds)
            case Death(reason):
                return replace(seen, dead=reason)
            case _:
                return replace(seen, dead="its worker is gone", unknown=True)

    def _machine_of(self, run: Run) -> cluster.Machine | None:
        charge = self._charges.get(run.id)
        held = (charge.lacking or charge.booking).machine if charge else UNKNOWN
        return next((machine for machine in self._machines if machine.id == held), None)

    def _act(self, run: Run, action: attendance.Action, now: float) -> None:
        match action:
            case Note(status):
                self._note(run, status, now)
            case TellToStop():
                cluster.tell(self._charges[run.id].member, "stop")
            case Avoid(reason):
                self._avoid(run, reason)
            case Close():
                self._close(run, action, now)

    def _note(self, run: Run, status: Status, now: float) -> None:
        """Store an answer, every REPORT_SECONDS at most and at the end: each costs the disk a write."""
        charge = self._charges[run.id]
        devices = status.fields.get("devices", ())
        charge.booking = replace(charge.booking, machine=status.node, devices=devices)
        if charge.reports.due() or status.ending is not None:
            # Pyright takes the field `epoch` for the positional parameter of that name.
            fields = (
                crew.fields_of_all(status.fields, charge.followers) if charge.followers else status.fields
            )
            self._store.report(self._epoch, run.id, run.attempt, now, **fields)  # pyright: ignore

    def _avoid(self, run: Run, reason: str) -> None:
        if machine := self._machine_of(run):
            self._avoided[machine.id] = Avoided(time.monotonic() + AVOID_SECONDS, reason)
            log.warning("%s; nothing starts there for %g s", reason, AVOID_SECONDS)

    def _close(self, run: Run, close: Close, now: float) -> None:
        """End the attempt's process first: what it holds must be free when the row says so.

        And it is held until the row says so: no other run may have it before that.
        """
        if (charge := self._charges.get(run.id)) is not None:
            charge.close = close
            for member in charge.members:
                cluster.kill(member)
        if run.workers > 1:
            cluster.release(_actor_name(run.id, run.attempt))
        state = self._store.end(
            self._epoch,
            run.id,
            run.attempt,
            close.event,
            now,
            close.outcome,
            close.reason,
            close.epochs,
            close.kept or self._endings.kept(run),
        )
        self._charges.pop(run.id, None)
        self._endings.forget(run)
        ending = f"{close.outcome} ({close.reason})" if close.reason else close.outcome
        log.info("run %d, attempt %d: %s, now %s", run.id, run.attempt, ending, state)

    def _place(self, now: float) -> None:
        queued = [run for run in self._store.line() if self._held.get(run.id, 0.0) < time.monotonic()]
        if not queued:
            return
        bookings = [booking for charge in self._charges.values() for booking in charge.bookings]
        free = resources.nodes(self._machines, bookings, self._shut())
        waiting = placement.resolve_all(queued, free)
        running = placement.resolve_all(self._store.runs([State.RUNNING]), free)
        for start in placement.place(waiting, running, free):
            self._start(start, now)

    def _start(self, start: placement.Start, now: float) -> None:
        before = self._store.run(start.run_id)
        after = 0 if before is None else self._kept_attempt(before)
        if self._store.claim(self._epoch, start.run_id, now, start.gpus, start.cpus, after) is None:
            return  # cancelled a moment ago
        run = self._store.run(start.run_id)
        assert run is not None, "only an ended run can be removed"
        try:
            self._storage.prepare(run)
        except PlaceTaken as error:
            self._close(run, Close(Event.FAIL, "failed", str(error)), now)
            return
        except OSError as error:  # such as a full disk: other runs may start, this one is tried again
            self._held[run.id] = time.monotonic() + HOLD_SECONDS
            self._close(run, Close(Event.RELEASE, "lost", f"its folder cannot be written: {error}"), now)
            return
        try:
            archive = self._code_of(run)
        except SourceError as error:
            self._close(run, Close(Event.FAIL, "failed", str(error)), now)
            return
        self._charges[run.id] = self._started(run, start, archive)
        nodes = ", ".join(dict.fromkeys((start.node, *start.others)))
        log.info("run %d, attempt %d: started on %s", run.id, run.attempt, nodes)

    def _kept_attempt(self, run: Run) -> int:
        """The newest attempt in the run's folder: of a queue put back from a copy the row may be older."""
        try:
            return self._storage.newest_attempt(run)
        except OSError:  # `prepare` says what is wrong
            return 0

    def _started(self, run: Run, start: placement.Start, archive: Archive) -> Charge:
        """Start the workers of a run, each with its share of what the run needs."""
        names, nodes = _actor_names(run), (start.node, *start.others)
        gpus, cpus = spread.share(start.gpus, len(nodes)), spread.share(start.cpus, len(nodes))
        bookings = [Booking(node, gpus, cpus) for node in nodes]
        given = [[self._assignment(run, start, rank).plain()] for rank in range(len(nodes))]
        if len(nodes) == 1:
            member = cluster.start(names[0], Worker, given[0], archive, gpus=gpus, cpus=cpus, node=start.node)
            return Charge(member, bookings[0])
        first, *others = cluster.start_together(names, Worker, given, archive, nodes, gpus=gpus, cpus=cpus)
        ranks = range(1, len(nodes))
        return Charge(first, bookings[0], list(map(Follower, ranks, others, bookings[1:])))

    def _code_of(self, run: Run) -> Archive:
        """Return the code of the run's worker. Raises SourceError, in a line that says what to do."""
        if run.code is None:
            return self._own
        kept = self._store.source(run.code)
        if kept is None:
            raise SourceError("its code is not in the queue: `resume --new-code` goes on with that of today")
        if reason := cannot_speak(kept.protocol):
            raise SourceError(reason)
        return kept.archive

    def _see_to_publisher(self) -> None:
        """Keep a publisher alive while there is something to publish; it leaves by itself."""
        if not self._looks.due():
            return
        if self._publisher is not None:
            match cluster.poll([self._publisher], 0.0)[publisher_actor.NAME]:
                case Death():
                    self._publisher = None
                case Lack(reason) | Fault(reason):  # this machine has it all, but it was given another
                    log.warning("the publisher's machine cannot run it: %s", reason)
                    cluster.kill(self._publisher)
        elif self._store.anything_unpublished():
            arguments = [str(self._home.root), self._home.database_url, self._given]
            here = cluster.own_node()
            self._publisher = cluster.start(
                publisher_actor.NAME, PublisherActor, arguments, self._own, prefers=here
            )

    def _assignment(self, run: Run, start: placement.Start, rank: int) -> Assignment:
        nodes = (start.node, *start.others)
        addresses = {machine.id: machine.address for machine in self._machines}
        return Assignment(
            home=str(self._home.root),
            run=run.id,
            name=run.name,
            attempt=run.attempt,
            node=nodes[rank],
            config=run.config,
            cpus=spread.share(start.cpus, len(nodes)),
            gpus=spread.share(start.gpus, len(nodes)),
            use_best=run.use_best,
            submit_python=run.submit_python,
            submit_torch=run.submit_torch,
            storage=self._home.storage,
            settings=settings.of_worker(self._given),
            rank=rank,
            workers=len(nodes),
            address=addresses.get(start.node, ""),
            saved_epochs=run.durable_epoch or 0,
            identity=run.identity,
        )


def _understood(answers: Mapping[str, Reply]) -> dict[str, Reply]:
    """Return the replies with each answer, which comes as plain values, made a Status."""
    return {
        name: Answer(Status.of(answer.status)) if isinstance(answer, Answer) else answer
        for name, answer in answers.items()
    }


def _actor_names(run: Run) -> list[str]:
    """Return the names of the actors of the run's workers, by rank."""
    first = _actor_name(run.id, run.attempt)
    return [first, *(f"{first}-rank-{rank}" for rank in range(1, run.workers))]


def _actor_name(run_id: int, attempt: int) -> str:
    return f"run-{run_id}-{attempt}"
