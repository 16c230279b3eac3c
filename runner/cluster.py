"""Calls to Ray; the only file of the runner that imports it.

Ray is given admitted workers only, never a backlog, and reports which of them are dead. Scheduler,
publisher and attempts are detached, named actors in the queue's namespace, so that each outlives the process
that started it.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import cloudpickle
from ray._private.state import available_resources_per_node, state  # Ray has no public calls for these
from ray.actor import exit_actor
from ray.exceptions import (
    ActorUnavailableError,
    ActorUnschedulableError,
    AuthenticationError,
    RayActorError,
    RayError,
    RayTaskError,
)
from ray.util import list_named_actors
from ray.util.placement_group import get_placement_group, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from capsnet import locks
from capsnet import private as private_folders
from runner import code_cache, private, source
from runner import guest as guests
from runner.source import Archive

THREADS = 4  # of an actor: its work goes on in one of its own, so that it always answers
ANSWER_SECONDS = 5.0  # for which Ray itself would wait a minute or two
NO_TOKEN = "its hosts use a token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH name none"
REASONS = {  # by how Ray begins to say so
    "Failed to connect to Ray cluster": "it has no node that answers, or lets nobody in without its token: "
    "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as on its hosts",
    "No node info found": "this host does not belong to it: run this on one that does, or `ray start` here",
}


# What a node must have before it has our code travels as it is, and not by name.
for travels in (guests, code_cache, locks, private, private_folders, source):
    cloudpickle.register_pickle_by_value(travels)


class ClusterError(Exception):
    """The cluster cannot be reached; one line."""


@dataclass(frozen=True)
class Machine:
    """Node of the cluster, with its total and its free resources."""

    id: str
    name: str
    gpus: float
    cpus: float
    free_gpus: float
    free_cpus: float
    leaving: bool = False  # Ray drains it
    address: str = ""  # as other nodes reach it


@dataclass(frozen=True)
class Answer:
    """Value that an actor's method, usually `status`, returned."""

    status: Any


@dataclass(frozen=True)
class Lack:
    """The actor's machine cannot run it: something is missing there."""

    reason: str


@dataclass(frozen=True)
class Fault:
    """The actor's code cannot be run anywhere."""

    reason: str


@dataclass(frozen=True)
class Silence:
    """An actor has not answered yet."""

    seconds: float


@dataclass(frozen=True)
class Death:
    """Ray says that the actor is gone."""

    reason: str


Reply = Answer | Lack | Fault | Silence | Death


@dataclass
class Member:
    """A handle on an actor, and the one question that it has been asked."""

    name: str
    actor: Any  # Ray's handle, whose methods are those of the actor's class
    asked_at: float = field(default_factory=time.monotonic)
    question: Any = None  # Ray's reference to the answer


def connect(address: str, namespace: str) -> None:
    """Join the cluster at `address`; what is named from here on lies in `namespace`.

    Raises:
        ClusterError: nobody answers there, refuses the token, or has another version.
    """
    if address != "auto":
        _expect_somebody(address)
    try:
        ray.init(
            address=address,
            namespace=namespace,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
        )
    except AuthenticationError as error:
        raise ClusterError(f"the Ray at {address} cannot be joined: {NO_TOKEN}") from error
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())
        known = (reason for start, reason in REASONS.items() if said.startswith(start))
        reason = next(known, said)
        raise ClusterError(f"the Ray at {address} cannot be joined: {reason}") from error


def _expect_somebody(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ClusterError(f"no Ray answers at {address}: {reason}; is the cluster's head up?") from error


def identity() -> str:
    """The name of this cluster, the same from each of its hosts and by whatever address it was joined."""
    return f"Ray cluster {ray.get_runtime_context().get_session_name()}"


def own_node() -> str:
    """Return the id of the node on which this runs."""
    return ray.get_runtime_context().get_node_id()


def start(
    name: str,
    actor_class: type,
    arguments: Iterable[Any],
    archive: Archive,
    *,
    gpus: float = 0.0,
    cpus: float = 0.0,
    node: str | None = None,
    prefers: str | None = None,
    restart: bool = False,
) -> Member:
    """Start a detached actor; one that exists under this name is returned instead.

    It is made of the class of that name in the code of `archive`, which it brings along wherever it is made;
    `arguments` are plain values, as JSON has them, for that may be another version's class.
    `node`: the id of the only one on which it may live; `prefers`: of the one where it lives if it can.
    `restart`: Ray starts it anew whenever its process dies, elsewhere where its node is gone.
    """
    options: dict[str, Any] = {
        "name": name,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_gpus": gpus,
        "num_cpus": cpus,
        "max_restarts": -1 if restart else 0,
        "max_concurrency": THREADS,
    }
    if chosen := node or prefers:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(chosen, soft=node is None)
    if prefers:
        options["memory"] = 1  # byte: an actor that needs nothing goes to any node, whatever it prefers
    actor = _remote(actor_class.__module__, actor_class.__name__, archive, restart).options(**options)
    return Member(name, actor.remote(json.dumps(list(arguments))))


def start_together(
    names: Sequence[str],
    actor_class: type,
    arguments: Sequence[Iterable[Any]],
    archive: Archive,
    nodes: Sequence[str],
    *,
    gpus: float,
    cpus: float,
) -> list[Member]:
    """Start detached actors, each with its name, arguments and node, and each with so many GPUs and cores.

    What they need is taken for all of them at once, under the first one's name, or not at all; then none of
    them answers. `arguments` and `archive`: as of `start`.
    """
    bundle = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    group = placement_group(
        [bundle] * len(names),
        strategy="PACK",
        name=names[0],
        lifetime="detached",
        bundle_label_selector=[{"ray.io/node-id": node} for node in nodes],
    )
    members = []
    for index, (name, given) in enumerate(zip(names, arguments, strict=True)):
        actor = _remote(actor_class.__module__, actor_class.__name__, archive, False).options(
            name=name,
            lifetime="detached",
            num_gpus=gpus,
            num_cpus=cpus,
            max_restarts=0,
            max_concurrency=THREADS,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, index),
        )
        members.append(Member(name, actor.remote(json.dumps(list(given)))))
    return members


