"""Runs of several workers: all of them start or none, on one machine where one is large enough."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from runner.placement import Node, Request, Start, place, plan, waiting
from runner.spread import fits, part_of, share, spans


def node(name: str, gpus: Sequence[float] = (), cpus: float = 16, *, busy_cpus: float = 0) -> Node:
    return Node(name, tuple(gpus), len(gpus), cpus - busy_cpus, cpus)


def gang(run: int, workers: int, cpus_each: float = 1, gpus_each: float = 1) -> Request:
    return Request(run, workers * gpus_each, workers * cpus_each, (), workers)


def places(start: Start) -> tuple[str, ...]:
    return (start.node, *start.others)


# ---- one machine


def test_all_workers_are_on_one_machine_where_one_has_room() -> None:
    nodes = [node("a", [1, 1]), node("b", [1, 1, 1, 1])]
    assert place([gang(1, 4)], [], nodes) == [Start(1, "b", 4, 4, ("b",) * 3)]


def test_a_run_waits_for_one_machine_rather_than_span_two() -> None:
    nodes = [node("a", [1, 1]), node("b", [1, 1, 0, 0])]
    decided = plan([gang(1, 4)], [], nodes)
    assert (decided.starts, decided.kept) == ([], {1: "b"})


def test_workers_without_gpus_share_the_cores_of_a_machine() -> None:
    request = Request(1, 0, 16, (), 4)
    assert place([request], [], [node("a")]) == [Start(1, "a", 0, 16, ("a",) * 3)]
    assert part_of(request, 3) == Request(1, 0, 12, (), 3)


def test_workers_that_share_a_gpu_are_where_it_is() -> None:
    request = Request(1, 1, 2, (), 2)
    assert place([request], [], [node("a", [0.5]), node("b", [1])]) == [Start(1, "b", 1, 2, ("b",))]
    assert not spans(Request(1, 1, 64, (), 4), [node("a", [1]), node("b", [1])])


# ---- several machines


def test_a_run_larger_than_every_machine_spans_as_few_as_hold_it() -> None:
    nodes = [node("a", [1] * 2), node("b", [1] * 4), node("c", [1] * 4)]
    assert place([gang(1, 8)], [], nodes) == [Start(1, "b", 8, 8, ("b",) * 3 + ("c",) * 4)]
    assert place([gang(1, 9)], [], nodes) == [Start(1, "b", 9, 9, ("b",) * 3 + ("c",) * 4 + ("a",))]


def test_it_never_starts_with_some_of_its_workers() -> None:
    nodes = [node("a", [1] * 4), node("b", [1, 1, 1, 0])]
    assert place([gang(1, 8)], [], nodes) == []


def test_cores_bound_it_as_gpus_do() -> None:
    nodes = [node("a", [1] * 4, cpus=8), node("b", [1] * 4, cpus=4)]
    assert place([gang(1, 8, cpus_each=2)], [], nodes) == []
    assert place([gang(1, 6, cpus_each=2)], [], nodes) == [Start(1, "a", 6, 12, ("a",) * 3 + ("b",) * 2)]


def test_while_it_waits_it_keeps_all_of_its_machines_and_others_go_on() -> None:
    nodes = [node("a", [1] * 4), node("b", [1, 0, 0, 0]), node("c", [1, 1])]
    decided = plan([gang(1, 8), Request(2, 1, 1), Request(3, 1, 1), Request(4, 1, 1)], [], nodes)
    assert decided.kept_as_well == {"a", "b"}
    assert decided.starts == [Start(2, "c", 1, 1), Start(3, "c", 1, 1)]


def test_behind_another_that_waits_it_keeps_nothing() -> None:
    nodes = [node("a", [1, 1, 0, 0]), node("b", [1, 1, 1, 0])]
    queue = [Request(1, 4, 1, (), 4), gang(2, 8), Request(3, 1, 1)]
    decided = plan(queue, [], nodes)
    assert (decided.kept, decided.kept_as_well) == ({1: "b"}, frozenset())
    assert decided.starts == [Start(3, "a", 1, 1)]


def test_closed_machines_are_not_counted_on() -> None:
    closed = Node("a", (0.0,) * 4, 4, 0.0, 16.0, closed=True)
    nodes = [closed, node("b", [1] * 4), node("c", [1, 1])]
    assert place([gang(1, 8), Request(2, 1, 1)], [], nodes) == [Start(2, "c", 1, 1)]


# ---- what is said


def test_it_is_said_what_a_run_of_several_workers_waits_for() -> None:
    nodes = [node("a", [0, 0]), node("b", [0, 0])]
    assert waiting([gang(1, 4)], [], nodes) == {1: "needs 4 GPUs for 4 workers, next in line"}
    assert waiting([gang(1, 6)], [], nodes) == {1: "needs 6 GPUs, the cluster has 4: can never start"}
    lack = "needs 4 GPUs and 64 cores for 4 workers, the cluster has not both: can never start"
    assert waiting([gang(1, 4, cpus_each=16)], [], nodes) == {1: lack}
    cpus = Request(2, 0, 40, (), 4)
    assert (
        waiting([cpus], [], nodes)[2]
        == "needs 40 cores for 4 workers, the cluster has fewer: can never start"
    )


# ---- whatever comes


@given(st.integers(1, 40_960_000).map(lambda tenths: tenths / 10_000), st.integers(1, 64))
def test_the_shares_of_all_workers_are_never_more_than_the_whole_and_hardly_less(
    total: float, workers: int
) -> None:
    given_out = share(total, workers) * workers
    assert total - workers / 10_000 - 1e-6 < given_out < total + 1e-6
    assert share(total, 1) == total


@st.composite
def clusters(draw: st.DrawFn) -> list[Node]:
    nodes = []
    for name in "abc"[: draw(st.integers(1, 3))]:
        total = draw(st.sampled_from([2, 4, 8]))
        gpus = draw(st.lists(st.sampled_from([0, 1, 1]), max_size=4))
        nodes.append(node(name, gpus, total, busy_cpus=draw(st.integers(0, total))))
    return nodes


@st.composite
def lines(draw: st.DrawFn) -> list[Request]:
    queue = []
    for run in range(draw(st.integers(0, 8))):
        workers = draw(st.integers(1, 6))
        gpus = draw(st.sampled_from([0, workers]))
        queue.append(Request(run, gpus, workers * draw(st.sampled_from([0.5, 1, 2])), (), workers))
    return queue


@given(lines(), clusters())
def test_a_run_starts_with_all_its_workers_or_not_and_no_machine_gives_more_than_it_has(
    queue: list[Request], nodes: list[Node]
) -> None:
    asked = {request.run_id: request for request in queue}
    gpus: dict[str, float] = defaultdict(float)
    cpus: dict[str, float] = defaultdict(float)
    for start in place(queue, [], nodes):
        request = asked.pop(start.run_id)
        assert len(places(start)) == request.workers
        assert (start.gpus, start.cpus) == (request.gpus, request.cpus)
        for name in places(start):
            gpus[name] += start.gpus / request.workers
            cpus[name] += start.cpus / request.workers
    for each in nodes:
        assert gpus[each.name] <= sum(each.gpus) + 1e-9
        assert cpus[each.name] <= each.cpus + 1e-9


@given(lines(), clusters())
def test_only_what_no_machine_could_hold_spans_several(queue: list[Request], nodes: list[Node]) -> None:
    asked = {request.run_id: request for request in queue}
    for start in place(queue, [], nodes):
        if len(set(places(start))) > 1:
            assert spans(asked[start.run_id], nodes)
    for run, reason in waiting(queue, [], nodes).items():
        assert reason.endswith("can never start") is not fits(asked[run], nodes)


@given(lines(), clusters())
def test_nobody_takes_the_gpus_that_a_run_waits_for_which_spans_machines(
    queue: list[Request], nodes: list[Node]
) -> None:
    decided = plan(queue, [], nodes)
    asked = {request.run_id: request for request in queue}
    for run in decided.kept:
        if not asked[run].gpus or not spans(asked[run], nodes):
            continue
        later = [start for start in decided.starts if start.run_id > run and start.gpus]
        assert not any(decided.kept_as_well & set(places(start)) for start in later)


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=4),
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from([1, 1, 2])), min_size=1, max_size=40),
    st.integers(0, 12),
)
def test_an_endless_stream_of_small_runs_does_not_starve_one_that_needs_the_whole_cluster(
    sizes: list[int], small: list[tuple[int, int]], comes_at: int
) -> None:
    names = [f"host-{index}" for index in range(len(sizes))]
    longest = max(length for length, _ in small)
    ends: dict[int, tuple[str, float, int]] = {}  # by run: where, its GPUs, when
    numbers = itertools.count(1)
    lengths: dict[int, int] = {}
    queue: list[Request] = []
    bound = comes_at + longest * len(sizes) * (max(sizes) + 1)
    for now in range(bound + 1):
        ends = {run: held for run, held in ends.items() if held[2] > now}
        while len(queue) < sum(sizes):
            number = next(numbers)
            lengths[number], gpus = small[number % len(small)]
            queue.append(Request(number, gpus, 1))
        if now == comes_at:
            queue.insert(0, gang(0, sum(sizes)))
        nodes = [
            node(name, [0.0] * int(held) + [1.0] * (size - int(held)))
            for name, size in zip(names, sizes, strict=True)
            for held in [sum(gpus for where, gpus, _ in ends.values() if where == name)]
        ]
        for start in place(queue, [], nodes):
            if start.run_id == 0:
                assert Counter(places(start)) == dict(zip(names, sizes, strict=True))
                return
            ends[start.run_id] = start.node, start.gpus, now + lengths[start.run_id]
        queue = [request for request in queue if request.run_id not in ends]
    raise AssertionError(f"it waits since {comes_at} and has not started at {bound}")
