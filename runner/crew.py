"""Workers of one run beside the first: where one of them fails or is lost, so does the whole run.

The first one, of rank 0, is the attempt's worker; it reports, saves and stops for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from runner.attempt import Status
from runner.attendance import SILENT_SECONDS, Seen, silent
from runner.cluster import Answer, Death, Fault, Lack, Member, Reply, Silence
from runner.resources import Booking
from runner.rows import ProgressFields


@dataclass
class Follower:
    """A worker of rank 1 or higher, and what it holds."""

    rank: int
    member: Member | None  # None: Ray knows of none
    booking: Booking
    fields: ProgressFields = field(default_factory=ProgressFields)
    told: str | None = None  # the address sent to it at which it meets the first one
    finished: bool = False  # it has trained to the end: what becomes of it now does not matter

    def note(self, status: Status) -> None:
        """Take note of an answer."""
        self.fields = status.fields
        self.finished = status.ending is not None and status.ending.kind == "finished"
        self.booking = replace(self.booking, machine=status.node, devices=status.fields.get("devices", ()))


def noted(followers: Sequence[Follower], answers: Mapping[str, Reply]) -> list[Follower]:
    """Record the answers in their followers, and return the followers that have answered."""
    found = []
    for follower in followers:
        match None if follower.member is None else answers.get(follower.member.name):
            case Answer(status):
                follower.note(status)
                found.append(follower)
    return found


def seen_with(
    followers: Sequence[Follower], seen: Seen, answers: Mapping[str, Reply], trained: bool = False
) -> Seen:
    """Return the observation of a run: `seen`, of its first worker, changed by the answers of the others.

    Once the first worker has reported that it takes no more steps (`trained`) or how it ended, the state of
    the others does not matter: they see that it has gone, and some end because of that.
    """
    if trained or (seen.status is not None and seen.status.ending is not None):
        return seen
    for follower in followers:
        if follower.finished:
            continue
        who = f"its worker of rank {follower.rank}"
        match None if follower.member is None else answers.get(follower.member.name):
            case Answer(Status(ending=ending)) if ending is not None and ending.kind in ("failed", "unable"):
                if ending.kind == "unable":
                    return replace(seen, lack=ending.reason or "", dead=None)
                failed = replace(ending, reason=f"{who}: {ending.reason}")
                first = seen.status or Status(follower.booking.machine, ProgressFields(), None)
                return replace(seen, dead=None, status=replace(first, ending=failed))
            case Lack(reason):
                return replace(seen, lack=reason, dead=None)
            case Fault(reason):
                return replace(seen, fault=f"{who}: {reason}", dead=None)
            case Death(reason):
                return replace(seen, dead=f"{who}: {reason}")
            case Silence(seconds) if seconds > SILENT_SECONDS:
                return replace(seen, dead=silent(who))
            case None:
                return replace(seen, dead=seen.dead or f"{who} is gone", unknown=True)
    return seen


def lacking(followers: Sequence[Follower], answers: Mapping[str, Reply]) -> Booking | None:
    """Return the booking of the first follower whose machine cannot run it; None without one."""
    for follower in followers:
        match None if follower.member is None else answers.get(follower.member.name):
            case Lack():
                return follower.booking
            case Answer(Status(ending=ending)) if ending is not None and ending.kind == "unable":
                return follower.booking
    return None


def fields_of_all(first: ProgressFields, followers: Sequence[Follower]) -> ProgressFields:
    """Return the first worker's fields, with the hosts and GPUs of all workers, by rank."""
    every = [first, *(follower.fields for follower in followers)]
    hosts = dict.fromkeys(host for fields in every if (host := fields.get("host")))
    devices = tuple(device for fields in every for device in fields.get("devices", ()))
    return {**first, "host": ", ".join(hosts) or None, "devices": devices}
