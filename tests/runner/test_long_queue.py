"""Long queues: the rows that are read, the table that is shown, and placement that stays quick."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_harness import TINY, Lab

from runner.commands.situations import NEXT, RECENT, current_runs
from runner.following import looks_at_all
from runner.placement import Node, place, resolve_all
from runner.rows import NewRun, Waiting
from runner.states import State
from runner.store import Store, open_store


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    sqlite = request.param == "sqlite"
    with open_store(tmp_path / "queue.db" if sqlite else request.getfixturevalue("postgres_url")) as opened:
        yield opened


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Lab]:
    lab = Lab(tmp_path, monkeypatch, capsys)
    lab.serve(gpus=1)
    yield lab
    lab.close()


ONE = NewRun(name="one", config="num_epochs: 1\n", num_epochs=1)


def test_the_line_is_the_queue_in_its_order_with_what_placement_must_know(store: Store) -> None:
    asked = [
        dataclasses.replace(ONE, gpus=0.5, cpus=2.0, loader_workers=3, exclusive=("/x", "/y")),
        dataclasses.replace(ONE, priority=7),
        ONE,
    ]
    store.add(asked, now=1.0)
    assert store.line() == [
        Waiting(2, "auto", "auto", 0, ()),
        Waiting(1, 0.5, 2.0, 3, ("/x", "/y")),
        Waiting(3, "auto", "auto", 0, ()),
    ]
    assert [run.id for run in store.queue()] == [2, 1, 3]
    assert [run.id for run in store.queue(at_most=2)] == [2, 1]


def test_the_latest_are_those_that_ended_last_by_number(store: Store) -> None:
    store.add([ONE] * 5, now=1.0)
    for ended_at, number in enumerate((4, 2, 5, 1), start=10):
        store.ask(number, "cancel", 0.0, now=float(ended_at))
    assert [run.id for run in store.latest(3)] == [1, 2, 5]
    assert store.counts() == {**dict.fromkeys(State, 0), State.CANCELLED: 4, State.QUEUED: 1}


def test_of_a_long_queue_the_next_are_listed_and_the_rest_is_counted(lab: Lab) -> None:
    lab.submit()
    lab.start(1, gpus=1)
    lab.store.add([ONE] * (NEXT + 9), now=lab.store.now())
    lab.call("priority", NEXT + 10, 5)  # the last is the next
    for number in range(2, 6):
        lab.call("cancel", number)
    done = lab.call("queue")
    numbers = [int(line.split()[0]) for line in done.out.splitlines()[1:]]
    assert numbers == [*range(1, NEXT + 5), NEXT + 10]
    assert done.err == "5 later queued runs not shown: `python -m runner queue --all`\n"
    assert "needs 1 GPU, next in line" in done.out.splitlines()[-1]
    everything = lab.call("queue", "--all")
    assert len(everything.out.splitlines()) == 1 + NEXT + 10 and everything.err == ""


def test_json_leaves_out_no_run_that_is_unfinished(lab: Lab) -> None:
    lab.store.add([ONE] * (NEXT + RECENT + 30), now=lab.store.now())
    for number in range(1, RECENT + 11):
        lab.store.ask(number, "cancel", 0.0, lab.store.now() + number)
    listed = json.loads(lab.call("queue", "--json").out)
    assert [run["id"] for run in listed] == [*range(11, NEXT + RECENT + 31)]


def test_who_looks_at_all_sees_every_run_end_that_was_seen_unfinished(lab: Lab) -> None:
    many = RECENT + 10
    lab.store.add([ONE] * many, now=lab.store.now())
    looks = looks_at_all(lab.store)
    assert {run.id for run in next(looks)} == set(range(1, many + 1))
    for number in range(1, many + 1):  # between two looks, and more than are listed as ended
        lab.store.ask(number, "cancel", 0.0, lab.store.now())
    (last,) = looks
    assert {run.id for run in last if run.state is State.CANCELLED} == set(range(1, many + 1))


def test_what_is_current_of_a_short_queue_is_all_of_it(lab: Lab) -> None:
    lab.ended(text=TINY)
    lab.submit()
    lab.start(lab.submit())
    assert [run.id for run in current_runs(lab.store)] == [1, 2, 3]


def test_ten_thousand_runs_are_placed_by_looking_at_the_machines_for_a_few_of_them_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Looks are counted instead of timed, as a test machine may be busy; bench/cluster.py measures times."""
    from runner.room import Room

    looked = []
    admits = Room.admits
    monkeypatch.setattr(Room, "admits", lambda room, request: looked.append(request) or admits(room, request))
    line = [Waiting(number, ("auto", 1, 2, 0.5, 0)[number % 5], "auto", 4, ()) for number in range(10_000)]
    nodes = [Node(f"host-{n}", (0.0,) * 4, 4, 2.0, 32.0, 30.0) for n in range(4)]
    assert place(resolve_all(line, nodes), [], nodes) == []
    assert len(looked) < 40 * len(nodes)
