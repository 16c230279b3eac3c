"""Hosts that share nothing but PostgreSQL, an S3 server and an MLflow server, none of them with our packages.

A run is interrupted on one host, which then is gone with all of its files, and goes on on another one. The
same YAML is left alone, and waits while the code of the laptop that submitted it is edited.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from end_to_end.hosts import ROOT, Host
from end_to_end.rehearsal import EPOCHS, SECONDS, TINY, Rehearsal
from end_to_end.stack import Stack, laptop, stack, without_packages
from end_to_end.transcript import Transcript
from patience import wait_until

BUCKET = "runs"
STORAGE = f"s3://{BUCKET}/apart"
TO_S3 = {
    "AWS_ENDPOINT_URL": "http://server:9000",
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}
MAKE_BUCKET = f"import s3fs; s3fs.S3FileSystem().mkdir({BUCKET!r})"
EDIT = '\nraise RuntimeError("edited on the laptop")\n'
INTERRUPTED, UNDISTURBED, EDITED = 1, 2, 3


@dataclass(frozen=True)
class Found:
    """State of runs, weights and metrics at the end of the rehearsal."""

    runs: Mapping[int, dict[str, Any]]  # `show --json`
    weights: Mapping[int, Mapping[str, str]]  # digests of the tensors, of the two that finished
    points: Mapping[str, Mapping[str, list[int]]]  # what MLflow holds
    waited: str  # the state of the run whose code was edited behind it


def rehearse(folder: Path) -> Found:
    """Start the services, interrupt, kill and edit as above, and return the state at the end."""
    with stack(folder) as services:
        server = services.host("server", "postgres", "mlflow")
        for service in ("postgres", "mlflow"):
            services.start(service, server)
        _serve_s3(services, server)
        head = services.host("head", "head", apart=True)
        services.start("head", head, variables={"RUNNER_STORAGE": STORAGE, **TO_S3})
        _add_worker(services, "worker-1")
        there = Rehearsal(services, laptop(services), Transcript())
        code = _own_code(there)
        there.wait_until_machines(2)

        _submit(there, "interrupted")
        there.wait_until(lambda runs: (runs[0]["durable_epoch"] or 0) >= 3, "it trains")
        there.type("interrupt", str(INTERRUPTED))
        there.wait_until(lambda runs: runs[0]["state"] == "INTERRUPTED", "it is interrupted")
        _lose(services, "worker-1")
        _add_worker(services, "worker-2")
        there.wait_until(lambda _: _names(there) == {"head", "worker-2"}, "worker-2 is there, worker-1 gone")
        there.type("resume", str(INTERRUPTED))
        there.wait_until(lambda runs: runs[0]["state"] == "RUNNING", "it goes on")

        _submit(there, "undisturbed")
        with (code / "capsnet" / "training.py").open("a") as file:
            file.write(EDIT)
        waited = there.run(UNDISTURBED)["state"]
        _submit(there, "edited")
        there.type("wait", *map(str, (INTERRUPTED, UNDISTURBED, EDITED)), expect=1)  # the last one fails
        there.wait_until(lambda runs: all(r["published_state"] == r["state"] for r in runs), "published")
        return Found(
            runs={number: _shown(there, number) for number in (INTERRUPTED, UNDISTURBED, EDITED)},
            weights={number: _weights(there, server, number) for number in (INTERRUPTED, UNDISTURBED)},
            points=_points(there),
            waited=waited,
        )


def _serve_s3(services: Stack, server: Host) -> None:
    """Start an S3 server, with an empty bucket."""
    environment = {**services.environment({}), **TO_S3}
    running = server.start("s3", ["moto_server", "-H", "0.0.0.0", "-p", "9000"], environment)
    services.running["s3"] = running
    wait_until(lambda: server.run(["python", "-c", MAKE_BUCKET], environment).returncode == 0, "S3")


def _add_worker(services: Stack, name: str) -> None:
    """Start a worker's host with our packages' dependencies alone, which shares no folder or variable."""
    host = services.host(name, "worker", apart=True)
    services.start("worker", host, variables={"PYTHONPATH": without_packages(host, "capsnet", "runner")})


def _lose(services: Stack, name: str) -> None:
    """Kill a host and delete its files."""
    host = services.lan.hosts[name]
    host.kill()
    shutil.rmtree(host.folder)
    for volume in (services.folder / "volumes").glob(f"{name}-*"):
        shutil.rmtree(volume)


def _own_code(there: Rehearsal) -> Path:
    """Give the laptop a copy of our packages to work with; returns its folder, as seen from here."""
    code = there.laptop.files / "code"
    for package in ("capsnet", "runner"):
        shutil.copytree(ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    without = there.laptop.environment["PYTHONPATH"].partition(":")[0]
    own = {**there.laptop.environment, "PYTHONPATH": f"{without}:/tmp/home/code"}
    there.laptop = replace(there.laptop, environment=own)
    return code


def _submit(there: Rehearsal, name: str) -> None:
    text = TINY.replace("NUMBER", "1").replace("cpus: 1", "cpus: 2")  # all of a host: one at a time
    (there.laptop.files / f"{name}.yaml").write_text(text)
    there.type("submit", f"{name}.yaml")


def _names(there: Rehearsal) -> set[str]:
    shown = there.laptop.call("status", "--json")
    return {machine["name"] for machine in json.loads(shown.stdout)["machines"]}


def _shown(there: Rehearsal, number: int) -> dict[str, Any]:
    return json.loads(there.type("show", str(number), "--json"))


def _weights(there: Rehearsal, server: Host, number: int) -> dict[str, str]:
    """Return digests of a run's weights in the storage, read on a host that has none of the run's files."""
    of_cli = there.stack.environment(there.stack.services["cli"].environment)
    environment = {**of_cli, **TO_S3, "RUNNER_STORAGE": STORAGE, "RUNNER_HOME": f"/tmp/fetched-{number}"}
    command = ["python", "/app/tests/end_to_end/stored_weights.py", str(number)]
    done = server.run(command, environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _points(there: Rehearsal) -> dict[str, dict[str, list[int]]]:
    command = ["python", "/app/tests/end_to_end/tracked_points.py", "http://mlflow:5000"]
    done = there.laptop.host.run(command, there.laptop.environment, seconds=SECONDS)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


__all__ = ["EDITED", "EPOCHS", "INTERRUPTED", "UNDISTURBED", "Found", "rehearse"]
