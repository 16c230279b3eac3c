"""What stays up: Ray, the scheduler, the publisher. Started, found, ended; imports no ray.

Whatever needs Ray runs in a child process (`runner.launch`) started from a neutral directory: a Ray
worker's sys.path begins with the directory of the process that connected, so that a scheduler started
from a checkout would import whatever is edited there.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections import Counter
from typing import Any

from runner import local_ray
from runner.local_ray import LocalRay, LocalRayError
from runner.paths import Home
from runner.rows import Beat
from runner.states import State
from runner.store import Store

ALIVE_SECONDS = 10.0  # a beat younger than this comes from a scheduler that lives; it beats every second
NO_CLUSTER = 3  # exit status of runner.launch
START_OR_END = {"up": "start", "down": "end"}
LAUNCH_SECONDS = 60.0
DOWN_SECONDS = 60.0  # the workers' grace and some
PUBLISH_SECONDS = 20.0  # which `down` gives the publisher


class ServiceError(Exception):
    """The service cannot be started or stopped; one line."""


class NoAnswer(ServiceError):  # noqa: N818 - the name says what happened
    """No cluster answers at its address."""


def is_alive(store: Store, now: float) -> bool:
    """Whether a scheduler serves this queue; costs a read of one row and a look at one process."""
    beat = store.scheduler_beat()
    if beat is None or now - beat.at > ALIVE_SECONDS:
        return False
    return bool(os.environ.get("RAY_ADDRESS")) or local_ray.find() is not None


def ensure(home: Home, store: Store) -> None:
    """Start local Ray and the scheduler where they do not run; a wish to go down is withdrawn.

    Raises:
        ServiceError: one of them did not start.
    """
    store.clear_down()
    if is_alive(store, time.time()):
        return
    ray = _ray()
    try:
        _launch("up", home, ray)
    except NoAnswer:
        if ray is None:
            raise
        local_ray.stop(ray)  # its process lives, but the network under it may have changed
        _launch("up", home, _ray())


def shut_down(home: Home, store: Store, force: bool = False) -> None:
    """Save what runs and queue it again, end the scheduler, and Ray where no other home uses it.

    Raises:
        ServiceError: the scheduler did not answer; nothing was ended.
    """
    ray = local_ray.find()
    if ray is None and not os.environ.get("RAY_ADDRESS"):
        return
    if is_alive(store, time.time()):
        store.ask_down(time.time(), force)
        _await_rest(store)
        if not force:
            _await_published(store)
    others = _launch("down", home, ray)
    if ray is not None and others == "0":
        local_ray.stop(ray)
    store.clear_down()


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
        "tracking": os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home.mlflow_database}",
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
    cluster = f"local Ray of {platform.node()}" if ray else address
    environment = local_ray.environment(ray.token, os.environ) if ray else dict(os.environ)
    command = [sys.executable, "-P", "-m", "runner.launch", action, address, cluster, str(home.root)]
    try:
        child = subprocess.run(
            command, cwd="/", env=environment, capture_output=True, text=True, timeout=LAUNCH_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(f"the cluster at {address} did not answer for {LAUNCH_SECONDS:g} s") from error
    said = child.stdout.strip().splitlines() or [""]
    if child.returncode == NO_CLUSTER:
        raise NoAnswer(_last_line(child.stderr))
    if child.returncode:
        raise ServiceError(f"the scheduler did not {START_OR_END[action]}: {_last_line(child.stderr)}")
    return said[-1]


def _last_line(text: str) -> str:
    return (text.strip() or "no output").splitlines()[-1]
