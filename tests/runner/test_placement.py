"""Placement: its decisions in situations of a lab, and rules that hold in every situation."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.placement import Node, Request, Start, place, plan, resolve, resolve_all, waiting
from runner.rows import Run
from runner.states import State


def node(
    name: str = "a",
    gpus: Sequence[float] = (),
    cpus: float = 16,
    *,
    busy_cpus: float = 0,
    gpu_cpus: float = 0,
) -> Node:
    return Node(name, tuple(gpus), len(gpus), cpus - busy_cpus, cpus, gpu_cpus)


def started(starts: list[Start]) -> list[int]:
    return [start.run_id for start in starts]


def queued_run(**changes: object) -> Run:
    nothing = dict.fromkeys(field.name for field in dataclasses.fields(Run))
    known = {
        "id": 1,
        "state": State.QUEUED,
        "gpus": "auto",
        "cpus": "auto",
        "loader_workers": 0,
        "workers": 1,
        "exclusive": (),
    }
    return Run(**{**nothing, **known, **changes})


class TestWhatAutoMeans:
    def test_one_gpu_and_one_core_where_there_are_gpus(self) -> None:
        assert resolve(queued_run(), [node("a"), node("b", [1, 1])]) == Request(1, 1, 1)

    def test_all_cores_of_the_largest_machine_where_there_is_none(self) -> None:
        assert resolve(queued_run(), [node("a", cpus=4), node("b", cpus=12)]) == Request(1, 0, 12)

    def test_a_core_for_each_process_that_loads_data_beside_a_gpu(self) -> None:
        assert resolve(queued_run(loader_workers=4), [node(gpus=[1])]).cpus == 5

    def test_never_more_cores_than_the_share_of_a_gpu(self) -> None:
        nodes = [node("big", cpus=64), node("gpus", [1, 1], cpus=5)]
        assert resolve(queued_run(loader_workers=8), nodes).cpus == 2.5

    def test_fewer_cores_than_gpus_leave_no_gpu_idle(self) -> None:
        nodes = [node(gpus=[1] * 4, cpus=2)]
        runs = [queued_run(id=number) for number in range(1, 5)]
        assert started(place([resolve(run, nodes) for run in runs], [], nodes)) == [1, 2, 3, 4]

    def test_eight_runs_with_four_loaders_each_use_all_of_eight_gpus_on_32_cores(self) -> None:
        nodes = [node(gpus=[1] * 8, cpus=32)]
        runs = [queued_run(id=number, loader_workers=4) for number in range(1, 9)]
        assert started(place([resolve(run, nodes) for run in runs], [], nodes)) == [*range(1, 9)]

    def test_without_a_gpu_a_core_is_left_for_each_gpu(self) -> None:
        assert resolve(queued_run(gpus=0), [node(gpus=[1, 1], cpus=16)]) == Request(1, 0, 14)
        assert resolve(queued_run(gpus=0), [node(gpus=[1, 1], cpus=2)]) == Request(1, 0, 1)

    def test_what_the_user_asks_for_is_what_he_gets(self) -> None:
        asked = queued_run(gpus=0.25, cpus=2.0, exclusive=("/x/best.pt",))
        assert resolve(asked, [node(gpus=[1])]) == Request(1, 0.25, 2.0, ("/x/best.pt",))

    def test_it_can_be_asked_before_any_machine_is_up(self) -> None:
        assert resolve(queued_run(), []) == Request(1, 0, 1)

    def test_many_runs_get_what_each_would_get_alone(self) -> None:
        nodes = [node("a", [1, 1], cpus=4), node("b", cpus=12)]
        runs = [
            queued_run(id=number, gpus=gpus, cpus=cpus, loader_workers=loaders, exclusive=(f"/{number}",))
            for number, (gpus, cpus, loaders) in enumerate(
                itertools.product(["auto", 0, 0.5, 1], ["auto", 3], [0, 4])
            )
        ] * 2
        assert resolve_all(runs, nodes) == [resolve(run, nodes) for run in runs]


class TestOrder:
    def test_eight_runs_on_four_gpus_are_four_at_a_time(self) -> None:
        queue = [Request(number, 1, 1) for number in range(1, 9)]
        assert started(place(queue, [], [node(gpus=[1] * 4)])) == [1, 2, 3, 4]

    def test_a_small_run_does_not_take_the_gpu_that_a_large_one_waits_for(self) -> None:
        assert place([Request(1, 2, 1), Request(2, 1, 1)], [], [node(gpus=[1, 0])]) == []

    def test_nor_the_cores(self) -> None:
        assert place([Request(1, 0, 16), Request(2, 0, 1)], [], [node(busy_cpus=4)]) == []

    def test_a_run_without_gpu_overtakes_one_that_waits_for_gpus_where_cores_are_spare(self) -> None:
        queue = [Request(1, 1, 4), Request(2, 0, 4)]
        assert started(place(queue, [], [node(gpus=[0], cpus=8)])) == [2]

    def test_but_not_on_the_cores_that_those_ahead_will_need_together(self) -> None:
        queue = [Request(1, 1, 4), Request(2, 1, 4), Request(3, 0, 4)]
        assert place(queue, [], [node(gpus=[0, 0], cpus=8)]) == []

    def test_a_long_line_for_one_gpu_keeps_the_cores_of_one_run_only(self) -> None:
        queue = [*(Request(number, 1, 4) for number in range(1, 100)), Request(100, 0, 4)]
        assert started(place(queue, [], [node(gpus=[0], cpus=8)])) == [100]

    def test_runs_with_gpus_start_beside_one_without_and_while_the_next_without_waits(self) -> None:
        nodes = [node(gpus=[1, 1], cpus=16)]
        queue = [resolve(queued_run(id=id_, gpus=gpus), nodes) for id_, gpus in enumerate([0, 0, 1, 1, 1])]
        assert started(place(queue, [], nodes)) == [0, 2, 3]

    def test_a_run_with_a_gpu_does_not_take_the_cores_that_one_without_waits_for(self) -> None:
        queue = [Request(1, 0, 14), Request(2, 1, 4)]
        assert place(queue, [], [node(gpus=[1, 1], busy_cpus=4)]) == []

    def test_nor_do_several_together_one_after_the_other(self) -> None:
        queue = [Request(1, 0, 12), Request(2, 1, 2), Request(3, 1, 2), Request(4, 1, 2)]
        assert started(place(queue, [], [node(gpus=[1] * 4, busy_cpus=5)])) == [2, 3]
        busy = node(gpus=[0, 0, 1, 1], busy_cpus=9, gpu_cpus=4)
        assert place([queue[0], queue[3]], [], [busy]) == []

    def test_a_run_that_waits_for_one_machine_does_not_hold_another(self) -> None:
        queue = [Request(1, 4, 1), Request(2, 1, 1)]
        nodes = [node("large", [1, 1, 1, 0]), node("small", [1])]
        assert place(queue, [], nodes) == [Start(2, "small", 1, 1)]

    def test_a_run_that_can_never_fit_holds_nobody_up(self) -> None:
        queue = [Request(1, 8, 1), Request(2, 0, 99), Request(3, 1, 1)]
        assert started(place(queue, [], [node(gpus=[1])])) == [3]

    def test_gpus_of_two_machines_are_not_added_up(self) -> None:
        assert place([Request(1, 2, 1)], [], [node("a", [1]), node("b", [1])]) == []

    def test_nothing_starts_before_a_machine_is_up(self) -> None:
        assert place([Request(1, 0, 1)], [], []) == []


class TestSeveralMachines:
    """A waiting run reserves one machine; the other machines start other runs."""

    def test_a_run_that_needs_four_gpus_is_not_given_two_and_two(self) -> None:
        nodes = [node("a", [1, 1]), node("b", [1, 1]), node("c", [0, 0, 0, 0])]
        assert place([Request(1, 4, 1)], [], nodes) == []

    def test_a_large_run_that_waits_idles_one_machine_and_not_the_cluster(self) -> None:
        nodes = [node("a", [1, 0, 0, 0]), node("b", [1, 1, 0, 0]), node("c", [1, 0, 0, 0])]
        queue = [Request(1, 4, 1), *(Request(number, 1, 1) for number in range(2, 9))]
        assert place(queue, [], nodes) == [Start(2, "a", 1, 1), Start(3, "c", 1, 1)]
        assert plan(queue, [], nodes).kept == {1: "b"}

    def test_it_keeps_the_machine_that_lacks_the_fewest_gpus_then_the_fewest_cores(self) -> None:
        nodes = [node("a", [1, 0]), node("b", [1, 1], busy_cpus=12), node("c", [1, 1], busy_cpus=10)]
        assert plan([Request(1, 2, 8)], [], nodes).kept == {1: "c"}

    def test_of_machines_that_lack_the_same_always_the_same_is_kept(self) -> None:
        nodes = [node("b", [1, 0]), node("a", [0, 1]), node("c", [1, 0])]
        assert plan([Request(1, 2, 1)], [], nodes).kept == {1: "a"}

    def test_the_next_large_run_keeps_no_machine_until_the_first_has_started(self) -> None:
        nodes = [node("a", [1, 1, 0, 0]), node("b", [1, 0, 0, 0])]
        queue = [Request(1, 4, 1), Request(2, 4, 1), Request(3, 1, 1)]
        assert place(queue, [], nodes) == [Start(3, "b", 1, 1)]
        after = [node("a", [0, 0, 0, 0]), node("b", [1, 0, 0, 0])]
        assert plan(queue[1:], [], after).kept == {2: "b"}

    def test_those_behind_keep_what_is_left_of_the_same_machine(self) -> None:
        nodes = [node("a", [0, 0, 0, 0], cpus=8), node("b", [0], cpus=8)]
        queue = [Request(1, 2, 2), Request(2, 2, 2), Request(3, 2, 2), Request(4, 0, 5), Request(5, 0, 4)]
        decided = plan(queue, [], nodes)
        assert {run: where for run, where in decided.kept.items() if run < 4} == {1: "a", 2: "a"}
        assert decided.starts == [Start(4, "b", 0, 5), Start(5, "a", 0, 4)]

    def test_a_run_without_gpu_that_waits_keeps_the_cores_of_one_machine(self) -> None:
        nodes = [node("a", cpus=16, busy_cpus=8), node("b", cpus=16, busy_cpus=4)]
        queue = [Request(1, 0, 16), Request(2, 0, 4), Request(3, 0, 12)]
        assert plan(queue, [], nodes).kept == {1: "b"}
        assert place(queue, [], nodes) == [Start(2, "a", 0, 4)]

    def test_cores_that_runs_with_gpus_hold_do_not_make_a_machine_look_farther(self) -> None:
        lent = node("a", [0, 1], cpus=16, busy_cpus=8, gpu_cpus=4)  # 4 to a run without a GPU
        full = node("b", [1, 1], cpus=16, busy_cpus=7)
        assert plan([Request(1, 0, 12)], [], [lent, full]).kept == {1: "a"}


class TestSharesOfAGPU:
    def test_four_quarters_share_one_gpu_and_leave_the_other_whole(self) -> None:
        queue = [*(Request(number, 0.25, 1) for number in range(1, 5)), Request(5, 1, 1), Request(6, 0.25, 1)]
        assert started(place(queue, [], [node(gpus=[1, 1])])) == [1, 2, 3, 4, 5]

    def test_two_halves_of_two_gpus_are_not_a_whole_one(self) -> None:
        assert place([Request(1, 1, 1)], [], [node(gpus=[0.5, 0.5])]) == []

    def test_a_share_is_never_taken_from_two_gpus(self) -> None:
        assert place([Request(1, 0.75, 1)], [], [node(gpus=[0.5, 0.5])]) == []

    def test_ten_tenths_are_a_whole(self) -> None:
        queue = [Request(number, 0.1, 0.1) for number in range(1, 12)]
        assert len(place(queue, [], [node(gpus=[1], cpus=1)])) == 10


class TestWhichMachine:
    def test_the_fullest_that_has_room_so_that_whole_machines_stay_free_for_large_runs(self) -> None:
        nodes = [node("empty", [1, 1]), node("half", [1, 0])]
        assert place([Request(1, 1, 1), Request(2, 2, 1)], [], nodes) == [
            Start(1, "half", 1, 1),
            Start(2, "empty", 2, 1),
        ]

    def test_a_run_without_gpu_goes_where_there_are_none(self) -> None:
        assert place([Request(1, 0, 1)], [], [node("a", [1]), node("b")]) == [Start(1, "b", 0, 1)]


class TestFilesThatOnlyOneRunMayWrite:
    def test_a_second_writer_waits_and_holds_nobody_up(self) -> None:
        queue = [Request(2, 1, 1, ("/x",)), Request(3, 1, 1)]
        assert started(place(queue, [Request(1, 1, 1, ("/x",))], [node(gpus=[0, 1])])) == [3]

    def test_of_two_queued_writers_the_first_starts(self) -> None:
        queue = [Request(1, 0, 1, ("/x",)), Request(2, 0, 1, ("/x",))]
        assert started(place(queue, [], [node()])) == [1]

    def test_a_later_writer_does_not_snatch_the_file_of_one_that_waits_for_gpus(self) -> None:
        queue = [Request(1, 1, 1, ("/x",)), Request(2, 0, 1, ("/x",))]
        assert place(queue, [], [node(gpus=[0])]) == []

    def test_one_that_can_never_start_does_not_keep_its_file_from_others(self) -> None:
        queue = [Request(1, 8, 1, ("/x",)), Request(2, 0, 1, ("/x",))]
        assert started(place(queue, [], [node()])) == [2]


class TestWhyARunWaits:
    NODE = node(gpus=[0], cpus=2)

    @pytest.mark.parametrize(
        ("request_", "nodes", "reason"),
        [
            (Request(9, 1, 1), [NODE], "needs 1 GPU, next in line"),
            (Request(9, 0.25, 1), [NODE], "needs 0.25 GPU, next in line"),
            (Request(9, 0, 2), [NODE], "needs 2 cores, next in line"),
            (Request(9, 4, 1), [NODE], "needs 4 GPUs, the cluster has 1: can never start"),
            (Request(9, 0, 4), [NODE], "needs 4 cores, the largest machine has 2: can never start"),
            (
                Request(9, 2, 1),
                [NODE, node("b", [1])],
                "needs 2 GPUs in one machine, the largest has 1: can never start",
            ),
            (
                Request(9, 1, 8),
                [NODE, node("b", cpus=8)],
                "needs 1 GPU and 8 cores in one machine, none has both: can never start",
            ),
            (Request(9, 0, 1), [], "no machine is up"),
        ],
    )
    def test_it_is_said_what_it_lacks(self, request_: Request, nodes: list[Node], reason: str) -> None:
        assert waiting([request_], [], nodes) == {9: reason}

    def test_it_is_said_how_many_are_ahead_not_counting_those_that_can_never_start(self) -> None:
        queue = [Request(1, 1, 1), Request(2, 8, 1), Request(3, 1, 1), Request(4, 1, 1)]
        reasons = waiting(queue, [], [self.NODE])
        assert reasons[3] == "needs 1 GPU, 1 run ahead"
        assert reasons[4] == "needs 1 GPU, 2 runs ahead"

    def test_it_is_said_which_run_writes_the_same_file(self) -> None:
        queue = [Request(4, 1, 1, ("/x",)), Request(5, 1, 1, ("/x",))]
        reasons = waiting(queue, [Request(3, 1, 1, ("/x",))], [self.NODE])
        assert reasons[4] == "waits for run 3, which writes the same files"
        assert reasons[5] == "waits for run 4, which writes the same files"


gpu_needs = st.sampled_from([0, 0, 0.1, 0.25, 0.3, 0.5, 0.75, 1, 1, 2, 4])
cpu_needs = st.sampled_from([0.5, 1, 2, 3, 4, 8, 16])
files = st.lists(st.sampled_from(["/x", "/y"]), max_size=1).map(tuple)


@st.composite
def clusters(draw: st.DrawFn, shares: Sequence[float] = (0, 0.25, 0.5, 1, 1)) -> list[Node]:
    nodes = []
    for name in "abc"[: draw(st.integers(1, 3))]:
        gpus = draw(st.lists(st.sampled_from(shares), max_size=4))
        total = draw(st.sampled_from([1, 4, 8, 16]))
        busy = draw(st.integers(0, total))
        nodes.append(node(name, gpus, total, busy_cpus=busy, gpu_cpus=draw(st.integers(0, busy))))
    return nodes


@st.composite
def requests(draw: st.DrawFn, first: int, needs: st.SearchStrategy[float] = gpu_needs) -> list[Request]:
    count = draw(st.integers(0, 8))
    return [
        Request(number, draw(needs), draw(cpu_needs), draw(files)) for number in range(first, first + count)
    ]


def can_hold(shares: tuple[float, ...], needs: Sequence[float]) -> bool:
    """Return whether free shares can serve all needs, no share from two GPUs, by trying all ways."""
    if not needs:
        return True
    need, *others = needs
    if need >= 1:
        whole = [index for index, share in enumerate(shares) if share == 1][: int(need)]
        left = tuple(0.0 if index in whole else share for index, share in enumerate(shares))
        return len(whole) == need and can_hold(left, others)
    return any(
        can_hold((*shares[:index], round(share - need, 6), *shares[index + 1 :]), others)
        for index, share in enumerate(shares)
        if share >= need
    )


def on(name: str, starts: list[Start]) -> list[Start]:
    return [start for start in starts if start.node == name]


def fits_when_empty(request: Request, where: Node) -> bool:
    return request.gpus <= where.total_gpus and request.cpus <= where.total_cpus


@given(requests(10), requests(1), clusters())
def test_no_machine_and_no_gpu_is_ever_given_out_twice(
    queue: list[Request], running: list[Request], nodes: list[Node]
) -> None:
    starts = place(queue, running, nodes)
    assert len(set(started(starts))) == len(starts)
    for each in nodes:
        here = on(each.name, starts)
        assert sum(start.cpus for start in here) <= each.cpus
        assert can_hold(each.gpus, sorted((start.gpus for start in here if start.gpus), reverse=True))


@given(requests(10), requests(1), clusters())
def test_no_two_runs_that_write_the_same_file_ever_run_together(
    queue: list[Request], running: list[Request], nodes: list[Node]
) -> None:
    chosen = set(started(place(queue, running, nodes)))
    paths = [path for request in queue if request.run_id in chosen for path in request.exclusive]
    assert len(set(paths)) == len(paths)
    assert not set(paths) & {path for request in running for path in request.exclusive}


@given(requests(10), clusters())
def test_the_first_that_must_wait_is_not_delayed_by_those_behind_it(
    queue: list[Request], nodes: list[Node]
) -> None:
    queue = [request._replace(exclusive=()) for request in queue]
    decided = plan(queue, [], nodes)
    if not decided.kept:
        return
    waiter = next(request for request in queue if request.run_id in decided.kept)
    (kept,) = (each for each in nodes if each.name == decided.kept[waiter.run_id])
    overtakers = [start for start in on(kept.name, decided.starts) if start.run_id > waiter.run_id]
    here = on(kept.name, decided.starts)
    with_gpus = sum(start.cpus for start in here if start.gpus)
    if waiter.gpus and overtakers:
        assert all(start.gpus == 0 for start in overtakers)
        assert sum(start.cpus for start in here) + waiter.cpus <= kept.cpus
    elif overtakers:  # those ahead of it, and what it needs itself, are left to runs without GPUs
        assert all(start.gpus for start in overtakers)
        assert with_gpus + kept.gpu_cpus + waiter.cpus <= kept.total_cpus


@given(requests(10), clusters())
def test_among_runs_that_need_the_same_none_overtakes_another(
    queue: list[Request], nodes: list[Node]
) -> None:
    queue = [request._replace(exclusive=()) for request in queue]
    begun = set(started(place(queue, [], nodes)))
    for needs in {(request.gpus, request.cpus) for request in queue}:
        equal = [request.run_id for request in queue if (request.gpus, request.cpus) == needs]
        assert [run in begun for run in equal] == sorted((run in begun for run in equal), reverse=True)


@given(requests(10), clusters())
def test_no_machine_that_nobody_keeps_has_room_for_a_run_that_waits(
    queue: list[Request], nodes: list[Node]
) -> None:
    queue = [request._replace(exclusive=()) for request in queue]
    decided = plan(queue, [], nodes)
    assert len({decided.kept[request.run_id] for request in queue if request.run_id in decided.kept}) <= 2
    for each in nodes:
        if each.name in decided.kept.values():
            continue
        here = on(each.name, decided.starts)
        gpus = [start.gpus for start in here if start.gpus]
        for request in queue:
            if request.run_id in started(decided.starts) or not fits_when_empty(request, each):
                continue
            without_cores = sum(start.cpus for start in here) + request.cpus > each.cpus
            in_order = [*gpus, request.gpus] if request.gpus else gpus
            assert without_cores or not packs(each.gpus, in_order)


def packs(shares: Sequence[float], needs: Sequence[float]) -> bool:
    """Return whether GPUs serve these needs in turn, each from the fullest GPU with enough free."""
    left = tuple(shares)
    for need in needs:
        whole = [index for index, share in enumerate(left) if share >= min(need, 1)]
        if len(whole) < math.ceil(need):
            return False
        chosen = sorted(whole, key=lambda index: left[index])[: math.ceil(need)]
        left = tuple(
            round(share - min(need, 1), 4) if index in chosen else share for index, share in enumerate(left)
        )
    return True


@given(requests(10, st.sampled_from([0, 1, 1, 2, 4])), clusters(shares=(0, 1)))
def test_no_gpu_is_idle_that_the_first_in_line_could_use(queue: list[Request], nodes: list[Node]) -> None:
    queue = [request._replace(cpus=0.01, exclusive=()) for request in queue]
    starts = place(queue, [], nodes)
    possible = [request for request in queue if any(fits_when_empty(request, each) for each in nodes)]
    waiter = next((request for request in possible if request.run_id not in started(starts)), None)
    for each in nodes:
        idle = sum(each.gpus) - sum(start.gpus for start in on(each.name, starts))
        assert waiter is None or idle < waiter.gpus or each.cpus < 0.01 * len(queue)


@given(requests(10), requests(1), clusters())
def test_runs_that_can_never_fit_change_nothing(
    queue: list[Request], running: list[Request], nodes: list[Node]
) -> None:
    impossible = [Request(100 + request.run_id, 9, 1, request.exclusive) for request in queue]
    mixed = [request for pair in zip(impossible, queue, strict=True) for request in pair]
    assert place(mixed, running, nodes) == place(queue, running, nodes)


@given(requests(10), requests(1), clusters(), st.randoms())
def test_the_order_in_which_machines_are_listed_does_not_matter(
    queue: list[Request], running: list[Request], nodes: list[Node], random
) -> None:
    shuffled = random.sample(nodes, len(nodes))
    assert place(queue, running, shuffled) == place(queue, running, nodes)


@given(requests(10), requests(1), clusters())
def test_every_queued_run_is_told_why_it_waits_and_never_only_if_so(
    queue: list[Request], running: list[Request], nodes: list[Node]
) -> None:
    reasons = waiting(queue, running, nodes)
    never = {number for number, reason in reasons.items() if reason.endswith("can never start")}
    assert list(reasons) == [request.run_id for request in queue]
    assert never == {
        request.run_id for request in queue if not any(fits_when_empty(request, each) for each in nodes)
    }


@settings(max_examples=50)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=20), st.integers(1, 4))
def test_gpus_are_never_idle_while_runs_wait_and_the_runs_start_in_order(
    durations: list[int], gpus: int
) -> None:
    queue = [Request(number, 1, 1) for number in range(len(durations))]
    ends: dict[int, int] = {}
    began = []
    for now in range(sum(durations) + 1):
        ends = {run: end for run, end in ends.items() if end > now}
        free = [0.0] * len(ends) + [1.0] * (gpus - len(ends))
        for start in place(queue, [Request(run, 1, 1) for run in ends], [node(gpus=free)]):
            ends[start.run_id] = now + durations[start.run_id]
            began.append(start.run_id)
        queue = [request for request in queue if request.run_id not in began]
        assert len(ends) == gpus or not queue
    assert began == list(range(len(durations)))


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), min_size=1, max_size=30))
def test_a_run_without_gpu_starts_as_soon_as_the_one_before_it_ends_however_many_with_gpus_come(
    stream: list[tuple[int, int]],
) -> None:
    queue = [Request(0, 0, 12), *(Request(number, 1, cpus) for number, (_, cpus) in enumerate(stream, 1))]
    held = {-1: Request(-1, 0, 6)}
    ends = {-1: 7, 0: 99, **dict.fromkeys(range(1, len(stream) + 1), 0)}
    for now in range(8):
        held = {number: request for number, request in held.items() if ends[number] > now}
        on_gpus = [request for request in held.values() if request.gpus]
        free = [0.0] * len(on_gpus) + [1.0] * (4 - len(on_gpus))
        busy = sum(request.cpus for request in held.values())
        where = node(gpus=free, busy_cpus=busy, gpu_cpus=sum(request.cpus for request in on_gpus))
        for start in place(queue, [], [where]):
            held[start.run_id] = next(request for request in queue if request.run_id == start.run_id)
            ends[start.run_id] = ends[start.run_id] or now + stream[start.run_id - 1][0]
        queue = [request for request in queue if request.run_id not in held]
        assert (0 in held) == (now == 7)


@dataclasses.dataclass(frozen=True)
class Held:
    """GPUs of a machine that a running run occupies, the share of each, and its CPU cores."""

    gpus: tuple[int, ...]
    share: float
    cpus: float


def after(held: Sequence[Held], total_gpus: int) -> tuple[float, ...]:
    """Return the free shares of a machine's GPUs while these runs hold theirs."""
    return tuple(
        round(1 - sum(one.share for one in held if index in one.gpus), 4) for index in range(total_gpus)
    )