def release(name: str) -> None:
    """Give back what was taken for actors that were started together, and end those that live."""
    try:
        remove_placement_group(get_placement_group(name))
    except ValueError:  # it was never taken, or has been given back
        return


def _remote(module: str, name: str, archive: Archive, restarted: bool) -> Any:
    key = (module, name, archive.digest, restarted)
    if key not in _classes:
        _classes[key] = ray.remote(guests.guest(module, name, archive, restarted))
    return _classes[key]


_classes: dict[tuple[str, str, str, bool], Any] = {}  # Ray keeps every class that it is given


def find(name: str) -> Member | None:
    """Return the living actor of this name, in this queue's namespace."""
    try:
        return Member(name, ray.get_actor(name))
    except ValueError:
        return None


def node_of(member: Member) -> str | None:
    """The id of the node on which the actor lives, also where it has not answered; None while on none."""
    found = state.actor_table(member.actor._actor_id.hex()).get("Address", {}).get("NodeID", "")
    return found if found.strip("f") else None  # all f: Ray's word for none


def poll(members: Iterable[Member], timeout: float) -> dict[str, Reply]:
    """Ask each member for its status and wait at most `timeout` seconds for all together.

    A question that is not answered stays asked: a member that hangs gets one question, not a pile.
    """
    members = list(members)
    for member in members:
        if member.question is None:
            member.question = member.actor.call.remote("status")
            member.asked_at = time.monotonic()
    questions = [member.question for member in members]
    ready = set(ray.wait(questions, num_returns=len(questions), timeout=timeout)[0]) if questions else set()
    return {member.name: _read(member, member.question in ready) for member in members}


def ask(member: Member, method: str) -> Any:
    """Return the result of an actor's method; None where it does not answer soon, or has no such method."""
    question = member.actor.call.remote(method)
    ready, _ = ray.wait([question], timeout=ANSWER_SECONDS)
    try:
        answer = _read(Member(member.name, member.actor, question=question), bool(ready))
    except RayTaskError:  # of an earlier version
        return None
    return answer.status if isinstance(answer, Answer) else None


def _read(member: Member, ready: bool) -> Reply:
    if not ready:
        return Silence(time.monotonic() - member.asked_at)
    question, member.question = member.question, None
    try:
        kind, said = ray.get(question)
    except ActorUnavailableError:  # the network failed, not the actor: ask again
        return Silence(time.monotonic() - member.asked_at)
    except (RayActorError, ActorUnschedulableError) as error:
        return Death(_cause(str(error)))
    return {"answer": Answer, "lack": Lack, "fault": Fault}[kind](said)


def _cause(said: str) -> str:
    """Return the cause of a death, from Ray's message, in a line that a user can act on."""
    if "low on memory" in said or "OUT_OF_MEMORY" in said:
        return "its machine ran out of memory, and Ray ended its process"
    if "node" in said.lower() and "died" in said and "worker process has died" not in said:
        return "its machine is gone"
    return "its process was killed or crashed"


def tell(member: Member, message: str, *arguments: Any) -> None:
    """Call a method of the actor without waiting for it; a dead one shows at the next `poll`."""
    member.actor.call.remote(message, *arguments)


def kill(member: Member) -> None:
    """End the actor's process; its resources are free as soon as it is gone."""
    ray.kill(member.actor, no_restart=True)


def restart(member: Member) -> None:
    """End the actor's process, which Ray then starts anew."""
    ray.kill(member.actor, no_restart=False)


def tell_self(message: str) -> None:
    """Call a method of the actor in which this runs, from a thread of it."""
    ray.get_runtime_context().current_actor.call.remote(message)


def leave() -> None:
    """End the actor in which this runs for good; called in one of its methods."""
    exit_actor()


def machines() -> list[Machine]:
    """Return the nodes that live, in a stable order."""
    free, leaving = available_resources_per_node(), state.get_draining_nodes()
    return sorted(
        (_machine(node, free.get(node["NodeID"], {}), leaving) for node in ray.nodes() if node["Alive"]),
        key=lambda machine: (machine.name, machine.id),
    )


def _machine(node: Mapping[str, Any], free: Mapping[str, float], leaving: Collection[str]) -> Machine:
    has = node["Resources"]
    named = node["NodeName"] != node["NodeManagerAddress"]  # Ray's name for a node that was given none
    return Machine(
        id=node["NodeID"],
        name=node["NodeName"] if named else node["NodeManagerHostname"],
        gpus=has.get("GPU", 0.0),
        cpus=has.get("CPU", 0.0),
        free_gpus=free.get("GPU", 0.0),
        free_cpus=free.get("CPU", 0.0),
        leaving=node["NodeID"] in leaving,
        address=node["NodeManagerAddress"],
    )


def actor_names() -> list[tuple[str, str]]:
    """Return (namespace, name) of every named actor in the cluster."""
    actors: list[Any] = list_named_actors(all_namespaces=True)
    return [(actor["namespace"], actor["name"]) for actor in actors]
