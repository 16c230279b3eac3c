"""Measurements of a cluster: a long queue, idle GPUs, the time from submit to start.

    python bench/cluster.py queue                        # 10,000 queued runs: `queue`, a tick, memory
    python bench/cluster.py idle --gpus 16 --runs 500    # logical GPUs, real workers on the CPU
    python bench/cluster.py latency                      # submit to start

`queue` and `idle` run in a home and on a local Ray of their own; with RUNNER_DATABASE_URL, which must name
a database that nothing else uses, the queue lies there. `latency` measures one machine in this way and,
where RAY_ADDRESS, RUNNER_DATABASE_URL and RUNNER_HOME name a cluster's, that cluster too, and the difference.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psutil
from costs import SMALL, ended, look, runner, seconds, show

import capsnet
from runner import loading, local_ray, paths, placement, source
from runner.commands.submit import to_row
from runner.placement import Node
from runner.present import present
from runner.rows import Attempt, Waiting
from runner.states import ENDED, State
from runner.store import Store, open_store

LONG = SMALL.replace("num_epochs: 1", "num_epochs: 1000000").replace("\nmodel", "\nthreads: 1\nmodel")
CLUSTERS = ("RAY_ADDRESS", "RUNNER_DATABASE_URL", "RUNNER_HOME")
ENOUGH_SECONDS = 600.0
THIS_PROCESS = ("user", "system")
CHILDREN = ("children_user", "children_system")


def add_runs(store: Store, text: str, count: int) -> list[int]:
    """Queue `count` runs as `submit` would make them of as many YAML files; return their numbers."""
    experiment = loading.parse(text, "bench.yaml")
    code, origin = present(Path.cwd())
    row = to_row(experiment, Path.cwd(), origin, os.environ)
    new_runs = [replace(row, name=f"bench-{number}") for number in range(count)]
    return store.add(new_runs, store.now(), code)


def until(condition: Callable[[], bool], seconds: float = ENOUGH_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"gave up after {seconds:g} s")
        time.sleep(0.1)


@contextmanager
def own_service(gpus: int) -> Iterator[Path]:
    """Run a local Ray with so many logical GPUs, and a home, within the `with` block; yield their folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = {
            "RUNNER_HOME": str(folder / "home"),
            "RUNNER_RAY_DIR": str(folder / "ray"),
            "RUNNER_GPUS": str(gpus),
        }
        with environment(ours, without=("RAY_ADDRESS", "MLFLOW_TRACKING_URI")):
            try:
                runner("up")
                yield folder
            finally:
                if (ray := local_ray.recorded()) is not None:
                    local_ray.stop(
                        ray
                    )  # with all that it started: what is left of the queue goes with its folder


@contextmanager
def environment(values: Mapping[str, str], without: Sequence[str] = ()) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    for name in without:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


# A long queue.


def queue(options: argparse.Namespace) -> None:
    """Measure a queue in which one run trains on the only GPU and all others wait for it."""
    with own_service(gpus=1), open_store(paths.home(), create=False) as store:
        seconds_to_add = seconds(lambda: add_runs(store, LONG, options.runs))
        print(f"{'queued in one transaction':<44} {options.runs} runs in {seconds_to_add:.2f} s")
        until(lambda: any(run.step for run in store.runs([State.RUNNING])))
        whole_processes(options.repeats)
        memory_of_scheduler(store)
        decisions(store, options.repeats)
        ticks(store, options.repeats)


def whole_processes(repeats: int) -> None:
    """Time commands from start to end, and their processor time, which a busy machine changes less."""
    for command in ("queue", "status"):
        used = [cost(partial(runner, command), CHILDREN) for _ in range(repeats)]
        show(f"runner {command}, whole process", [wall for wall, _ in used])
        show("    of that processor time", [cpu for _, cpu in used])


def cost(action: Callable[[], object], parts: Sequence[str]) -> tuple[float, float]:
    """Return an action's seconds of wall time, and of processor time by these parts of `os.times`."""
    before = os.times()
    wall = seconds(action)
    after = os.times()
    return wall, sum(getattr(after, part) - getattr(before, part) for part in parts)


def memory_of_scheduler(store: Store) -> None:
    beat = store.scheduler_beat()
    assert beat is not None and beat.pid is not None
    used = psutil.Process(beat.pid).memory_full_info()
    shares = f"{used.pss / 2**20:.0f} MB proportional (PSS), {used.rss / 2**20:.0f} MB resident (RSS)"
    print(f"{'the scheduler process':<44} {shares}")


def decisions(store: Store, repeats: int) -> None:
    """Time placement alone, for four machines of four GPUs that are all busy and four that are all free."""
    waiting = store.line()
    for what, share in (("busy", 0.0), ("free", 1.0)):
        cpus = 16.0 * share
        nodes = [Node(f"host-{n}", (share,) * 4, 4, cpus, 16.0, 16.0 - cpus) for n in range(4)]
        times = [seconds(partial(decide, waiting, nodes)) for _ in range(repeats)]
        show(f"placement alone, 4 x 4 GPUs, all {what}", [1000 * value for value in times], "ms")
    show("reading the line alone", [1000 * seconds(store.line) for _ in range(repeats)], "ms")


def decide(waiting: Sequence[Waiting], nodes: Sequence[Node]) -> None:
    placement.place(placement.resolve_all(waiting, nodes), [], nodes)