def started_on(where: Node, starts: Sequence[Start]) -> list[Held]:
    """Return the starts on a machine, each on the GPUs with the least free share that is enough."""
    held: list[Held] = []
    for start in starts:
        shares = [
            round(free - sum(one.share for one in held if index in one.gpus), 4)
            for index, free in enumerate(where.gpus)
        ]
        need = min(start.gpus, 1.0)
        fitting = sorted(
            (index for index, share in enumerate(shares) if share >= need), key=shares.__getitem__
        )
        count = math.ceil(start.gpus)
        assert len(fitting) >= count
        held.append(Held(tuple(fitting[:count]), need, start.cpus))
    return held


@st.composite
def busy_machines(draw: st.DrawFn) -> tuple[list[Node], dict[str, list[Held]]]:
    """Draw up to three machines and the runs that hold parts of them."""
    nodes, runs = [], {}
    for name in "abc"[: draw(st.integers(1, 3))]:
        total_gpus, total_cpus = draw(st.integers(0, 3)), draw(st.integers(2, 8))
        held: list[Held] = []
        for _ in range(draw(st.integers(0, 4))):
            share = draw(st.sampled_from([0.0, 0.5, 1.0]))
            shares = after(held, total_gpus)
            free = [index for index, one in enumerate(shares) if one >= share]
            chosen = tuple(free[: draw(st.integers(1, 2)) if share == 1 else 1]) if share else ()
            cpus = draw(st.integers(1, 3))
            if (chosen or not share) and sum(one.cpus for one in held) + cpus <= total_cpus:
                held.append(Held(chosen, share, cpus))
        busy = sum(one.cpus for one in held)
        with_gpus = sum(one.cpus for one in held if one.gpus)
        nodes.append(
            Node(name, after(held, total_gpus), total_gpus, total_cpus - busy, total_cpus, with_gpus)
        )
        runs[name] = held
    return nodes, runs


