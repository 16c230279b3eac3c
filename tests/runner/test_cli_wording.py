"""How ages, durations and sizes are written and read."""

from __future__ import annotations

import pytest

from runner import wording


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m 00s"),
        (185, "3m 05s"),
        (3_599.7, "1h 00m"),
        (7_810, "2h 10m"),
        (100 * 3_600, "4d 4h"),
        (-3, "0s"),
        (None, "-"),
        (float("nan"), "-"),
        (float("inf"), "-"),
    ],
)
def test_a_duration_shows_its_two_leading_units(seconds: float | None, text: str) -> None:
    assert wording.duration(seconds) == text


def test_an_age_shows_one_unit_and_a_clock_that_was_set_back_shows_none_below_zero() -> None:
    assert wording.age(1_000.0, 1_185.0) == "3m"
    assert wording.age(1_000.0, 990.0) == "0s"
    assert wording.age(None, 990.0) == "-"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30d", 2_592_000), ("12h", 43_200), ("1.5m", 90), ("90s", 90), ("7", 7), ("2w", 1_209_600)],
)
def test_a_duration_is_read_with_its_unit(text: str, seconds: float) -> None:
    assert wording.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "-3d", "3 years", "1e3", "nan"])
def test_what_is_no_duration_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration: write 90s") as refusal:
        wording.parse_duration(text)
    assert "\n" not in str(refusal.value)


def test_sizes_and_shares_and_counts_read_as_people_write_them() -> None:
    assert wording.megabytes(1_250_000) == "1.2 MB"
    assert wording.megabytes(131_000_000) == "131 MB"
    assert wording.megabytes(2_500_000_000) == "2,500 MB"
    assert wording.percent(0.98765) == "98.77%"
    assert wording.percent(None) == "-"
    assert wording.plural(1, "run") == "1 run"
    assert wording.plural(0, "run") == "0 runs"
    assert wording.listed([4]) == "4"
    assert wording.listed([1, 2, 5]) == "1, 2 and 5"
    assert wording.listed(list(range(1, 1001))) == "1, 2, 3, ... (1000 in all)"
    assert wording.listed([]) == "none"


def test_where_an_attempt_began_is_said_as_far_as_it_is_known() -> None:
    assert wording.beginning(2, 20) == "from epoch 3, step 20"
    assert wording.beginning(0, 20) == "from epoch 1, step 20"
    assert wording.beginning(0, 0) == "from the beginning"
    assert wording.beginning(None, None) == ""
