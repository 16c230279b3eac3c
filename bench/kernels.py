"""Time of one training step by kernel on a GPU, by operator on a CPU, as table and picture.

    python bench/kernels.py
    python bench/kernels.py --precision bfloat16 --output docs/kernels.png
    python bench/kernels.py --precision bfloat16 --mode compiled-graph --json

Steps are those of bench/step.py. They are timed by themselves first and by PyTorch's profiler afterwards,
which slows them down; so the times of kernels are the profiler's, and `busy` is their sum as a share of a
step without the profiler: on a GPU the share of the time in which it computes. On a CPU an operator's time
is its own, without that of the operators which it calls; what Python does between them is in none.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measure import Cost, Measured, Parser, costs, machine, run, said, timed, wait, whole
from torch.profiler import ProfilerActivity, profile
from variants import MODES, PRECISIONS, STEPS, Variant, model, training

WARM_STEPS = 5  # until steps are steady: compiled, recorded as a graph, their memory mapped
SHOWN = 15  # kernels; the others are one line
LONGEST = 60  # characters of a kernel's name in the picture


@dataclass(frozen=True)
class Kernel:
    """Cost of one kernel or operator in a step, all its calls together."""

    name: str
    calls: float
    seconds: float


def kernels(measured: Measured, steps: int) -> list[Kernel]:
    """Return the kernels of a step, the slowest first."""
    gpu = measured.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:  # else some versions warn
        for _ in range(steps):
            measured.step()
        wait(measured.device)
    found = [
        Kernel(
            event.key,
            event.count / steps,
            (event.self_device_time_total if gpu else event.self_cpu_time_total) / 1e6 / steps,
        )
        for event in profiler.key_averages()
        if event.device_type.name == measured.device.upper()
        # On a GPU a named range, such as the optimizer's step, is listed beside the kernels that it spans.
        and not (gpu and event.is_user_annotation)
    ]
    return sorted((kernel for kernel in found if kernel.seconds > 0), key=lambda kernel: -kernel.seconds)


def shortened(found: list[Kernel], shown: int) -> list[Kernel]:
    """Return the `shown` slowest, and the others as one."""
    first, others = found[:shown], found[shown:]
    if not others:
        return first
    calls, seconds = sum(kernel.calls for kernel in others), sum(kernel.seconds for kernel in others)
    return [*first, Kernel(f"{len(others)} others", calls, seconds)]


def table(found: list[Kernel], step: Cost) -> list[str]:
    lines = [f"{'ms':>10}{'of step':>10}{'calls':>10}  "]
    for kernel in found:
        share = kernel.seconds / step.times.median
        lines.append(f"{kernel.seconds * 1e3:>10,.3f}{share:>10.1%}{kernel.calls:>10,.1f}  {kernel.name}")
    return lines


def draw(found: list[Kernel], step: Cost, title: str, path: Path) -> None:
    """Draw the picture; raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.6 + 0.32 * len(found)), layout="constrained")
    axes = figure.subplots()
    names = [
        kernel.name if len(kernel.name) <= LONGEST else f"{kernel.name[: LONGEST - 1]}…" for kernel in found
    ]
    bars = axes.barh(range(len(found)), [kernel.seconds * 1e3 for kernel in found], color="tab:blue")
    shares = [f"{kernel.seconds / step.times.median:.1%}" for kernel in found]
    axes.bar_label(bars, shares, padding=3, fontsize="small")
    axes.set_yticks(range(len(found)), names, fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("milliseconds of a step, and its share")
    axes.set_title(title, fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = Parser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", type=model, default="capsnet")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--mode", choices=MODES, default="eager")
    parser.add_argument("--rounds", type=whole(2), default=11, help="in which a step is timed")
    parser.add_argument("--steps", type=whole(1), help="profiled, and timed together; 1, or 10 on a GPU")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in a run's YAML")
    parser.add_argument("--output", type=Path, help="a PNG to draw")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    variant = Variant(given.model, given.precision, given.mode, tuple(given.set))
    measured = training(variant)
    if measured.device == "cuda":
        kernels(measured, 1)  # of a graph that was recorded before, the profiler may not see the kernels
    for _ in range(WARM_STEPS):
        measured.step()
    steps = given.steps or STEPS[measured.device]
    step = costs({variant.name: measured}, given.rounds, steps)[variant.name]
    found = kernels(measured, steps)
    busy = sum(kernel.seconds for kernel in found) / step.times.median
    facts: dict[str, Any] = {**machine(measured.device), "rounds": given.rounds, "steps": steps}
    shown = shortened(found, SHOWN)
    if given.output is not None:
        title = f"One training step, {variant.name}: {step.times.median * 1e3:,.2f} ms on {facts['device']}"
        draw(shown, step, title, given.output)
    if given.json:
        rows = [asdict(kernel) for kernel in found]
        times = {"median_seconds": step.times.median, "busy": busy}
        print(json.dumps({"machine": facts, "name": variant.name, **times, "kernels": rows}))
        return
    print(said(facts), f"{variant.name:<34}{timed(step)}   busy {busy:.0%}", *table(shown, step), sep="\n")


if __name__ == "__main__":
    run(main)