@settings(max_examples=300)
@given(busy_machines(), requests(10, st.sampled_from([0, 0.5, 1, 2, 3])))
def test_whichever_runs_end_first_the_one_that_waits_starts_as_if_nobody_had_slipped_in(
    machines: tuple[list[Node], dict[str, list[Held]]], queue: list[Request]
) -> None:
    """By trying every set of running runs that may have ended: those that slipped in go on for ever.

    A run without a GPU waits for runs like itself: the sets in which all of those have ended are tried.
    """
    nodes, running = machines
    queue = [request._replace(exclusive=()) for request in queue]
    decided = plan(queue, [], nodes)
    for line in (True, False):
        waiter = next((one for one in queue if one.run_id in decided.kept and (one.gpus > 0) is line), None)
        if waiter is None:
            continue
        (kept,) = (each for each in nodes if each.name == decided.kept[waiter.run_id])
        here = list(
            zip(on(kept.name, decided.starts), started_on(kept, on(kept.name, decided.starts)), strict=True)
        )
        if not line:
            here = [(start, held) for start, held in here if held.gpus]
        ahead = [held for start, held in here if start.run_id < waiter.run_id]
        behind = [held for start, held in here if start.run_id > waiter.run_id]
        may_go_on = [one for one in running[kept.name] if line or one.gpus]
        for count in range(len(may_go_on) + 1):
            for going_on in itertools.combinations(may_go_on, count):
                if fits(waiter, kept, [*going_on, *ahead]):
                    assert fits(waiter, kept, [*going_on, *ahead, *behind])


