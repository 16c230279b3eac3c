"""Hosts on one machine: each has a name, an address, processes and files of its own, as containers have.

A host is a process in namespaces of its own (network, mounts, process ids, host name); everything that is
started in it ends with it, and ending it is `kill -9` for all of that at once. What it sees of this machine
is its programs; `/tmp`, `/dev/shm` and the folders that it is given are its own or shared with hosts that
are given the same ones. The hosts hang on a bridge in a network of its own: this machine's stays as it is.

Needs root, `unshare`, `nsenter` and `ip`. Nothing is left behind, even by tests that are killed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from patience import wait_until

ROOT = Path(__file__).parents[2]
NETWORK = "10.77.0"
SECONDS = 20.0

NAMESPACES = ["--net", "--uts", "--mount", "--pid", "--fork", "--kill-child=KILL", "--propagation=private"]

# The files of a host: this machine's programs in a root of its own. A reaping shell is its first process.
FILE_SYSTEM = r"""
set -e
root=$1 files=$2 name=$3; shift 3
mount -t tmpfs tmpfs "$root"
for entry in /*; do
    case $entry in /proc | /tmp) continue ;; esac
    if [ -L "$entry" ]; then cp -P "$entry" "$root$entry"
    elif [ -d "$entry" ]; then mkdir "$root$entry"; mount --rbind "$entry" "$root$entry"
    fi
done
mkdir "$root/proc" "$root/tmp"
mount -t proc proc "$root/proc"
mount --bind "$files/tmp" "$root/tmp"
chmod 1777 "$root/tmp"
mount -t tmpfs tmpfs "$root/dev/shm"
mount --bind "$files/hosts" "$root/etc/hosts"
hostname "$name"
ip link set lo up
for pair; do
    mkdir -p "$root${pair#*:}"
    mount --bind "${pair%%:*}" "$root${pair#*:}"
done
exec chroot "$root" /bin/bash -c 'cd /; touch /tmp/.up; while :; do sleep 600 & wait; done'
"""


def missing() -> str | None:
    """Return why hosts cannot be made on this machine, or None if they can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    for program in ("unshare", "nsenter", "ip", "mount", "hostname"):
        if shutil.which(program) is None:
            return f"needs `{program}`"
    tried = subprocess.run(
        ["unshare", *NAMESPACES, "sh", "-c", "mount -t tmpfs tmpfs /mnt && ip link add x type bridge"],
        capture_output=True,
        text=True,
    )
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else None


@dataclass
class Running:
    """A program that runs in a host."""

    entered: subprocess.Popen[bytes]  # nsenter; the program is its only child
    log: Path

    @property
    def alive(self) -> bool:
        return self.entered.poll() is None

    @property
    def exit_code(self) -> int | None:
        return self.entered.poll()

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """The program with everything below it; seen from outside of its host."""
        if not self.alive:
            return []
        return psutil.Process(self.entered.pid).children(recursive=True)

    def signal(self, number: int) -> None:
        """Send the program itself a signal, as an init or a container engine does."""
        if self.alive:
            psutil.Process(self.entered.pid).children()[0].send_signal(number)

    def stop(self, seconds: float = 30.0) -> int:
        """End it as `docker stop` does; return its exit code."""
        self.signal(signal.SIGTERM)
        try:
            return self.entered.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.entered.wait(SECONDS)

    def kill(self) -> None:
        """`kill -9` for it and everything below it."""
        for process in self.processes():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.entered.wait(SECONDS)


@dataclass
class Host:
    """A host that is up."""

    name: str
    address: str
    folder: Path  # on this machine, for this host alone
    first: psutil.Process  # its process 1, seen from outside
    unshared: subprocess.Popen[bytes]
    cable: str  # its end at the bridge
    switch: psutil.Process
    started: list[Running] = field(default_factory=list)

    def _inside(self, command: Sequence[str]) -> list[str]:
        folder = f"--wd=/proc/{self.first.pid}/root/app"
        which = ["--mount", "--uts", "--net", "--pid", "--root", folder]
        return ["nsenter", f"--target={self.first.pid}", *which, "--", *command]

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Running:
        """Start a program that stays; what it prints goes to a file of this host."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                self._inside(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.started.append(running := Running(process, log))
        return running

    def run(
        self, command: Sequence[str], environment: Mapping[str, str], seconds: float = 120.0, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        return subprocess.run(
            self._inside(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=seconds,
            **{"capture_output": True, **options},
        )

    def unplug(self) -> None:
        """Cut the host off from the network; its processes go on without any notice."""
        _in_network(self.switch, "ip", "link", "set", self.cable, "down")

    def plug_in(self) -> None:
        _in_network(self.switch, "ip", "link", "set", self.cable, "up")

    def kill(self) -> None:
        """End all of its processes at once, by `kill -9`."""
        if self.first.is_running():
            self.first.kill()
        self.unshared.wait(SECONDS)
        for running in self.started:
            running.entered.wait(SECONDS)


class Lan:
    """A network of hosts that know each other's names."""

    def __init__(self, folder: Path, names: Mapping[str, Sequence[str]]) -> None:
        """`names`: the hosts that there may be, each with the other names under which it is known."""
        self.folder = folder
        self.hosts: dict[str, Host] = {}
        self._addresses = {name: f"{NETWORK}.{number}" for number, name in enumerate(names, start=11)}
        self._names = names

    @contextmanager
    def up(self) -> Iterator[Lan]:
        """Lay the network; at the end every host is killed."""
        with ExitStack() as stack:
            command = "ip link add br0 type bridge && ip link set br0 up && echo up && exec sleep infinity"
            switch = subprocess.Popen(
                ["unshare", "--net", "--fork", "--kill-child=KILL", "sh", "-c", command],
                stdout=subprocess.PIPE,
                preexec_fn=_die_with_parent,
            )
            stack.callback(_end, switch)
            assert switch.stdout is not None
            assert switch.stdout.readline() == b"up\n", "the network could not be laid"
            self._switch = _only_child(switch)
            try:
                yield self
            finally:
                for host in self.hosts.values():
                    host.kill()

    def host(self, name: str, folders: Mapping[Path, str] | None = None) -> Host:
        """Start a host; `folders`: what of this machine it sees, and where."""
        files = self.folder / name
        for folder in (files / "root", files / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        (files / "tmp" / ".up").unlink(missing_ok=True)
        (files / "hosts").write_text(self._hosts_file())
        seen = {ROOT: "/app", **_environment_of_python(), **(folders or {})}
        pairs = [f"{source}:{target}" for source, target in seen.items()]
        with (files / "host.log").open("ab") as log:
            unshared = subprocess.Popen(
                [
                    "unshare",
                    *NAMESPACES,
                    "bash",
                    "-c",
                    FILE_SYSTEM,
                    "host",
                    files / "root",
                    files,
                    name,
                    *pairs,
                ],
                stdin=subprocess.DEVNULL,
                stderr=log,
                preexec_fn=_die_with_parent,
            )
        try:
            wait_until(lambda: _up(unshared, files), name)
            first, cable = _only_child(unshared), f"host{len(self.hosts)}-{unshared.pid % 10000}"
            address = self._addresses[name]
            self._connect(cable, first.pid, address)
        except BaseException:
            _end(unshared)
            raise
        host = Host(name, address, files, first, unshared, cable, self._switch)
        self.hosts[name] = host
        return host

    def _connect(self, cable: str, pid: int, address: str) -> None:
        """Lay a cable from the bridge to a host."""
        peer = ["peer", "name", "eth0", "netns", str(pid)]
        _in_network(self._switch, "ip", "link", "add", cable, "type", "veth", *peer)
        _in_network(self._switch, "ip", "link", "set", cable, "master", "br0", "up")
        inside = f"ip addr add {address}/24 dev eth0 && ip link set eth0 up && ip route add default dev eth0"
        _in_network(psutil.Process(pid), "sh", "-c", inside)

    def _hosts_file(self) -> str:
        lines = ["127.0.0.1 localhost"]
        for name, address in self._addresses.items():
            lines.append(" ".join([address, name, *self._names[name]]))
        return "\n".join(lines) + "\n"


def _up(unshared: subprocess.Popen[bytes], files: Path) -> bool:
    assert unshared.poll() is None, f"the host did not start: {(files / 'host.log').read_text()}"
    return (files / "tmp" / ".up").exists()


def _environment_of_python() -> dict[Path, str]:
    """The virtual environment of these tests, where it lies in a temporary folder that hosts do not see."""
    inside_tmp = Path(sys.prefix).is_relative_to("/tmp")
    return {Path(sys.prefix): sys.prefix} if inside_tmp else {}


def _in_network(process: psutil.Process, *command: str) -> None:
    done = subprocess.run(
        ["nsenter", f"--target={process.pid}", "--net", "--", *command], capture_output=True, text=True
    )
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"


def _only_child(process: subprocess.Popen[bytes]) -> psutil.Process:
    (child,) = psutil.Process(process.pid).children()
    return child


def _end(unshared: subprocess.Popen[bytes]) -> None:
    for child in psutil.Process(unshared.pid).children() if unshared.poll() is None else []:
        child.kill()
    unshared.kill()
    unshared.wait(SECONDS)
    if unshared.stdout:
        unshared.stdout.close()


def _die_with_parent() -> None:
    """Ends `unshare`, and with it its namespaces, when these tests are killed."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
