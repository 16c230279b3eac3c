"""What stays up: Ray, the scheduler, the publisher. Started, found, ended; imports no ray.

Whatever needs Ray runs in a child process (`runner.launch`) started from a neutral directory: a Ray
worker's sys.path begins with the directory of the process that connected, so that a scheduler started
from a checkout would import whatever is edited there.
"""

from __future__ import annotations

import fcntl
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runner import local_ray
from runner.local_ray import LocalRay, LocalRayError
from runner.paths import Home
from runner.rows import Beat
from runner.states import State
from runner.store import Store

ALIVE_SECONDS = 10.0  # a beat younger than this comes from a scheduler that lives; it beats every second
START_OR_END = {"up": "start", "down": "end"}
LAUNCH_SECONDS = 60.0
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
    if is_alive(store, time.time()) and store.down_requested() is None:
        return
    with _one_at_a_time(home):
        store.clear_down()  # perhaps left by a `down` that was killed
        if not is_alive(store, time.time()):
            _start(home)


def shut_down(home: Home, store: Store, force: bool = False) -> None:
    """Save what runs and queue it again, end the scheduler, and Ray where no other home uses it.

    Raises:
        ServiceError: the scheduler did not do so; it goes on as before.
    """
    with _one_at_a_time(home):
        ray = None if os.environ.get("RAY_ADDRESS") else local_ray.find()
        if ray is None and not os.environ.get("RAY_ADDRESS"):
            return
        beat = store.scheduler_beat()
        try:
            if is_alive(store, time.time()):
                store.ask_down(time.time(), force)
                _await_rest(store)
                if not force:
                    _await_published(store)
            others = _launch("down", home, ray)
            if beat is not None:
                store.leave(beat.epoch)
        finally:
            store.clear_down()
        if ray is not None and others == "0":
            local_ray.stop(ray)


@contextmanager
def _one_at_a_time(home: Home) -> Iterator[None]:
    """Held while the service of a home is started or ended."""
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


def _own_cluster() -> str:
    """The name of the cluster that a local Ray is; of two records only one can name a Ray at a time."""
    return f"local Ray of {platform.node()}, kept in {local_ray.folder()}"


def status(home: Home, store: Store) -> dict[str, Any]:
    """Return what is up, as plain values."""
    now = time.time()
    beat, ray = store.scheduler_beat(), local_ray.find()
    counts = Counter(run.state for run in store.runs())
    return {
        "home": str(home.root),
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
        "message": beat.message,
    }


def _ray() -> LocalRay | None:
    """Return the local Ray, started where none runs; None where RAY_ADDRESS names a cluster."""
    if os.environ.get("RAY_ADDRESS"):
        return None
    try:
        return local_ray.ensure()
    except LocalRayError as error:
        raise ServiceError(str(error)) from error


def _await_rest(store: Store) -> None:
    """Wait until nothing runs any more."""
    deadline = time.monotonic() + DOWN_SECONDS
    while store.runs([State.RUNNING]):
        if time.monotonic() > deadline or not is_alive(store, time.time()):
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
    address = ray.address if ray else os.environ["RAY_ADDRESS"]
    cluster = _own_cluster() if ray else address
    environment = local_ray.environment(ray.token, os.environ) if ray else dict(os.environ)
    command = [sys.executable, "-P", "-m", "runner.launch", action, address, cluster, str(home.root)]
    try:
        child = subprocess.run(
            command, cwd="/", env=environment, capture_output=True, text=True, timeout=LAUNCH_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"the Ray at {address} did not answer for {LAUNCH_SECONDS:g} s") from error
    if child.returncode:
        whose = f" (that Ray was started with {ray.python})" if ray and ray.python != sys.executable else ""
        raise ServiceError(f"the scheduler did not {START_OR_END[action]}: {_last_line(child.stderr)}{whose}")
    return child.stdout.strip()


def _last_line(text: str) -> str:
    return (text.strip() or "no output").splitlines()[-1]
