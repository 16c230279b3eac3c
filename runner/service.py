"""Starting, finding and ending what stays up: Ray, the scheduler, the publisher; imports no ray.

Whatever needs Ray runs in a child process (`runner.launch`) started from a neutral directory: a Ray
worker's sys.path begins with the directory of the process that connected.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from capsnet.locks import locked
from runner import local_ray, settings, source
from runner.local_ray import LocalRay, LocalRayError, Tell, untold
from runner.paths import Home
from runner.rows import Beat
from runner.states import State
from runner.store import Store, Superseded
from runner.wording import runs_named

ALIVE_SECONDS = 10.0  # a beat younger than this comes from a scheduler that lives; it beats every second
FAILURE = {"up": "the scheduler did not start: ", "down": "the scheduler did not end: ", "name": ""}
HOST_AND_PORT = re.compile(r"[\w.-]+:\d+|\[[0-9a-fA-F:.]+\]:\d+")
JOINING = {  # seconds for which Ray tries a token that is refused, and looks for itself on this host
    "RAY_NUM_REDIS_GET_RETRIES": "3",
    "RAY_gcs_server_request_timeout_seconds": "15",
}
LAUNCH_SECONDS = {  # for which a cluster is waited for
    "up": 180.0,  # to follow one that fell silent, and to start on a busy machine
    "down": 60.0,
    "name": 60.0,
}
FORCE_SECONDS = 30.0  # for which `down --force` waits for the local Ray, which it ends then
LOOK_SECONDS = 0.5  # between two looks whether the Ray that a child talks to is there
DOWN_SECONDS = 60.0  # the workers' grace and some
PUBLISH_SECONDS = 20.0  # which `down` gives the publisher


class ServiceError(Exception):
    """The service cannot be started or stopped; one line."""


def is_alive(store: Store, now: float) -> bool:
    """Return whether a scheduler serves this queue; costs a read of one row and a look at one process."""
    beat = store.scheduler_beat()
    return beat is not None and is_beating(beat.at, beat.cluster, now)


def is_beating(at: float | None, cluster: str, now: float) -> bool:
    """Return whether a cluster's scheduler lives, by the time of its last beat; None: it has none."""
    if at is None or now - at > ALIVE_SECONDS:
        return False
    if cluster != own_cluster():  # of which its beat is all that there is to see
        return True
    ray = local_ray.find()  # perhaps one that has taken the place of the scheduler's
    return ray is not None and now - at < ray.up_seconds


def ensure(home: Home, store: Store, tell: Tell = untold) -> None:
    """Start local Ray and the scheduler where they do not run; waits for a `down` that is under way.

    `tell` is called with each stage as it begins, here and below.

    Raises:
        ServiceError: one of them did not start.
    """
    if is_alive(store, store.now()) and store.down_requested() is None:
        return
    with _one_at_a_time(home, tell):
        store.clear_down()  # perhaps left by a `down` that was killed
        if not is_alive(store, store.now()):
            _start(home, tell)


def bring_up(home: Home, store: Store, tell: Tell = untold) -> None:
    """Start both in this host's own cluster: to `ensure`, a scheduler in any other is enough.

    Raises:
        ServiceError: one of them did not start, or another cluster serves this queue.
    """
    if not os.environ.get("RAY_ADDRESS") and _is_served_by(store, own_cluster()):
        ensure(home, store, tell)
        return
    with _one_at_a_time(home, tell):
        store.clear_down()
        _start(home, tell)


def shut_down(home: Home, store: Store, force: bool = False, tell: Tell = untold) -> None:
    """Save what runs and queue it again, end the scheduler, and Ray where no other home uses it.

    What is left of a local Ray without a node is ended, whatever uses it; with `force` also one that does
    not answer.

    Raises:
        ServiceError: the scheduler did not do so and goes on as before, or another cluster serves this queue.
    """
    address = _address()
    if address is None:
        local_ray.clear_away(tell)
        if local_ray.find() is None and not is_alive(store, store.now()):
            return
    _expect_ours(home, store)  # before anything is made here: this may be a host that sees no home
    with _one_at_a_time(home, tell):
        ray = None if address else local_ray.find()
        try:
            others = _release(home, store, ray, force, tell)
        except ServiceError:
            if ray is None or (ray.serves and not force):
                raise
            others = "0"  # it has ended meanwhile, or is ended with all that is on it
        finally:
            store.clear_down()
        if ray is not None and others == "0":
            tell("ending Ray")
            local_ray.stop(ray)


