"""The one local Ray of this user on this machine: started, found again, ended.

All homes of a user share it, so that two of them cannot book one GPU twice. It is a child process
`ray start --head --block` in a session of its own; which process that is stands in a record file
(pid, start time, address), so that an unrelated Ray is neither joined nor ended: `ray stop` would end
every Ray on the machine, and a bare `ray.init()` joins whichever it finds. Does not import ray.
"""

from __future__ import annotations

import contextlib
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from capsnet.locks import locked
from runner.private import private_folder

START_SECONDS = 90.0
STOP_SECONDS = 10.0
ANSWER_SECONDS = 3.0


class LocalRayError(Exception):
    """The local Ray did not start; one line."""


@dataclass(frozen=True)
class LocalRay:
    pid: int
    started: str  # when the process was: a pid alone may be somebody else's by now
    token: str
    temp: str  # Ray's own folder; short, for its sockets allow 107 characters
    python: str  # the interpreter that started it; another one's Ray may not fit
    address: str = ""  # none yet while it starts

    @property
    def alive(self) -> bool:
        return self.started == _start_mark(self.pid)

    @property
    def answers(self) -> bool:
        """Whether anybody listens at its address: the network may have changed under it."""
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
        except OSError:
            return False
        return True


def folder() -> Path:
    """Where the record lies: `RUNNER_RAY_DIR`, or a private folder in the temporary directory."""
    named = os.environ.get("RUNNER_RAY_DIR")
    try:
        return private_folder(Path(named) if named else None)
    except PermissionError as error:
        raise LocalRayError(f"{error}; set RUNNER_RAY_DIR to a folder of your own") from error


def find() -> LocalRay | None:
    """Return the local Ray that is up, or None."""
    ray = recorded()
    return ray if ray and ray.address and ray.alive else None


def ensure() -> LocalRay:
    """Return the local Ray, started if none runs; two callers at one instant get the same.

    Raises:
        LocalRayError: it did not come up within `START_SECONDS`.
    """
    with _locked():
        ray = recorded()
        if ray is None or not ray.alive:
            _clean_up(ray)
            ray = _launched()
        return ray if ray.address else _awaited(ray)  # one whose starter was killed is waited for, too


def stop(ray: LocalRay) -> None:
    """End exactly this Ray, with every process that it started; one that has ended is let rest."""
    with _locked():
        if ray.alive:
            head = psutil.Process(ray.pid)
            processes = [head, *head.children(recursive=True)]
            head.terminate()
            _, left = psutil.wait_procs(processes, timeout=STOP_SECONDS)
            for process in left:
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
        "RAY_worker_niceness": "0",  # at its 15 the publisher would take time from training
    }


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    with locked(folder() / "lock", "RUNNER_RAY_DIR"):
        yield


def _record() -> Path:
    return folder() / "ray.json"


def recorded() -> LocalRay | None:
    """Return the Ray on record, whether it starts, runs or has ended."""
    try:
        return LocalRay(**json.loads(_record().read_text()))
    except (FileNotFoundError, ValueError, TypeError):  # none, or half of one from a machine that went down
        return None


def _write_record(ray: LocalRay) -> None:
    part = _record().with_suffix(".part")
    part.touch(mode=0o600)
    part.write_text(json.dumps(asdict(ray)))
    part.replace(_record())


def _clean_up(ray: LocalRay | None) -> None:
    """Forget a Ray that has ended, but not one that has taken its place, and end what it may have left."""
    if ray is None:
        return
    _end_orphans(ray)
    shutil.rmtree(ray.temp, ignore_errors=True)
    if recorded() == ray:
        _record().unlink()


def _end_orphans(ray: LocalRay) -> None:
    """End the processes of a Ray whose head was killed; each names the folder on its command line."""
    for process in psutil.process_iter(["cmdline", "uids"]):
        mine = process.info["uids"] and process.info["uids"].real == os.getuid()
        if mine and any(ray.temp in word for word in process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _launched() -> LocalRay:
    """Start Ray, and put down which process it is before anything can interrupt this one."""
    temp = tempfile.mkdtemp(prefix="cr-", dir="/tmp")
    token = secrets.token_hex(32)
    with _log().open("w") as output:
        process = subprocess.Popen(
            _command(temp),
            env=environment(token, _without_settings(os.environ)),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    ray = LocalRay(process.pid, _start_mark(process.pid) or "", token, temp, sys.executable)
    _write_record(ray)
    return ray


def _awaited(ray: LocalRay) -> LocalRay:
    """Wait until it is up, and put down its address."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and ray.alive:
        if address := _announced(ray):
            _write_record(up := replace(ray, address=address))
            return up
        time.sleep(0.05)
    _clean_up(ray)
    raise LocalRayError(f"Ray did not start; its output is in {_log()}")


def _announced(ray: LocalRay) -> str:
    """The address that Ray writes down last of all, some time after its log says that it has started."""
    try:
        return (Path(ray.temp) / "ray_current_cluster").read_text().strip()
    except FileNotFoundError:
        return ""


def _start_mark(pid: int) -> str | None:
    """When a living process was started; unlike unix seconds it does not move when the clock is set."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"
    except FileNotFoundError:
        pass
    try:  # no such process, or a system without /proc
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.NoSuchProcess:
        return None


def _log() -> Path:
    return folder() / "ray.log"


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


def _without_settings(variables: Mapping[str, str]) -> dict[str, str]:
    """Drop what must not reach all homes: settings of an unrelated Ray, and one home's tracking server."""
    return {key: value for key, value in variables.items() if not key.startswith(("RAY_", "MLFLOW_"))}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
