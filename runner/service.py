"""What stays up: Ray, the scheduler, the publisher. Started, found, ended; imports no ray.

Whatever needs Ray runs in a child process (`runner.launch`) started from a neutral directory: a Ray
worker's sys.path begins with the directory of the process that connected.
"""

from __future__ import annotations

import fcntl
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

from runner import local_ray, settings, source
from runner.local_ray import LocalRay, LocalRayError
from runner.paths import Home
from runner.rows import Beat
from runner.states import State
from runner.store import Store, Superseded

ALIVE_SECONDS = 10.0  # a beat younger than this comes from a scheduler that lives; it beats every second
FAILURE = {"up": "the scheduler did not start: ", "down": "the scheduler did not end: ", "name": ""}
HOST_AND_PORT = re.compile(r"[\w.-]+:\d+|\[[0-9a-fA-F:.]+\]:\d+")
JOINING = {  # seconds for which Ray tries a token that is refused, and looks for itself on this host
    "RAY_NUM_REDIS_GET_RETRIES": "3",
    "RAY_gcs_server_request_timeout_seconds": "15",
}
LAUNCH_SECONDS = 90.0  # to follow a cluster that fell silent, and to start
DOWN_SECONDS = 60.0  # the workers' grace and some
PUBLISH_SECONDS = 20.0  # which `down` gives the publisher


class ServiceError(Exception):
    """The service cannot be started or stopped; one line."""


def is_alive(store: Store, now: float) -> bool:
    """Whether a scheduler serves this queue; costs a read of one row and a look at one process."""
    beat = store.scheduler_beat()
    if beat is None or now - beat.at > ALIVE_SECONDS:
        return False
    # Of our own Ray we know at once that it is gone; of another cluster its beat is all that there is to see.
    return beat.cluster != _own_cluster() or local_ray.find() is not None


def ensure(home: Home, store: Store) -> None:
    """Start local Ray and the scheduler where they do not run; waits for a `down` that is under way.

    Raises:
        ServiceError: one of them did not start.
    """
    if is_alive(store, store.now()) and store.down_requested() is None:
        return
    with _one_at_a_time(home):
        store.clear_down()  # perhaps left by a `down` that was killed
        if not is_alive(store, store.now()):
            _start(home)


def bring_up(home: Home, store: Store) -> None:
    """Do so in this host's own cluster: `ensure` is content with a scheduler in any other.

    Raises:
        ServiceError: one of them did not start, or another cluster serves this queue.
    """
    if not os.environ.get("RAY_ADDRESS") and _is_served_by(store, _own_cluster()):
        ensure(home, store)
        return
    with _one_at_a_time(home):
        store.clear_down()
        _start(home)


def shut_down(home: Home, store: Store, force: bool = False) -> None:
    """Save what runs and queue it again, end the scheduler, and Ray where no other home uses it.

    Raises:
        ServiceError: the scheduler did not do so and goes on as before, or another cluster serves this queue.
    """
    address = _address()
    if address is None and local_ray.find() is None and not is_alive(store, store.now()):
        return
    _expect_ours(home, store)  # before anything is made here: this may be a host that sees no home
    with _one_at_a_time(home):
        ray = None if address else local_ray.find()
        try:
            if is_alive(store, store.now()):
                store.ask_down(store.now(), force)
                _await_rest(store)
                if not force:
                    _await_published(store)
            beat = store.scheduler_beat()  # now: Ray may have started the scheduler anew meanwhile
            others = _launch("down", home, ray) if address or ray else None
            if beat is not None:
                with suppress(Superseded):  # once more; its last beat is soon too old to count
                    store.leave(beat.epoch)
        finally:
            store.clear_down()
        if ray is not None and others == "0":
            local_ray.stop(ray)


def _expect_ours(home: Home, store: Store) -> None:
    """Raise ServiceError where the scheduler of another cluster serves this queue."""
    if not is_alive(store, store.now()):
        return
    ours = _launch("name", home, None) if _address() else _own_cluster()
    if not _is_served_by(store, ours) and (beat := store.scheduler_beat()):
        raise ServiceError(
            f"this queue is served by {beat.cluster} (host {beat.host}): run `down` on a host of it, with "
            "RAY_ADDRESS where it needs one"
        )