def _release(home: Home, store: Store, ray: LocalRay | None, force: bool, tell: Tell) -> str | None:
    """End what this queue has on Ray once it has saved; return how many actors other queues have there."""
    if is_alive(store, store.now()):
        if running := [run.id for run in store.runs([State.RUNNING])]:
            tell(f"{'killing' if force else 'saving and stopping'} {runs_named(running)}")
        store.ask_down(store.now(), force)
        try:
            _await_rest(store)
        except ServiceError:
            if not force:
                raise  # otherwise what still runs ends with the Ray that does not answer
        if not force:
            _await_published(store, tell)
    beat = store.scheduler_beat()  # now: Ray may have started the scheduler anew meanwhile
    others = None
    if _address() or ray:
        tell("ending the scheduler")
        others = _ended(home, ray, force)
    if beat is not None:
        with suppress(Superseded):  # once more; its last beat is soon too old to count
            store.leave(beat.epoch)
    return others


def _ended(home: Home, ray: LocalRay | None, force: bool) -> str:
    """End the scheduler and the publisher; return how many actors other queues have there."""
    try:
        return _launch("down", home, ray, FORCE_SECONDS if force and ray else LAUNCH_SECONDS["down"])
    except ServiceError as error:
        if ray is None:
            raise
        raise ServiceError(
            f"{error}; `runner down --force` ends this Ray with all that runs on it, for other homes too"
        ) from error


def _expect_ours(home: Home, store: Store) -> None:
    """Raise ServiceError where the scheduler of another cluster serves this queue."""
    if not is_alive(store, store.now()):
        return
    ours = _launch("name", home, None) if _address() else own_cluster()
    if not _is_served_by(store, ours) and (beat := store.scheduler_beat()):
        raise ServiceError(
            f"this queue is served by {beat.cluster} (host {beat.host}): run `down` on a host of it, with "
            "RAY_ADDRESS where it needs one"
        )


def _is_served_by(store: Store, cluster: str) -> bool:
    beat = store.scheduler_beat()
    return beat is not None and beat.cluster == cluster and is_alive(store, store.now())


def is_served_elsewhere(store: Store) -> bool:
    """Return whether a scheduler of another cluster than this host's own serves the queue."""
    beat = store.scheduler_beat()
    return beat is not None and beat.cluster != own_cluster() and is_alive(store, store.now())


@contextmanager
def _one_at_a_time(home: Home, tell: Tell) -> Iterator[None]:
    """Held while the service of a home is started or ended."""
    home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    another = "waiting for another command that starts or stops this home's service"
    with locked(home.service_lock, "RUNNER_HOME", lambda: tell(another)):
        yield


def _start(home: Home, tell: Tell) -> None:
    ray = _ray(tell)
    tell("starting the scheduler" if ray else f"starting the scheduler on the cluster at {_address()}")
    try:
        _launch("up", home, ray)
    except ServiceError:
        if ray is None or (ray.serves and ray.answers):
            raise
        tell("Ray has lost its node or its network: ending it")
        local_ray.stop(ray)
        ray = _ray(tell)
        tell("starting the scheduler")
        _launch("up", home, ray)


def _address() -> str | None:
    """Return the cluster that RAY_ADDRESS names; None where there is to be a local Ray.

    Raises:
        ServiceError: it names something else.
    """
    address = os.environ.get("RAY_ADDRESS") or None
    if address is None or address == "auto" or HOST_AND_PORT.fullmatch(address):
        return address
    raise ServiceError(
        f"RAY_ADDRESS={address}: name the cluster's head as HOST:PORT, or `auto`, and run this on a host "
        "that belongs to the cluster"
    )


def own_cluster() -> str:
    """The name of the cluster that a local Ray is; of two records only one can name a Ray at a time."""
    return f"local Ray of {platform.node()}, kept in {local_ray.folder()}"


def status(home: Home, store: Store) -> dict[str, Any]:
    """Return what is up, as plain values."""
    now = store.now()
    beat, ray = store.scheduler_beat(), local_ray.recorded()
    counts = store.counts()
    return {
        "home": str(home.root),
        "storage": home.storage,
        "queue": store.queue_id,
        "scheduler": _scheduler(beat, is_alive(store, now), now),
        "ray": {
            "address": os.environ.get("RAY_ADDRESS") or (ray.address if ray and ray.serves else None),
            "local": not os.environ.get("RAY_ADDRESS"),
            "pid": ray.pid if ray and ray.alive else None,
            "state": _state(ray),
        },
        "gpus": beat.gpus if beat else None,
        "cpus": beat.cores if beat else None,
        "tracking": beat.tracking if beat else None,
        "publish_errors": store.publish_errors(),
        "runs": {state.value: counts[state] for state in State},
    }