def test_nobody_waits_for_a_closed_machine_where_another_one_will_do() -> None:
    closed = dataclasses.replace(node("a", cpus=4, busy_cpus=4), closed=True)
    busy = node("b", cpus=64, busy_cpus=62)
    large, small = Request(1, 0, 4), Request(2, 0, 1)
    decided = plan([large, small], [], [closed, busy])
    assert (decided.starts, decided.kept) == ([], {1: "b", 2: "b"})


def test_a_run_that_only_a_closed_machine_can_take_holds_up_nobody_but_keeps_its_files() -> None:
    closed = dataclasses.replace(node("a", cpus=64, busy_cpus=64), closed=True)
    open_one = node("b", cpus=8, busy_cpus=6)
    queue = [Request(1, 0, 32, ("/x",)), Request(2, 0, 1, ("/x",)), Request(3, 0, 4), Request(4, 0, 1)]
    decided = plan(queue, [], [closed, open_one])
    assert (decided.starts, decided.kept) == ([], {3: "b", 4: "b"})


def fits(request: Request, where: Node, held: Sequence[Held]) -> bool:
    """Return whether a run could start on a machine on which only these runs hold GPUs and cores."""
    enough = sum(share >= min(request.gpus, 1) for share in after(held, where.total_gpus))
    free = where.total_cpus - sum(one.cpus for one in held)
    return enough >= math.ceil(request.gpus) and free >= request.cpus


