"""The one local Ray of this user on this machine: started, found again, ended.

All homes of a user share it, so that two of them cannot book one GPU twice. It is a child process
`ray start --head --block` in a session of its own; which process that is stands in a record file
(pid, start time, address), so that an unrelated Ray is neither joined nor ended: `ray stop` would end
every Ray on the machine, and a bare `ray.init()` joins whichever it finds. Does not import ray.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from capsnet.cpus import available_cpus
from capsnet.locks import locked
from runner.private import VARIABLE, named_folder, runner_folder
from runner.protocol import known
from runner.ray_environment import chosen

START_SECONDS = 300.0  # for which one command waits for a Ray that starts
STOP_SECONDS = 10.0
ANSWER_SECONDS = 3.0
LAST_RESORT = Path("/tmp")  # for Ray's folder, where the temporary directory has too long a path
OWN = "r"  # the folder that Ray gets within the private one, and opens to everybody
# What Ray adds to that folder for its longest socket, with a pid of seven digits; the names of sockets may
# have 107 bytes on Linux and 103 on macOS.
SESSION = "/session_2026-11-28_12-34-56_123456_1234567/sockets/plasma_store"
LONGEST = (103 if sys.platform == "darwin" else 107) - len(f"/cr-12345678/{OWN}{SESSION}")  # bytes
# Processes without which the raylet ends, and the node with it, by the last word of their commands.
AGENTS = ("/dashboard/agent.py", "/runtime_env/agent/main.py", "ray::DashboardAgent", "ray::RuntimeEnvAgent")

ENDING_REST = "ending what is left of a Ray that has lost its node"

Tell = Callable[[str], None]  # takes the stage that begins, in a few words


def untold(stage: str) -> None:
    """Ignore a stage."""


class LocalRayError(Exception):
    """The local Ray did not start; one line."""


class StartFailed(LocalRayError):  # noqa: N818 - the name says what happened
    """Ray ended while it started."""


@dataclass(frozen=True)
class LocalRay:
    pid: int
    started: str  # when the process was: the pid alone may be another process's by now
    token: str
    temp: str  # a private folder, in which Ray's own lies
    python: str  # the interpreter that started it; another one's Ray may not fit
    address: str = ""  # none yet while it starts

    @property
    def alive(self) -> bool:
        """Whether its head lives, be it with or without a node."""
        return self.started == _start_mark(self.pid)

    @property
    def serves(self) -> bool:
        """Whether it is up and has a node on which something can run.

        Its head does not notice that: a raylet that an agent of its own has left ends as if it was asked to.
        """
        return bool(self.address) and self.alive and all(_start_mark(pid) == mark for pid, mark in self.parts)

    @property
    def parts(self) -> list[tuple[int, str]]:
        """The processes without which it has no node, each with its start time, as found when it was up."""
        return [(int(pid), str(mark)) for pid, mark in self._noted.get("parts", [])]

    @property
    def up_seconds(self) -> float:
        """Seconds for which it has been up; infinity where that was not noted."""
        return time.monotonic() - self._noted.get("up_at", -math.inf)

    def note(self, parts: list[tuple[int, str]]) -> None:
        """Put down that it is up, with these parts."""
        _write(self._notes, json.dumps({"up_at": time.monotonic(), "parts": parts}))

    @property
    def _noted(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._notes.read_text()))
        except (OSError, ValueError, TypeError):  # a Ray that an earlier version of this program has started
            return {}

    @property
    def _notes(self) -> Path:
        return Path(self.temp) / "up.json"

    @property
    def answers(self) -> bool:
        """Whether its address accepts connections: the network may have changed since it started."""
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
        except OSError:
            return False
        return True


def folder() -> Path:
    """Return where the record lies: `RUNNER_RAY_DIR`, or a private folder in the temporary directory."""
    try:
        return runner_folder()
    except OSError as error:  # NotPrivate says what to do, the system what is wrong with which path
        said = f"{error.filename}: {error.strerror}: set {VARIABLE} to a folder of your own"
        raise LocalRayError(str(error) if error.filename is None else said) from error


def find() -> LocalRay | None:
    """Return the local Ray that is up, or None."""
    ray = recorded()
    return ray if ray and ray.serves else None


def ensure(tell: Tell = untold) -> LocalRay:
    """Return the local Ray, started if none is up; two callers at one instant get the same.

    `tell` is called with each stage as it begins.

    Raises:
        LocalRayError: it did not come up, or not within `START_SECONDS`.
    """
    with _locked(tell):
        ray = recorded()
        if ray is not None and not _is_of_use(ray):
            if ray.alive:
                tell(ENDING_REST)
            _end(ray)
            ray = None
        if ray is not None and ray.address:
            return ray
        tell("starting Ray: this takes some seconds")
        if ray is not None:  # its starter was killed
            return _awaited(ray)
        try:
            return _awaited(_launched())
        except StartFailed:  # on a busy machine Ray gives itself up after 30 s
            tell("starting Ray a second time: the first one has given up")
            return _awaited(_launched())


def _is_of_use(ray: LocalRay) -> bool:
    """Return whether it is up, or about to be."""
    return ray.serves or (ray.alive and not ray.address)


def stop(ray: LocalRay) -> None:
    """End exactly this Ray, with every process that it started; one that has ended is left alone."""
    with _locked():
        _end(ray)


def clear_away(tell: Tell = untold) -> bool:
    """End a Ray that has lost its node, or whose starter was killed; return whether there was one."""
    if recorded() is None:
        return False
    with _locked(tell):  # the process that starts a Ray holds it until that is up
        ray = recorded()
        if ray is None or ray.serves:
            return False
        if ray.alive:
            tell(ENDING_REST)
        _end(ray)
        return True


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
        # Ray's metrics are not read here, and their ports ask for no token. With a number that no port has,
        # Ray's own log has one error more and nothing listens.
        "RAY_enable_metrics_collection": "0",
        "AUTOSCALER_METRIC_PORT": "-1",
        "DASHBOARD_METRIC_PORT": "-1",
        "RAY_gcs_server_port_wait_time_s": "120",  # a busy machine may take longer than its 30
        "RAY_worker_niceness": "0",  # at its 15 the publisher would take time from training
    }


@contextlib.contextmanager
def _locked(tell: Tell = untold) -> Iterator[None]:
    another = "waiting for another command that starts or ends Ray"
    with locked(folder() / "lock", "RUNNER_RAY_DIR", lambda: tell(another)):
        yield


def _record() -> Path:
    return folder() / "ray.json"


def recorded() -> LocalRay | None:
    """Return the Ray on record, whether it starts, runs or has ended."""
    try:
        return LocalRay(**known(LocalRay, json.loads(_record().read_text())))
    except (FileNotFoundError, ValueError, TypeError):  # none, or half of one from a machine that went down
        return None


def _write_record(ray: LocalRay) -> None:
    _write(_record(), json.dumps(asdict(ray)))


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.touch(mode=0o600)
    part.write_text(text)
    part.replace(path)


def _end(ray: LocalRay) -> None:
    """End its head, which ends the others, then whatever has survived it; forget it."""
    if ray.alive:
        head = psutil.Process(ray.pid)
        processes = [head, *head.children(recursive=True)]
        if ray.serves:  # otherwise there is nothing that could end in order
            head.terminate()
            processes = _left(processes)
        _kill(processes)
    _kill(_survivors(ray))
    shutil.rmtree(ray.temp, ignore_errors=True)
    if recorded() == ray:  # and not one that has taken its place
        _record().unlink()


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()  # psutil compares start times: a pid that was reused is not touched
    _left(processes)


def _left(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Wait for processes to end, and return those alive after STOP_SECONDS.

    (psutil's own wait counts an ended process that nobody has reaped as alive.)
    """
    deadline = time.monotonic() + STOP_SECONDS
    while (processes := [each for each in processes if _lives(each)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return processes


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _survivors(ray: LocalRay) -> list[psutil.Process]:
    """The processes of a Ray whose head is gone: one that was stopped (SIGSTOP) does not notice that."""
    found = []
    for process in psutil.process_iter(["cmdline", "uids"]):
        uids, words = process.info["uids"], process.info["cmdline"] or [""]
        if uids is not None and uids.real == os.getuid() and _is_part(process, words, ray):
            found.append(process)
    return found


def _is_part(process: psutil.Process, words: list[str], ray: LocalRay) -> bool:
    """Return whether a process is of this Ray.

    Ray's own name its folder on their command lines. A worker, which has another title, has the token in its
    environment; an agent's title has overwritten that, and both are in the head's session.
    """
    if any(ray.temp in word for word in words):
        return True
    try:
        if os.getsid(process.pid) != ray.pid:
            return False
        token = process.environ().get("RAY_AUTH_TOKEN")
    except (OSError, psutil.Error):  # it has just ended
        return False
    return token == ray.token or (token is None and words[0].startswith("ray::"))


def _launched() -> LocalRay:
    """Start Ray, and put down which process it is before anything can interrupt this one."""
    command = _options()
    temp = _private_place()
    token = secrets.token_hex(32)
    with _log().open("w") as output:
        process = subprocess.Popen(
            [*command, f"--temp-dir={temp}/{OWN}"],
            env=environment(token, chosen(os.environ)),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    ray = LocalRay(process.pid, _start_mark(process.pid) or "", token, temp, sys.executable)
    _write_record(ray)
    return ray


def _private_place() -> str:
    """A new folder of mode 0700, short enough for sockets; in it Ray makes its own, open to everybody."""
    named = named_folder()
    places = ([named] if named else []) + [Path(tempfile.gettempdir()), LAST_RESORT]
    troubles = []
    for place in dict.fromkeys(places):
        if len(os.fsencode(place)) > LONGEST:
            troubles.append(f"{place} has more than {LONGEST} bytes")
            continue
        try:
            return tempfile.mkdtemp(prefix="cr-", dir=place)
        except OSError as error:
            troubles.append(f"{place}: {error.strerror}")
    raise LocalRayError(
        f"there is no place for Ray's sockets ({', '.join(troubles)}): set {VARIABLE} to a folder of your "
        f"own whose path has at most {LONGEST} bytes"
    )


def _awaited(ray: LocalRay) -> LocalRay:
    """Wait until it is up, and put down its address and its parts."""
    deadline = time.monotonic() + START_SECONDS
    while ray.alive:
        if address := _announced(ray):
            if not (parts := _parts(ray.pid)):
                break
            if not _is_of_this_machine(address):
                _end(ray)
                raise LocalRayError(f"Ray names {address} as its address, which is not of this machine")
            ray.note(parts)
            _write_record(up := replace(ray, address=address))
            return up
        if time.monotonic() > deadline:
            raise LocalRayError(
                f"Ray still starts after {START_SECONDS:g} s (pid {ray.pid}, its output is in {_log()}): "
                "`runner up` goes on waiting for it, `runner down` ends it"
            )
        time.sleep(0.05)
    _end(ray)
    raise StartFailed(f"Ray did not start; its output is in {_log()}")


def _announced(ray: LocalRay) -> str:
    """Return the address that Ray writes down last of all, some time after its log says that it has started.

    Taken from a file of this user only: to that address the token is sent.
    """
    try:
        file = os.open(Path(ray.temp) / OWN / "ray_current_cluster", os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:  # it is not there yet
        return ""
    with os.fdopen(file) as text:
        found = os.fstat(file)
        ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid()
        return text.read().strip() if ours else ""


def _is_of_this_machine(address: str) -> bool:
    host, colon, port = address.rpartition(":")
    own = {each.address.partition("%")[0] for all_ in psutil.net_if_addrs().values() for each in all_}
    return bool(colon) and port.isdecimal() and host.strip("[]") in own


def _parts(head: int) -> list[tuple[int, str]]:
    """The raylet that a head has started, and the agents without which it ends; nothing without a raylet."""
    try:
        raylets = [child for child in psutil.Process(head).children() if child.name() == "raylet"]
        agents = [child for raylet in raylets for child in raylet.children() if _is_agent(child)]
    except psutil.NoSuchProcess:
        return []
    return [(each.pid, mark) for each in raylets + agents if (mark := _start_mark(each.pid))]


def _is_agent(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(word.endswith(AGENTS) for word in process.cmdline())
    return False


def _start_mark(pid: int) -> str | None:
    """Return a living process's start time; unlike unix seconds it does not move when the clock is set."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"
    except (FileNotFoundError, ProcessLookupError):  # ProcessLookupError: it ended between open and read
        pass
    try:  # no such process, or a system without /proc
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.NoSuchProcess:
        return None


def _log() -> Path:
    return folder() / "ray.log"


def _options() -> list[str]:
    """Return Ray's options but for its folder. Raises LocalRayError where a variable cannot be used."""
    gpus = _count("RUNNER_GPUS", 0)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if (
        gpus is not None
        and visible is not None
        and gpus > (seen := len(list(filter(None, visible.split(",")))))
    ):
        raise LocalRayError(
            f"RUNNER_GPUS={gpus}, but CUDA_VISIBLE_DEVICES={visible} names {seen}: set one of them"
        )
    return [
        *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0"),
        *("--include-dashboard=false", "--disable-usage-stats"),
        # Its default, 10001, is bound with SO_REUSEPORT: an unrelated Ray's clients would reach ours.
        f"--ray-client-server-port={_free_port()}",
        "--dashboard-agent-listen-port=0",
        f"--num-cpus={_count('RUNNER_CPUS', 1) or available_cpus()}",  # Ray itself counts the machine's
        *([] if gpus is None else [f"--num-gpus={gpus}"]),
    ]


def _count(variable: str, least: int) -> int | None:
    """Return the whole number that a variable holds; None where it is not set."""
    text = os.environ.get(variable)
    if not text:
        return None
    if not text.isdecimal() or int(text) < least:
        raise LocalRayError(f"{variable}={text}: must be a whole number from {least} on")
    return int(text)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
