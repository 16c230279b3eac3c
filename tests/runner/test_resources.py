"""Free GPUs and cores of machines, given the queue's bookings and Ray's figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runner.cluster import Machine
from runner.resources import Booking, nodes


def machine(gpus: float = 4, free_gpus: float | None = None, cpus: float = 8, free: float = 8) -> Machine:
    return Machine("m", "host", gpus, cpus, gpus if free_gpus is None else free_gpus, free)


def shares(having: Machine, *bookings: Booking) -> tuple[float, ...]:
    (node,) = nodes([having], bookings)
    return node.gpus


def test_a_machine_without_bookings_is_free() -> None:
    (node,) = nodes([machine()], [])
    assert (node.gpus, node.total_gpus, node.cpus, node.total_cpus) == ((1, 1, 1, 1), 4, 8, 8)


def test_a_booking_counts_before_ray_shows_it() -> None:
    assert shares(machine(), Booking("m", 2, 1)) == (0, 0, 1, 1)


def test_a_booking_takes_the_gpus_that_its_worker_named() -> None:
    assert shares(machine(), Booking("m", 1, 1, ("2",))) == (1, 1, 0, 1)


def test_fractions_share_a_gpu_as_ray_packs_them() -> None:
    quarter = Booking("m", 0.25, 1)
    assert shares(machine(2), quarter, quarter) == (0.5, 1)


def test_what_somebody_else_holds_is_taken_off_whole_gpus() -> None:
    assert sorted(shares(machine(4, free_gpus=2), Booking("m", 1, 1, ("0",)))) == [0, 0, 1, 1]


def test_ray_figures_that_lag_behind_an_end_do_not_free_what_is_booked() -> None:
    assert sum(shares(machine(4, free_gpus=4), *[Booking("m", 1, 1)] * 4)) == 0


def test_cores_are_the_smaller_of_both_accounts() -> None:
    (node,) = nodes([machine(free=3)], [Booking("m", 0, 2)])
    assert node.cpus == 3
    (node,) = nodes([machine(free=8)], [Booking("m", 0, 6)])
    assert node.cpus == 2


def test_the_cores_of_runs_with_gpus_are_known_apart() -> None:
    (node,) = nodes([machine()], [Booking("m", 0, 3), Booking("m", 1, 2), Booking("m", 0.5, 1)])
    assert (node.cpus, node.gpu_cpus) == (2, 3)


@pytest.mark.parametrize("elsewhere", ["other", ""])
def test_bookings_of_other_machines_do_not_count(elsewhere: str) -> None:
    assert sum(shares(machine(), Booking(elsewhere, 4, 1))) == 4


def test_a_machine_that_leaves_or_is_avoided_has_nothing_free_and_still_counts() -> None:
    for found in (nodes([replace(machine(), leaving=True)], []), nodes([machine()], [], closed={"m"})):
        (node,) = found
        assert (node.gpus, node.cpus) == ((0, 0, 0, 0), 0)
        assert (node.total_gpus, node.total_cpus) == (4, 8)
        assert node.closed