@settings(max_examples=100)
@given(
    st.lists(st.integers(2, 4), min_size=2, max_size=4),
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from([1, 1, 2])), min_size=1, max_size=40),
    st.integers(0, 12),
)
def test_an_endless_stream_of_small_runs_does_not_starve_a_large_one(
    sizes: list[int], small: list[tuple[int, int]], comes_at: int
) -> None:
    """Small runs for all GPUs always wait; the large run needs all those of the largest machine."""
    names = [f"host-{index}" for index in range(len(sizes))]
    large = Request(0, max(sizes), 1)
    longest = max(length for length, _ in small)
    ends: dict[int, tuple[str, float, int]] = {}  # by run: where, its GPUs, when
    numbers = itertools.count(1)
    queue: list[Request] = []
    length_of = {0: 1}
    bound = comes_at + longest * len(sizes) * (max(sizes) + 1)
    for now in range(bound + 1):
        ends = {run: held for run, held in ends.items() if held[2] > now}
        while len(queue) < sum(sizes):
            number = next(numbers)
            length_of[number], gpus = small[number % len(small)]
            queue.append(Request(number, gpus, 1))
        if now == comes_at:
            queue.insert(0, large)
        nodes = [
            node(name, [0.0] * int(held) + [1.0] * (size - int(held)))
            for name, size in zip(names, sizes, strict=True)
            for held in [sum(gpus for where, gpus, _ in ends.values() if where == name)]
        ]
        for start in place(queue, [], nodes):
            ends[start.run_id] = start.node, start.gpus, now + length_of[start.run_id]
        if 0 in ends:
            return
        queue = [request for request in queue if request.run_id not in ends]
    raise AssertionError(f"the large run waits since {comes_at} and is now, at {bound}, not started")
