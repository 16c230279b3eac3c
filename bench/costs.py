"""Costs of the runner itself: its commands, the time to the first step, idle memory, overhead.

    python bench/costs.py commands start memory overhead     # or some of them; all take about 10 minutes

Everything runs in a home and on a local Ray of its own. Times are medians with their range; on a busy
machine compare them only within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from runner import local_ray
from runner.paths import Home, home
from runner.rows import Run
from runner.states import ENDED
from runner.store import open_store

REPEATS = 11
SMALL = """
dataset: {name: digits, size: 16}
model: {conv_channels: 8, kernel_size: 5, primary_types: 2, class_dim: 4, decoder: {hidden: [16]}}
num_epochs: 1
"""
# A minute or more on two cores; only the time between the ends of the first and the last epoch counts.
LONG = """
dataset: {name: digits}
model: {conv_channels: 64, primary_types: 8}
batch_size: 64
num_epochs: 60
"""


def runner(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runner", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"runner {' '.join(words)}: {done.stderr.strip()}")
    return done


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def show(label: str, values: list[float], unit: str = "s") -> None:
    print(
        f"{label:<44} median {statistics.median(values):.2f} {unit}"
        f"  ({min(values):.2f} to {max(values):.2f}, n = {len(values)})",
        flush=True,
    )


def look(number: int) -> Run:
    with open_store(home(), create=False) as store:
        run = store.run(number)
    assert run is not None
    return run


def ended(number: int) -> Run:
    while (run := look(number)).state not in ENDED:
        time.sleep(0.05)
    return run


def commands(folder: Path) -> None:
    """Time commands as whole processes, with the service up and idle."""
    file = folder / "small.yaml"
    file.write_text(SMALL)
    number = runner("submit", str(file)).stdout.strip()
    ended(int(number))
    bare = [sys.executable, "-c", "pass"]
    actions: dict[str, Callable[[], object]] = {
        "python -c pass": lambda: subprocess.run(bare, check=True),
        "runner queue": lambda: runner("queue"),
        "runner show": lambda: runner("show", number),
        "runner submit (an impossible run)": lambda: runner("submit", str(file), "--set", "runner.cpus=999"),
    }
    times: dict[str, list[float]] = {label: [] for label in actions}
    for _ in range(REPEATS):  # interleaved: a disturbance affects all of them
        for label, action in actions.items():
            times[label].append(seconds(action))
    for label, values in times.items():
        show(label, values)
    files = [folder / f"many-{index}.yaml" for index in range(1000)]
    for each in files:
        each.write_text(SMALL + "runner: {cpus: 999}\n")
    show("runner submit, 1,000 files", [seconds(lambda: runner("submit", *map(str, files)))])


def start(folder: Path) -> None:
    """Time a run on a free machine from its submit to its first training step, as its row shows them."""
    file = folder / "small.yaml"
    file.write_text(SMALL)
    ways: dict[str, list[float]] = {"placed after the submit": [], "first step after it was placed": []}
    for _ in range(5):
        number = int(runner("submit", str(file), "--set", "num_epochs=20").stdout)
        while (run := look(number)).step is None:
            time.sleep(0.02)
        stepped = time.time()
        assert run.started_at is not None
        ways["placed after the submit"].append(run.started_at - run.submitted_at)
        ways["first step after it was placed"].append(stepped - run.started_at)
        runner("cancel", str(number))
        ended(number)
    for label, values in ways.items():
        show(label, values)


def memory(folder: Path) -> None:
    """Measure the memory of the processes that stay up without a run, after the publisher has left."""
    ray = local_ray.find()
    assert ray is not None
    deadline = time.monotonic() + 120
    while any("PublisherActor" in " ".join(p.cmdline()) for p in processes(ray.pid)):
        if time.monotonic() > deadline:
            break
        time.sleep(1)
    rows = sorted(((p.memory_full_info(), " ".join(p.cmdline())) for p in processes(ray.pid)), reverse=True)
    print(f"{'idle: proportional share (PSS)':<44} {sum(info.pss for info, _ in rows) / 2**20:.0f} MB")
    print(f"{'idle: resident (RSS)':<44} {sum(info.rss for info, _ in rows) / 2**20:.0f} MB")
    for info, words in rows:
        name = words if words.startswith("ray::") else Path(words.split()[0]).name + " " + words[-40:]
        print(f"    {info.pss / 2**20:6.0f} MB  {name[:70]}")


def processes(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def overhead(folder: Path) -> None:
    """Time the epochs of the same run by `python -m capsnet train` and through the queue."""
    ratios = []
    for repeat in range(3):
        file = folder / f"long-{repeat}.yaml"
        file.write_text(LONG + f"checkpoint: {{log_dir: {folder}/log-{repeat}}}\n")
        alone = seconds_of_epochs(trained_alone(file, folder / f"alone-{repeat}"))
        run = ended(int(runner("submit", str(file)).stdout))
        queued = seconds_of_epochs(Home(Path(os.environ["RUNNER_HOME"])).run(run.id, run.name).folder)
        print(f"    alone {alone:.1f} s, through the queue {queued:.1f} s", flush=True)
        ratios.append(queued / alone)
    show("epochs through the queue / alone", ratios, "times")


def trained_alone(file: Path, folder: Path) -> Path:
    folder.mkdir()
    command = [sys.executable, "-m", "capsnet", "train", str(file)]
    subprocess.run(command, check=True, cwd=folder, capture_output=True)
    return folder


def seconds_of_epochs(folder: Path) -> float:
    """Return the seconds between the ends of the first and the last epoch."""
    from capsnet.history import HISTORY, read_history

    rows = read_history(next(folder.rglob(HISTORY)))
    return rows[-1]["time"] - rows[0]["time"]


@contextmanager
def service() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(RUNNER_HOME=str(folder / "home"), RUNNER_RAY_DIR=str(folder / "ray"))
        print(f"{'up: local Ray and the scheduler, from nothing':<44} {seconds(lambda: runner('up')):.1f} s")
        try:
            yield folder
        finally:
            runner("down", "--force")


def main() -> None:
    parts = {"commands": commands, "start": start, "memory": memory, "overhead": overhead}
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*parts, []], help="what to measure; all by default")
    chosen = parser.parse_args().parts or list(parts)
    with service() as folder:
        print(json.dumps({"cores": os.cpu_count(), "python": sys.version.split()[0]}))
        for name in chosen:
            parts[name](folder)


if __name__ == "__main__":
    main()