def _state(ray: LocalRay | None) -> str:
    """In which state the local Ray is."""
    if ray is None or not ray.alive:
        return "down"
    if not ray.address:
        return "starting"
    return "up" if ray.serves else "without a node"


def _scheduler(beat: Beat | None, alive: bool, now: float) -> dict[str, Any]:
    if beat is None:
        return {"alive": False}
    return {
        "alive": alive,
        "beat_age_seconds": round(now - beat.at, 1),
        "epoch": beat.epoch,
        "pid": beat.pid,
        "host": beat.host,
        "version": beat.version,
        "code": beat.code,
        "message": beat.message,
    }


def _ray(tell: Tell) -> LocalRay | None:
    """Return the local Ray, started where none runs; None where RAY_ADDRESS names a cluster."""
    if _address():
        return None
    try:
        return local_ray.ensure(tell)
    except LocalRayError as error:
        raise ServiceError(str(error)) from error


def _await_rest(store: Store) -> None:
    """Wait until no run runs any more."""
    deadline = time.monotonic() + DOWN_SECONDS
    while store.runs([State.RUNNING]):
        if time.monotonic() > deadline or not is_alive(store, store.now()):
            raise ServiceError("the scheduler did not release its runs: `runner down --force` kills them")
        time.sleep(0.1)


def _await_published(store: Store, tell: Tell) -> None:
    """Give the publisher time for what is new, unless tracking is away: the next `up` goes on with it."""
    deadline = time.monotonic() + PUBLISH_SECONDS
    if behind := store.unpublished():
        tell(f"publishing {runs_named([run.id for run in behind])} to MLflow, {PUBLISH_SECONDS:g} s at most")
    while (behind := store.unpublished()) and time.monotonic() < deadline:
        if all(run.publish_error for run in behind):
            return
        time.sleep(0.1)


def _launch(action: str, home: Home, ray: LocalRay | None, seconds: float | None = None) -> str:
    """Run `runner.launch` in a process of its own, for so many seconds at most, and return its last line."""
    address = ray.address if ray else _address()
    assert address, "without a local Ray there is an address"
    cluster = own_cluster() if ray else ""
    environment = local_ray.environment(ray.token, os.environ) if ray else {**os.environ, **JOINING}
    environment |= settings.mlflow_paths(environment)  # from here on in another directory
    environment["RUNNER_DATABASE_URL"] = home.database_url or ""
    environment["RUNNER_STORAGE"] = home.storage or ""
    environment |= _same_code(environment)
    command = [sys.executable, "-P", "-m", "runner.launch", action, address, cluster, str(home.root)]
    child = subprocess.Popen(
        command, cwd="/", env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out, err = _outlasted(child, ray, address, seconds or LAUNCH_SECONDS[action])
    if child.returncode:
        whose = f" (that Ray was started with {ray.python})" if ray and ray.python != sys.executable else ""
        raise ServiceError(f"{FAILURE[action]}{_last_line(err)}{whose}")
    return out.strip()


def _outlasted(
    child: subprocess.Popen[str], ray: LocalRay | None, address: str, seconds: float
) -> tuple[str, str]:
    """Wait for a child to end, and return its stdout and stderr.

    Raises ServiceError, and kills the child, where the Ray that it talks to ends first or `seconds` are over.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return child.communicate(timeout=LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        trouble = None
        if ray is not None and not ray.serves:
            trouble = f"the Ray at {address} has lost its node"
        elif time.monotonic() > deadline:
            trouble = f"the Ray at {address} did not answer for {seconds:g} s"
        if trouble is not None:
            child.kill()
            child.communicate()
            raise ServiceError(trouble)


def _same_code(environment: Mapping[str, str]) -> dict[str, str]:
    """Let a process that starts elsewhere import the packages that this one has: the scheduler brings them.

    Installed ones it finds by itself; what is installed beside them, named first, could hide Python's own.
    """
    place = source.folder("runner").parent
    if place == Path(sysconfig.get_path("purelib")):
        return {}
    return {"PYTHONPATH": source.python_path(place, environment)}


def _last_line(text: str) -> str:
    return (text.strip() or "no output").splitlines()[-1]
