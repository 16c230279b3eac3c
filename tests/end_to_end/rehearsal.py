"""A cluster of hosts on which everything goes wrong once, driven from a laptop; and its transcript.

    python -m end_to_end.rehearsal docs/cluster-transcript.md      # in tests/, as root

Ten runs are submitted from a laptop without Ray. One of them is interrupted and one cancelled, and both are
resumed; a worker is stopped and another one's host killed in the middle of their runs, the MLflow server is
killed and comes back, and PostgreSQL is restarted. What it finds is returned for a test to judge.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from end_to_end.hosts import Running
from end_to_end.stack import Laptop, Stack, laptop, stack
from end_to_end.transcript import Transcript

EPOCHS = 40  # so many that runs are left for each thing that happens
RUNS = [f"seed-{number}" for number in range(1, 11)]
INTERRUPTED, CANCELLED = 2, 10
SECONDS = 300.0  # for anything; alone on two cores most of it takes less than 20

TINY = f"""\
num_epochs: {EPOCHS}
seed: NUMBER
batch_size: 16
dataset: {{name: digits, size: 16}}
model: {{conv_channels: 8, kernel_size: 5, primary_types: 2, class_dim: 4, decoder: {{hidden: [16]}}}}
checkpoint: {{interval_seconds: 1}}
runner: {{gpus: 0, cpus: 1}}
"""


@dataclass(frozen=True)
class Found:
    """State of runs, weights, metrics and the laptop's files at the end of the rehearsal."""

    runs: list[dict[str, Any]]  # `queue --json`, the ten and the undisturbed one
    attempts: Mapping[int, int]  # how many each run took
    disturbed: int  # the run whose host was killed
    undisturbed: int  # the same YAML, left alone
    weights_equal: bool
    tensors: int  # that were compared
    points: Mapping[str, Mapping[str, list[int]]]  # what MLflow holds, by the name of the run
    drained: Mapping[str, Any]  # the attempt that trained on the host that was drained
    requeued_after: float  # seconds from the end of the host until its run was queued again
    published_before: int  # epochs that MLflow had of some run when its server was killed
    followed: str  # what `logs -f` had printed of run 1
    files_of_laptop: list[str]  # what it has in its working directory


