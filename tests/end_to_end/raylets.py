"""A Ray cluster of several hosts on this machine: each one's raylet is a process of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from patience import wait_until

ROOT = Path(__file__).parents[2]
RAY = ("-P", "-m", "ray.scripts.scripts")
SOONER = {  # what Ray needs to notice that a host is gone, some 15 s by itself
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass
class Host:
    """One host of the cluster, as far as Ray is concerned."""

    name: str
    process: subprocess.Popen[bytes]

    @property
    def raylet(self) -> psutil.Process:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(child for child in children if child.name().startswith("raylet"))

    @property
    def node_id(self) -> str:
        words = [word for word in self.raylet.cmdline() if word.startswith("--node_id=")]
        return words[0].partition("=")[2]

    def runs(self, pid: int | None) -> bool:
        """Whether a process lives on this host."""
        return pid is not None and any(each.pid == self.process.pid for each in psutil.Process(pid).parents())

    def kill(self) -> None:
        """Kill the host's raylet and all processes below it at once."""
        processes = [psutil.Process(self.process.pid)]
        processes += processes[0].children(recursive=True)
        for process in processes:
            if process.is_running():
                process.kill()
        psutil.wait_procs(processes, timeout=10)
        self.process.wait()

    def shut_down(self) -> None:
        """Do what a host's own shutdown does: Ray drains it first."""
        self.process.send_signal(signal.SIGTERM)


@dataclass
class Hosts:
    """The hosts of one cluster; the first is its head."""

    temp: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="rh-", dir="/tmp")))
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    port: int = 0
    up: list[Host] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that a user of this cluster sets."""
        return {"RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def start_head(self, gpus: int = 0) -> Host:
        self.port = free_port()
        return self._start(
            *("--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={self.temp}"),
            *(f"--ray-client-server-port={free_port()}", "--node-name=head", f"--num-gpus={gpus}"),
        )

    def add(self, name: str, gpus: int = 1, python: str = sys.executable) -> Host:
        options = (f"--address={self.address}", f"--node-name={name}", f"--num-gpus={gpus}")
        return self._start(*options, python=python)

    def _start(self, *options: str, python: str = sys.executable) -> Host:
        name = next(option for option in options if option.startswith("--node-name=")).partition("=")[2]
        output = self.temp.with_name(f"{self.temp.name}-{name}.log")
        common = ("--block", "--num-cpus=2", "--disable-usage-stats", "--dashboard-agent-listen-port=0")
        with output.open("w") as file:
            process = subprocess.Popen(
                [python, *RAY, "start", *options, *common],
                env=self._environment(python),
                cwd="/",
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        host = Host(name, process)
        self.up.append(host)
        wait_until(lambda: "Ray runtime started" in output.read_text(), f"the host {name}")
        output.unlink()
        return host

    def _environment(self, python: str) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        path = {"PYTHONPATH": str(ROOT)} if python == sys.executable else {}
        inherited.pop("PYTHONPATH", None)
        settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
        return {**inherited, **self.variables, **SOONER, **settings, **path}

    def drain(self, host: Host) -> None:
        """Tell Ray that the host will be gone in a minute."""
        options = (f"--address={self.address}", f"--node-id={host.node_id}", "--reason-message=maintenance")
        reason = ("--reason=DRAIN_NODE_REASON_PREEMPTION", "--deadline-remaining-seconds=60")
        subprocess.run(
            [sys.executable, *RAY, "drain-node", *options, *reason],
            env=self._environment(sys.executable),
            cwd="/",
            check=True,
            capture_output=True,
            timeout=60,
        )

    def host_of(self, pid: int | None) -> Host:
        """The host on which a process lives."""
        return next(host for host in self.up if host.process.poll() is None and host.runs(pid))

    def end(self) -> None:
        for host in reversed(self.up):
            if host.process.poll() is None:
                host.kill()
        shutil.rmtree(self.temp, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def bare_python(folder: Path, *lacking: str) -> str:
    """An interpreter with what this one has installed, but for our own two packages and others."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    (target,) = folder.glob("lib/python*/site-packages")
    (source,) = {Path(path) for path in sys.path if path.endswith("site-packages")}
    for entry in source.iterdir():
        ours = any(word in entry.name for word in ("capsnet", "runner", "__editable__"))
        if not ours and entry.name not in lacking and entry.name != "__pycache__":
            (target / entry.name).symlink_to(entry)
    return str(folder / "bin" / "python")
