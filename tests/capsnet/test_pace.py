import math

import pytest

from capsnet.pace import Pace


class Clock:
    """Seconds, as the test says."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def pace(clock):
    return Pace(interval_seconds=0.5, clock=clock)


def test_it_is_time_to_yield_at_once_and_then_an_interval_after_the_last_time(pace, clock):
    assert pace.is_due()
    clock.now += 10  # the caller takes long between two steps
    pace.yielded()
    assert not pace.is_due()
    clock.now += 0.49
    assert not pace.is_due()
    clock.now += 0.01
    assert pace.is_due()


def test_images_per_second_are_those_of_training_in_this_epoch(pace, clock):
    pace.begin_epoch(earlier_seconds=0)
    assert pace.images_per_second == 0
    for _ in range(4):
        clock.now += 2
        pace.trained(100)
    clock.now += 60  # evaluation
    pace.evaluated()
    assert pace.images_per_second == 50
    pace.begin_epoch(earlier_seconds=0)
    assert pace.images_per_second == 0


def test_a_first_step_that_does_not_count_tells_nothing_of_the_speed(clock):
    pace = Pace(interval_seconds=0.5, clock=clock, first_counts=False)
    pace.begin_epoch(earlier_seconds=0)
    clock.now += 30  # compiled
    pace.trained(100)
    assert pace.images_per_second == 0
    assert math.isinf(pace.seconds_left(images=1000, evaluations=0))
    for _ in range(2):
        clock.now += 2
        pace.trained(100)
    assert pace.images_per_second == 50
    assert pace.seconds_left(images=1000, evaluations=0) == 20
    clock.now += 5
    pace.evaluated()
    assert pace.seconds_left(images=0, evaluations=1) == 5
    assert pace.epoch_seconds == 39


def test_an_epoch_that_an_earlier_process_began_counts_its_seconds(pace, clock):
    pace.begin_epoch(earlier_seconds=30)
    clock.now += 12
    assert pace.epoch_seconds == 42


def test_the_time_left_counts_evaluations_once_one_was_seen(pace, clock):
    assert math.isinf(pace.seconds_left(images=1000, evaluations=2))
    pace.begin_epoch(earlier_seconds=0)
    clock.now += 2
    pace.trained(100)
    assert pace.seconds_left(images=1000, evaluations=2) == 20
    clock.now += 3
    pace.evaluated()
    assert pace.seconds_left(images=1000, evaluations=2) == 26
    assert pace.seconds_left(images=0, evaluations=0) == 0