@dataclass
class Rehearsal:
    stack: Stack
    laptop: Laptop
    transcript: Transcript

    def type(self, *words: str, expect: int = 0) -> str:
        """Type a command on the laptop."""
        done = self.laptop.call(*words)
        output = done.stdout + done.stderr
        self.transcript.typed("laptop", ["runner", *words], output, done.returncode)
        assert done.returncode == expect, f"{words}: exit {done.returncode}\n{output}\n{self.state()}"
        return done.stdout

    def runs(self) -> list[dict[str, Any]]:
        done = self.laptop.call("queue", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def run(self, number: int) -> dict[str, Any]:
        return next(run for run in self.runs() if run["id"] == number)

    def wait_until(self, condition: Callable[[list[dict[str, Any]]], Any], what: str) -> Any:
        deadline = time.monotonic() + SECONDS
        while not (value := condition(self.runs())):
            assert time.monotonic() < deadline, f"{what}: not within {SECONDS:g} s\n{self.state()}"
            time.sleep(0.5)
        return value

    def wait_until_machines(self, count: int) -> None:
        def known(_: object) -> bool:
            done = self.laptop.call("status", "--json")
            return done.returncode == 0 and len(json.loads(done.stdout)["machines"]) == count

        self.wait_until(known, f"the scheduler knows {count} hosts")

    def say(self, text: str) -> None:
        self.transcript.said(text)

    def state(self) -> str:
        """Return the queue and the ends of all logs, to understand a failure."""
        logs = [f"== {name}\n{running.output[-2000:]}" for name, running in self.stack.running.items()]
        scheduler = self.stack.home / "scheduler.log"
        logs.append(scheduler.read_text()[-4000:] if scheduler.exists() else "no scheduler.log")
        return "\n".join([self.laptop.call("queue").stdout, *logs])


def rehearse(folder: Path, transcript: Transcript) -> Found:
    """Start the services, make everything go wrong once, and return the state at the end."""
    with stack(folder) as services:
        there = Rehearsal(services, _bring_up(services, transcript), transcript)
        followed = _submit(there)
        _stop_and_resume(there)
        drained = _drain(there)
        disturbance = _kill(there)
        disturbed = disturbance.run
        _finish(there)
        undisturbed = _leave_alone(there, disturbed)
        return Found(
            runs=there.runs(),
            attempts={run["id"]: run["attempt"] for run in there.runs()},
            disturbed=disturbed,
            undisturbed=undisturbed,
            **_compared(there, disturbed, undisturbed),
            points=_points(there),
            drained=drained,
            requeued_after=disturbance.requeued_after,
            published_before=disturbance.published_before,
            followed=followed.output,
            files_of_laptop=sorted(path.name for path in there.laptop.files.iterdir()),
        )


def _bring_up(services: Stack, transcript: Transcript) -> Laptop:
    """Start the hosts, and the services in the order of compose.yaml."""
    transcript.heading("Five hosts")
    started = time.monotonic()
    server, head = services.host("server", "postgres", "mlflow"), services.host("head", "head")
    workers = [services.host(name, "worker") for name in ("worker-1", "worker-2")]
    services.start("postgres", server)
    services.start("mlflow", server)
    services.start("head", head)
    for worker in workers:
        services.start("worker", worker, wait=False)
    for worker in workers:
        services.ready("worker", worker, services.running[worker.name])
    for host, service in ((server, "mlflow"), (head, "head"), (workers[0], "worker"), (workers[1], "worker")):
        transcript.typed(host.name, services.services[service].command, "")
    transcript.said(
        f"all services are healthy, {time.monotonic() - started:.0f} s after the first was started"
    )
    return laptop(services)


def _submit(there: Rehearsal) -> Running:
    """Submit ten runs from the laptop, which then follows the first one."""
    there.transcript.heading("Ten runs from a laptop")
    for number, name in enumerate(RUNS, start=1):
        (there.laptop.files / f"{name}.yaml").write_text(TINY.replace("NUMBER", str(number)))
    there.transcript.typed("laptop", ["cat", "seed-1.yaml"], TINY.replace("NUMBER", "1"))
    there.wait_until_machines(3)
    there.type("status")
    there.type("submit", *(f"{name}.yaml" for name in RUNS))
    followed = there.laptop.start("logs", "logs", "1", "--follow")
    there.wait_until(lambda runs: sum((run["durable_epoch"] or 0) >= 2 for run in runs) >= 3, "three train")
    there.type("queue")
    there.type("show", "1")
    return followed


def _stop_and_resume(there: Rehearsal) -> None:
    """Interrupt one run and cancel another, and resume both."""
    there.transcript.heading("Interrupted, cancelled, resumed")
    there.type("interrupt", str(INTERRUPTED))
    there.type("cancel", str(CANCELLED))
    states = {INTERRUPTED: "INTERRUPTED", CANCELLED: "CANCELLED"}
    there.wait_until(lambda runs: states.items() <= {r["id"]: r["state"] for r in runs}.items(), "they end")
    there.type("queue")
    there.type("resume", str(INTERRUPTED))
    there.type("resume", str(CANCELLED))


def _drain(there: Rehearsal) -> dict[str, Any]:
    """Stop a worker as Docker does, and start it again; return how the attempt ended that trained there."""
    there.transcript.heading("A worker is stopped")
    run = there.wait_until(lambda runs: _training_on("worker-2", runs), "a run trains on worker-2")
    there.say(f"run {run['id']} trains on worker-2; SIGTERM for its `ray start`, as of `docker compose stop`")
    started = time.monotonic()
    there.stack.running["worker-2"].stop(120)
    there.say(f"it has ended, {time.monotonic() - started:.0f} s later")
    there.wait_until(lambda runs: _is_released(run, runs), "the run is queued again")
    there.type("queue")
    there.stack.start("worker", there.stack.lan.hosts["worker-2"])
    there.say("worker-2 is started again")
    shown = there.laptop.call("show", str(run["id"]), "--json")
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)["attempts"][run["attempt"] - 1]


def _is_released(run: Mapping[str, Any], runs: list[dict[str, Any]]) -> bool:
    now = next(one for one in runs if one["id"] == run["id"])
    return now["state"] == "QUEUED" or now["attempt"] > run["attempt"]


def _is_later(run: Mapping[str, Any], runs: list[dict[str, Any]]) -> bool:
    now = next(one for one in runs if one["id"] == run["id"])
    return now["state"] != "QUEUED" and now["attempt"] > run["attempt"]


@dataclass(frozen=True)
class Disturbance:
    run: int
    requeued_after: float
    published_before: int