def _is_served_by(store: Store, cluster: str) -> bool:
    beat = store.scheduler_beat()
    return beat is not None and beat.cluster == cluster and is_alive(store, store.now())


@contextmanager
def _one_at_a_time(home: Home) -> Iterator[None]:
    """Held while the service of a home is started or ended."""
    home.root.mkdir(parents=True, exist_ok=True)
    with home.service_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _start(home: Home) -> None:
    ray = _ray()
    try:
        _launch("up", home, ray)
    except ServiceError:
        if ray is None or ray.answers:
            raise
        local_ray.stop(ray)  # its process lives, but the network under it has changed
        _launch("up", home, _ray())


def _address() -> str | None:
    """The cluster that RAY_ADDRESS names; None where there is to be a local Ray.

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


def _own_cluster() -> str:
    """The name of the cluster that a local Ray is; of two records only one can name a Ray at a time."""
    return f"local Ray of {platform.node()}, kept in {local_ray.folder()}"


def status(home: Home, store: Store) -> dict[str, Any]:
    """Return what is up, as plain values."""
    now = store.now()
    beat, ray = store.scheduler_beat(), local_ray.find()
    counts = store.counts()
    return {
        "home": str(home.root),
        "storage": home.storage,
        "queue": store.queue_id,
        "scheduler": _scheduler(beat, is_alive(store, now), now),
        "ray": {
            "address": os.environ.get("RAY_ADDRESS") or (ray.address if ray else None),
            "local": not os.environ.get("RAY_ADDRESS"),
            "pid": ray.pid if ray else None,
        },
        "gpus": beat.gpus if beat else None,
        "cpus": beat.cores if beat else None,
        "tracking": beat.tracking if beat else None,
        "publish_errors": store.publish_errors(),
        "runs": {state.value: counts[state] for state in State},
    }


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


def _ray() -> LocalRay | None:
    """Return the local Ray, started where none runs; None where RAY_ADDRESS names a cluster."""
    if _address():
        return None
    try:
        return local_ray.ensure()
    except LocalRayError as error:
        raise ServiceError(str(error)) from error


def _await_rest(store: Store) -> None:
    """Wait until nothing runs any more."""
    deadline = time.monotonic() + DOWN_SECONDS
    while store.runs([State.RUNNING]):
        if time.monotonic() > deadline or not is_alive(store, store.now()):
            raise ServiceError("the scheduler did not release its runs: `runner down --force` kills them")
        time.sleep(0.1)


def _await_published(store: Store) -> None:
    """Give the publisher time for what is new, unless tracking is away: the next `up` goes on with it."""
    deadline = time.monotonic() + PUBLISH_SECONDS
    while (behind := store.unpublished()) and time.monotonic() < deadline:
        if all(run.publish_error for run in behind):
            return
        time.sleep(0.1)


def _launch(action: str, home: Home, ray: LocalRay | None) -> str:
    """Run `runner.launch` in a process of its own and return its last line."""
    address = ray.address if ray else _address()
    assert address, "without a local Ray there is an address"
    cluster = _own_cluster() if ray else ""
    environment = local_ray.environment(ray.token, os.environ) if ray else {**os.environ, **JOINING}
    environment |= settings.mlflow_paths(environment)  # from here on in another directory
    environment["RUNNER_DATABASE_URL"] = home.database_url or ""
    environment["RUNNER_STORAGE"] = home.storage or ""
    environment |= _same_code(environment)
    command = [sys.executable, "-P", "-m", "runner.launch", action, address, cluster, str(home.root)]
    try:
        child = subprocess.run(
            command, cwd="/", env=environment, capture_output=True, text=True, timeout=LAUNCH_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"the Ray at {address} did not answer for {LAUNCH_SECONDS:g} s") from error
    if child.returncode:
        whose = f" (that Ray was started with {ray.python})" if ray and ray.python != sys.executable else ""
        raise ServiceError(f"{FAILURE[action]}{_last_line(child.stderr)}{whose}")
    return child.stdout.strip()


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
