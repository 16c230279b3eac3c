"""The one local Ray of this user on this machine: started, found again, ended.

All homes of a user share it, so that two of them cannot book one GPU twice. It is a child process
`ray start --head --block` in a session of its own; which process that is stands in a record file
(pid, start time, address), so that an unrelated Ray is neither joined nor ended: `ray stop` would end
every Ray on the machine, and a bare `ray.init()` joins whichever it finds. Does not import ray.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

START_SECONDS = 90.0
STOP_SECONDS = 10.0


class LocalRayError(Exception):
    """The local Ray did not start; one line."""


@dataclass(frozen=True)
class LocalRay:
    pid: int
    started: float  # of the process, unix seconds: a pid alone may be somebody else's by now
    address: str
    token: str
    temp: str  # Ray's own folder; short, for its sockets allow 107 characters

    @property
    def alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def folder() -> Path:
    """Where the record lies: `RUNNER_RAY_DIR`, or a private folder in the temporary directory."""
    default = Path(tempfile.gettempdir()) / f"capsnet-runner-{getpass.getuser()}"
    path = Path(os.environ.get("RUNNER_RAY_DIR") or default)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.getuid():
        raise LocalRayError(f"{path}: belongs to another user; set RUNNER_RAY_DIR to a folder of your own")
    if found.st_mode & 0o077:
        path.chmod(0o700)
    return path


def find() -> LocalRay | None:
    """Return the local Ray that runs, or None."""
    ray = _recorded()
    return ray if ray and ray.alive else None


def ensure() -> LocalRay:
    """Return the local Ray, started if none runs; two callers at one instant get the same.

    Raises:
        LocalRayError: it did not come up within `START_SECONDS`.
    """
    with _locked():
        if ray := find():
            return ray
        _clean_up(_recorded())
        return _start()


def stop(ray: LocalRay) -> None:
    """End exactly this Ray, with every process that it started."""
    with _locked():
        try:
            processes = [psutil.Process(ray.pid), *psutil.Process(ray.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            processes = []
        if processes and ray.alive:
            processes[0].terminate()
            psutil.wait_procs(processes, timeout=STOP_SECONDS)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()  # psutil compares start times: a pid that was reused is not touched
        _clean_up(ray)


def environment(token: str, base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for everything that talks to the local Ray.

    Ray's ports listen on every interface, hence the token. Without the drain timeout SIGTERM takes
    30 s. Without the override an actor that holds no GPU would see all of them.
    """
    return {
        **base,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    with (folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _record() -> Path:
    return folder() / "ray.json"


def _recorded() -> LocalRay | None:
    try:
        return LocalRay(**json.loads(_record().read_text()))
    except (FileNotFoundError, ValueError, TypeError):  # none, or half of one from a machine that went down
        return None


def _clean_up(ray: LocalRay | None) -> None:
    """Forget a Ray that has ended, and end what it may have left behind."""
    if ray:
        _end_orphans(ray)
        shutil.rmtree(ray.temp, ignore_errors=True)
    _record().unlink(missing_ok=True)


def _end_orphans(ray: LocalRay) -> None:
    """End the processes of a Ray whose head was killed; each names the folder on its command line."""
    for process in psutil.process_iter(["cmdline", "uids"]):
        mine = process.info["uids"] and process.info["uids"].real == os.getuid()
        if mine and any(ray.temp in word for word in process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _start() -> LocalRay:
    temp = tempfile.mkdtemp(prefix="cr-", dir="/tmp")
    token = secrets.token_hex(32)
    log = folder() / "ray.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            _command(temp),
            env=environment(token, _without_ray(os.environ)),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = _await_address(process, log, Path(temp))
    ray = LocalRay(process.pid, psutil.Process(process.pid).create_time(), address, token, temp)
    part = _record().with_suffix(".part")
    part.touch(mode=0o600)
    part.write_text(json.dumps(asdict(ray)))
    part.replace(_record())
    return ray


def _command(temp: str) -> list[str]:
    gpus = os.environ.get("RUNNER_GPUS")
    return [
        *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0"),
        *("--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={temp}"),
        # Its default, 10001, is bound with SO_REUSEPORT: an unrelated Ray's clients would reach ours.
        f"--ray-client-server-port={_free_port()}",
        "--dashboard-agent-listen-port=0",
        *([f"--num-gpus={gpus}"] if gpus else []),
    ]


def _without_ray(variables: Mapping[str, str]) -> dict[str, str]:
    """Drop Ray's own settings: those of an unrelated Ray must not reach ours."""
    return {key: value for key, value in variables.items() if not key.startswith("RAY_")}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def _await_address(process: subprocess.Popen[bytes], log: Path, temp: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if "Ray runtime started" in log.read_text(errors="replace"):
            return (temp / "ray_current_cluster").read_text().strip()
        time.sleep(0.05)
    process.kill()
    raise LocalRayError(f"Ray did not start; its output is in {log}")
