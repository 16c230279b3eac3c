"""The services of docker/compose.yaml as processes on hosts: the same commands, variables and health checks.

What a container engine and the image of PostgreSQL would do is done here: folders, start order, restarts
by hand, and the making of a database cluster. Everything else is the file's own.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess

import postgres
from end_to_end import compose
from end_to_end.compose import ComposeService
from end_to_end.hosts import Host, Lan, Running

SECRETS = {"POSTGRES_PASSWORD": "p4ssw0rd", "RAY_AUTH_TOKEN": "70ken" * 8}
HOSTS = {"server": ["postgres", "mlflow"], "head": [], "worker-1": [], "worker-2": [], "laptop": []}
DATABASE_FOLDER = "/postgres"
READY_SECONDS = 150.0  # on two cores that others use as well; alone it takes a tenth
CHECK_SECONDS = 0.5
LAPTOP_SECONDS = 300.0


@dataclass
class Stack:
    """The services of compose.yaml that run, and the host of each."""

    lan: Lan
    folder: Path
    services: Mapping[str, ComposeService]
    variables: dict[str, str] = field(default_factory=dict)  # in addition to those of the file
    running: dict[str, Running] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """RUNNER_HOME of the hosts, seen from here."""
        return self.folder / "volumes" / "runs"

    def host(self, name: str, *services: str, apart: bool = False) -> Host:
        """Start a host with the folders of the services that it will run; `apart`: it shares none of them."""
        targets = {
            volume: at for service in services for volume, at in self.services[service].folders.items()
        }
        own = f"{name}-" if apart else ""
        folders = {self._volume(own + volume): _place(at) for volume, at in targets.items()}
        return self.lan.host(name, folders)

    def start(
        self, service: str, host: Host, wait: bool = True, variables: Mapping[str, str] | None = None
    ) -> Running:
        """Start a service, and wait until its own health check succeeds.

        `variables`: in addition to its own.
        """
        what = self.services[service]
        environment = {**self.environment(what.environment), **(variables or {})}
        command = _postgres(host, environment) if service == "postgres" else list(what.command)
        running = host.start(service, command, environment)
        self.running[host.name if service == "worker" else service] = running
        if wait:
            self.ready(service, host, running)
        return running

    def ready(self, service: str, host: Host, running: Running) -> None:
        what = self.services[service]
        environment = self.environment(what.environment)

        deadline = time.monotonic() + READY_SECONDS
        while (said := host.run(what.check, environment)).returncode:
            assert running.alive, f"{service} ended with {running.exit_code}\n{running.output}"
            assert time.monotonic() < deadline, f"{service}: {said.stdout}{said.stderr}\n{running.output}"
            time.sleep(CHECK_SECONDS)
        if service == "postgres":
            _run_the_scripts_of_the_image(host, environment)

    def environment(self, of_service: Mapping[str, str]) -> dict[str, str]:
        """A container's variables: none of this machine's, but for where programs lie."""
        return {
            "PATH": ":".join([str(Path(sys.prefix) / "bin"), str(postgres.programs()), os.defpath]),
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
            "PYTHONPATH": "/app",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            **of_service,
            **self.variables,
        }

    def _volume(self, name: str) -> Path:
        folder = self.folder / "volumes" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@contextmanager
def stack(folder: Path, variables: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """A network in which the services can be started; at the end all of them are killed."""
    with Lan(folder / "hosts", HOSTS).up() as lan:
        yield Stack(lan, folder, compose.services({**SECRETS, **(variables or {})}))


@dataclass(frozen=True)
class Laptop:
    """A host that shares nothing with the others but the network, and has neither Ray, PyTorch nor MLflow."""

    host: Host
    environment: Mapping[str, str]

    @property
    def files(self) -> Path:
        """Its working directory, seen from here."""
        return self.host.folder / "tmp" / "home"

    def command(self, *words: str) -> list[str]:
        return ["env", "--chdir=/tmp/home", "python", "-m", "runner", *words]

    def call(self, *words: str) -> CompletedProcess[str]:
        return self.host.run(self.command(*words), self.environment, seconds=LAPTOP_SECONDS)

    def start(self, name: str, *words: str) -> Running:
        return self.host.start(name, self.command(*words), self.environment)


def laptop(stack: Stack) -> Laptop:
    """Start it, with the two variables of compose.yaml's command line and no home."""
    host = stack.host("laptop")
    (host.folder / "tmp" / "home").mkdir()
    without = without_packages(host, "ray", "torch", "mlflow")
    of_cli = stack.services["cli"].environment
    variables = {name: of_cli[name] for name in ("RUNNER_DATABASE_URL", "MLFLOW_TRACKING_URI")}
    return Laptop(host, {**stack.environment(variables), "PYTHONPATH": f"{without}:/app"})


def without_packages(host: Host, *packages: str) -> str:
    """A folder of a host, for PYTHONPATH, that makes packages fail as they do where there are none."""
    folder = host.folder / "tmp" / "not-installed"
    folder.mkdir()
    for package in packages:
        (folder / f"{package}.py").write_text(f"raise ModuleNotFoundError('No module named {package!r}')\n")
    return "/tmp/not-installed"


def _place(target: str) -> str:
    """Return a volume's path on a host; no folder can be made below a folder of this machine."""
    return DATABASE_FOLDER if target.startswith("/var/") else target


def _postgres(host: Host, environment: Mapping[str, str]) -> list[str]:
    """Do what the image's entry point does: make the database cluster once; return the server's command."""
    user = postgres.servant()
    assert user is not None, "hosts need root"
    as_user = f"setpriv --reuid={user.pw_uid} --clear-groups"
    if host.run(["test", "-e", f"{DATABASE_FOLDER}/PG_VERSION"], environment).returncode:
        script = (
            f"chown {user.pw_uid} {DATABASE_FOLDER} && chmod 700 {DATABASE_FOLDER} && umask 077"
            f' && printf %s "$POSTGRES_PASSWORD" > /tmp/password && chown {user.pw_uid} /tmp/password'
            f' && {as_user} initdb --pgdata={DATABASE_FOLDER} --username="$POSTGRES_USER"'
            " --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256 $POSTGRES_INITDB_ARGS"
            f" && echo 'host all all all scram-sha-256' >> {DATABASE_FOLDER}/pg_hba.conf"
        )
        made = host.run(["sh", "-c", script], environment)
        assert made.returncode == 0, made.stderr
    settings = ["-c", "listen_addresses=*", "-c", "unix_socket_directories=/tmp"]
    return [*as_user.split(), "postgres", "-D", DATABASE_FOLDER, *settings]


def _run_the_scripts_of_the_image(host: Host, environment: Mapping[str, str]) -> None:
    """Make POSTGRES_DB and run the file's own script, once."""
    psql = 'psql --host=/tmp --username="$POSTGRES_USER" --quiet --set=ON_ERROR_STOP=1'
    script = (
        f"{psql} --dbname=\"$POSTGRES_DB\" --command='' 2>/dev/null"
        f' || ({psql} --dbname=postgres --command="CREATE DATABASE $POSTGRES_DB"'
        f' && {psql} --dbname="$POSTGRES_DB" --file=/app/docker/postgres.sql)'
    )
    done = host.run(["sh", "-c", script], environment)
    assert done.returncode == 0, done.stderr