def _kill(there: Rehearsal) -> Disturbance:
    """Kill the tracking server and a host, restart the database, and bring all of it back."""
    transcript, services = there.transcript, there.stack
    transcript.heading("The MLflow server and a worker's host are killed")
    published = there.wait_until(
        lambda runs: max(run["published_epoch"] or 0 for run in runs), "MLflow has some"
    )
    services.running["mlflow"].kill()
    there.say("`kill -9` for the MLflow server and its children")
    victim = there.wait_until(lambda runs: _training_on("worker-1", runs), "a run trains on worker-1")
    there.type("show", str(victim["id"]))
    killed_at = time.monotonic()
    services.lan.hosts["worker-1"].kill()
    there.say("`kill -9` for every process of the host worker-1: its raylet and its runs")

    there.wait_until(lambda runs: _is_released(victim, runs), "it is queued again")
    requeued_after = time.monotonic() - killed_at
    there.say(f"its loss was noticed {requeued_after:.0f} s later, and run {victim['id']} queued again")
    there.wait_until(lambda runs: _is_later(victim, runs), "it goes on elsewhere")
    there.say(f"run {victim['id']} goes on, on worker-2")
    there.type("queue")
    there.type("show", str(victim["id"]))

    transcript.heading("PostgreSQL is restarted, the MLflow server and the host come back")
    server = services.lan.hosts["server"]
    services.running["postgres"].signal(signal.SIGINT)  # the stop signal of its image
    services.running["postgres"].entered.wait(60)
    there.say("PostgreSQL is stopped")
    there.type("queue", expect=2)
    time.sleep(5)  # long enough for every part to notice
    services.start("postgres", server)
    there.say("PostgreSQL is started again")
    services.start("mlflow", server)
    there.say("the MLflow server is started again")
    services.start("worker", services.host("worker-1", "worker"))
    there.say("worker-1 is started again")
    there.wait_until_machines(3)
    there.type("status")
    return Disturbance(victim["id"], requeued_after, published)


def _training_on(host: str, runs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return a run that is in the middle of its epochs on a host; None if there is none."""
    for run in runs:
        middle = 2 <= (run["durable_epoch"] or 0) <= EPOCHS - 8
        if run["state"] == "RUNNING" and run["host"] == host and middle and run["id"] != INTERRUPTED:
            return run
    return None


def _finish(there: Rehearsal) -> None:
    there.transcript.heading("All ten finish")
    numbers = [str(number) for number in range(1, len(RUNS) + 1)]
    done = there.laptop.host.run(
        there.laptop.command("wait", *numbers), there.laptop.environment, seconds=SECONDS
    )
    there.transcript.typed("laptop", ["runner", "wait", *numbers], done.stdout + done.stderr, done.returncode)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{there.state()}"
    there.type("queue")


def _leave_alone(there: Rehearsal, disturbed: int) -> int:
    """Train the same YAML again, undisturbed."""
    there.transcript.heading("The same YAML, left alone")
    there.type("submit", f"seed-{disturbed}.yaml", "--name", "undisturbed", "--wait")
    undisturbed = len(RUNS) + 1
    there.type("show", str(undisturbed))
    for number in (*range(1, len(RUNS) + 1), undisturbed):
        name = there.run(number)["name"]
        there.wait_until(
            lambda runs, number=number: all(
                r["published_state"] == r["state"] for r in runs if r["id"] == number
            ),
            f"run {number} ({name}) is published",
        )
    return undisturbed


def _compared(there: Rehearsal, disturbed: int, undisturbed: int) -> dict[str, Any]:
    one, other = (_weights(there, number) for number in (disturbed, undisturbed))
    equal = one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    there.say(
        f"the {len(one)} tensors of runs {disturbed} and {undisturbed} are {'' if equal else 'not '}equal"
    )
    return {"weights_equal": equal, "tensors": len(one)}


def _weights(there: Rehearsal, number: int) -> dict[str, torch.Tensor]:
    run = there.run(number)
    (folder,) = there.stack.home.glob(f"{number}-*")
    file = folder / "attempts" / str(run["attempt"]) / "checkpoint.pt"
    return torch.load(file, weights_only=True, map_location="cpu")["model"]


def _points(there: Rehearsal) -> dict[str, dict[str, list[int]]]:
    """Read the MLflow server's points from the laptop, {run: {metric: steps}}; add them to the transcript."""
    command = ["python", "/app/tests/end_to_end/tracked_points.py", "http://mlflow:5000"]
    done = there.laptop.host.run(command, there.laptop.environment)
    assert done.returncode == 0, done.stderr
    points = json.loads(done.stdout)
    for name in sorted(points, key=lambda name: (len(name), name)):
        steps = points[name].get("train/loss", [])
        there.say(f"MLflow, {name}: {len(steps)} points of train/loss, steps {min(steps)} to {max(steps)}")
    return points


INTRODUCTION = """\
# A cluster rehearsed

Written by `python -m end_to_end.rehearsal`; `pytest -m rehearsal` does the same and
judges it. The hosts are network namespaces of one machine with two cores, each with its own address, name,
processes and /tmp; the commands, variables and health checks are those of docker/compose.yaml. `server` runs
PostgreSQL and the MLflow server, `head` Ray's head and the scheduler, `worker-1` and `worker-2` a Ray node
each; these three share the folder /runs. `laptop` shares nothing with the others but the network, and on it
`import ray`, `import torch` and `import mlflow` fail. `runner` stands for `python -m runner`. The load
average of the machine, which may have other work to do, was {load:.0f} at the end.
"""


def main() -> int:
    transcript = Transcript()
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        try:
            rehearse(Path(folder), transcript)
        finally:
            introduction = INTRODUCTION.format(load=os.getloadavg()[1])
            transcript.write(Path(sys.argv[1]), introduction)
    return 0


if __name__ == "__main__":
    sys.exit(main())