def ticks(store: Store, repeats: int) -> None:
    """Time whole ticks of a scheduler in this process, which takes over the queue and the actor's worker."""
    beat, ray = store.scheduler_beat(), local_ray.find()
    assert beat is not None and ray is not None
    os.environ.update(local_ray.environment(ray.token, os.environ))
    from runner import cluster  # imports ray, which reads its token from the environment only now
    from runner.scheduler import Scheduler

    cluster.connect(ray.address, store.queue_id)
    home = paths.home()
    epoch = store.take_over(store.now(), beat.cluster, capsnet.__version__, beat.tracking, str(home.root))
    scheduler = Scheduler(store, home, epoch, {}, source.here().archive)
    scheduler.tick(store.now())  # adopts
    used = []
    for _ in range(5 * repeats):
        used.append(cost(lambda: scheduler.tick(store.now()), THIS_PROCESS))
        time.sleep(0.05)
    times = [1000 * wall for wall, _ in used]
    show("a tick of the scheduler, its worker asked", times, "ms")
    print(f"{'':<44} 95% of them below {sorted(times)[int(0.95 * (len(times) - 1))]:.1f} ms")
    show("    of that processor time", [1000 * cpu for _, cpu in used], "ms")


# Idle GPUs.


@dataclass(frozen=True)
class FirstSigns:
    """Seconds from each attempt's claim to its worker's first answer, and to the first step seen."""

    answers: list[float]
    steps: list[float]


def idle(options: argparse.Namespace) -> None:
    """Measure on logical GPUs how long each had no run between its first start and its last end."""
    text = SMALL.replace("\nmodel", "\nthreads: 1\nmodel").replace(
        "num_epochs: 1", f"num_epochs: {options.epochs}"
    )
    with own_service(options.gpus), open_store(paths.home(), create=False) as store:
        numbers = add_runs(store, text, options.runs)
        signs = watch(store)
        ends = [run.state for run in store.runs(ENDED)]
        attempts = [attempt for number in numbers for attempt in store.attempts(number)]
    finished = ends.count(State.FINISHED)
    print(f"{'finished':<44} {finished} of {options.runs}, in {len(attempts)} attempts")
    by_gpu = defaultdict(list)
    for attempt in attempts:
        for device in attempt.devices:
            by_gpu[attempt.host, device].append(attempt)
    shares = [100 * idle_share(held) for held in by_gpu.values()]
    show(f"GPUs without a run, each of {len(shares)}", shares, "%")
    span = max(one.ended_at or 0 for one in attempts) - min(one.started_at for one in attempts)
    print(f"{'from the first start to the last end':<44} {span:.1f} s")
    show("held by a run", [(one.ended_at or 0) - one.started_at for one in attempts])
    show("of that, from the claim to the first answer", signs.answers or [float("nan")])
    show("of that, from the claim to the first step seen", signs.steps or [float("nan")])


def watch(store: Store) -> FirstSigns:
    """Poll until no run is unfinished; a worker is asked five times a second and its row written once."""
    answers: dict[int, float] = {}
    steps: dict[int, float] = {}
    while True:
        for run in store.runs([State.RUNNING]):
            if run.started_at is not None and run.answered_at is not None:
                answers.setdefault(run.id, run.answered_at - run.started_at)
                if run.step is not None:
                    steps.setdefault(run.id, run.answered_at - run.started_at)
        counts = store.counts()
        if not counts[State.QUEUED] + counts[State.RUNNING]:
            return FirstSigns(list(answers.values()), list(steps.values()))
        time.sleep(0.1)


def idle_share(attempts: Sequence[Attempt]) -> float:
    """Return the share of time in which no attempt held the GPU, between the first start and the last end."""
    held = sum((attempt.ended_at or 0.0) - attempt.started_at for attempt in attempts)
    first = min(attempt.started_at for attempt in attempts)
    last = max(attempt.ended_at or 0.0 for attempt in attempts)
    return 1 - held / (last - first)


# From submit to start.


def latency(options: argparse.Namespace) -> None:
    """Time from a submit to its run's claim, by the queue's clock, with free GPUs and the service up."""
    theirs = {name: value for name in CLUSTERS if (value := os.environ.get(name))}
    with environment({}, without=CLUSTERS), own_service(gpus=1) as folder:
        here = starts(folder, options.repeats)
    show("submit to start, one machine", here)
    if len(theirs) < len(CLUSTERS):
        print(f"no cluster: {', '.join(CLUSTERS)} are not all set")
        return
    runner("up")
    with tempfile.TemporaryDirectory() as folder:
        there = starts(Path(folder), options.repeats)
    show("submit to start, the cluster", there)
    more = statistics.median(there) - statistics.median(here)
    print(f"{'the cluster takes longer by':<44} {more:.2f} s")


def starts(folder: Path, repeats: int) -> list[float]:
    file = folder / "small.yaml"
    file.write_text(SMALL)
    times = []
    for _ in range(repeats):
        number = int(runner("submit", str(file)).stdout)
        run = ended(number)
        first = look(number)
        assert first.started_at is not None and run.state is State.FINISHED, run.reason
        times.append(first.started_at - first.submitted_at)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("queue", help="a long queue")
    part.add_argument("--runs", type=int, default=10_000)
    part.add_argument("--repeats", type=int, default=11)
    part.set_defaults(measure=queue)
    part = parts.add_parser("idle", help="idle GPUs")
    part.add_argument("--gpus", type=int, default=16)
    part.add_argument("--runs", type=int, default=500)
    part.add_argument("--epochs", type=int, default=3, help="of each run")
    part.set_defaults(measure=idle)
    part = parts.add_parser("latency", help="submit to start")
    part.add_argument("--repeats", type=int, default=7)
    part.set_defaults(measure=latency)
    options = parser.parse_args()
    print(json.dumps({"cores": os.cpu_count(), "python": sys.version.split()[0]}))
    options.measure(options)


if __name__ == "__main__":
    main()
