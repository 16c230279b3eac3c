"""Tables for terminals of any width: values whole or absent, texts that go on below, wide characters."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsnet.commands.summary import table
from capsnet.layout import (
    ELLIPSIS,
    LONGEST_VALUE,
    Below,
    Block,
    Column,
    Fitted,
    LeaveOut,
    Shorten,
    clipped,
    fit,
    line,
    shortened,
    side_by_side,
    width_of,
    wrapped,
)
from capsnet.models import Layer

COLUMNS = [Column("ID", right=True), Column("NAME"), Column("LOSS", right=True), Column("WHY")]
GIVES_WAY = [Below("WHY"), Shorten("NAME", 8), LeaveOut("LOSS")]
ROWS = [["1", "a_long_name_of_a_run", "0.125", "waits for a machine"], ["12", "short", "", "idle"]]

SIGNS = [*"ab_ 0=/.é×数字🙂", "e\u0301"]
PRINTABLE = st.lists(st.sampled_from(SIGNS), min_size=1, max_size=60).map("".join).filter(str.strip)
TEXT = PRINTABLE.map(str.strip)


def printed(fitted: Fitted) -> list[str]:
    return [line(fitted.titles)] + [text for row in fitted.rows for text in (line(row.cells), *row.below)]


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (
            None,
            [
                "ID  NAME                   LOSS  WHY",
                " 1  a_long_name_of_a_run  0.125  waits for a machine",
                "12  short                        idle",
            ],
        ),
        (
            51,  # one cell less than the widest line
            [
                "ID  NAME                   LOSS  WHY",
                " 1  a_long_name_of_a_run  0.125",
                "    waits for a machine",
                "12  short                        idle",
            ],
        ),
        (
            25,
            [
                "ID  NAME             LOSS",
                " 1  a_long...a_run  0.125",
                "    waits for a machine",
                "12  short",
                "    idle",
            ],
        ),
        (
            18,
            [
                "ID  NAME",
                " 1  a_long...a_run",
                "  waits for a",
                "  machine",
                "12  short",
                "  idle",
            ],
        ),
    ],
)
def test_columns_give_way_step_by_step(width: int | None, lines: list[str]) -> None:
    fitted = fit(COLUMNS, ROWS, width, GIVES_WAY)
    assert printed(fitted) == lines
    assert fitted.left_out == (["LOSS"] if width == 18 else [])


def test_a_column_that_says_nothing_goes_first_and_is_not_missed() -> None:
    rows = [["1", "name", "-", "waits for a machine"], ["2", "name", "", "waits"]]
    fitted = fit(COLUMNS, rows, 30, GIVES_WAY)
    assert printed(fitted)[1] == " 1  name  waits for a machine"
    assert fitted.left_out == []
    assert "LOSS" in fit(COLUMNS, rows).titles[2]  # where there is room it stays


def test_a_table_without_rows_has_its_titles() -> None:
    assert printed(fit(COLUMNS, [])) == ["ID  NAME  LOSS  WHY"]


@given(st.integers(10, 120), st.lists(st.tuples(PRINTABLE, st.integers(0, 10**9), PRINTABLE), min_size=1))
def test_a_number_is_shown_whole_or_not_at_all(width: int, found: list[tuple[str, int, str]]) -> None:
    rows = [
        [str(place), name.strip(), str(value), why.strip()] for place, (name, value, why) in enumerate(found)
    ]
    fitted = fit(COLUMNS, rows, width, GIVES_WAY)
    titles = [title.strip() for title in fitted.titles]
    for row, shown in zip(rows, fitted.rows, strict=True):
        cells = dict(zip(titles, map(str.strip, shown.cells), strict=True))
        assert cells["ID"] == row[0]
        assert ("LOSS" in fitted.left_out) is ("LOSS" not in cells)
        assert cells.get("LOSS", row[2]) == row[2]
        assert cells["NAME"] == row[1] or ELLIPSIS in cells["NAME"]
        why = cells.get("WHY", "") + "".join(shown.below)
        assert why.replace(" ", "") == row[3].replace(" ", "")
    if width >= 24:  # what is left when everything has given way
        assert max(map(width_of, printed(fitted))) <= width


@pytest.mark.parametrize(
    ("text", "cells"),
    [("", 0), ("abc", 3), ("14×14", 5), ("数字", 4), ("e\u0301", 1), ("🙂", 2), ("ロa", 3)],
)
def test_width_is_in_cells(text: str, cells: int) -> None:
    assert width_of(text) == cells


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("fits", 4, ["fits"]),
        ("needs 1 GPU, next", 12, ["needs 1 GPU,", "next"]),
        ("  indented text", 10, ["  indented", "  text"]),
        ("数字 を 学習", 5, ["数字", "を", "学習"]),
        ("数字数字", 5, ["数字", "数字"]),  # two characters are four cells, three would be six
        ("optim.learning_rate=0.0001234", 12, ["optim", ".learning_", "rate=", "0.0001234"]),
        ("/data/sets/mnist", 11, ["/data/sets/", "mnist"]),
        ("epochs=32/150,of=10,000", 12, ["epochs=", "32/150,of=", "10,000"]),  # in no number
        ("abcdefgh", 3, ["abc", "def", "gh"]),
        ("数", 1, ["数"]),  # which no line of one cell can hold
    ],
)
def test_a_text_is_broken_between_words_and_a_long_word_where_one_reads_on(
    text: str, width: int, lines: list[str]
) -> None:
    assert wrapped(text, width) == lines


@given(PRINTABLE, st.integers(2, 40))
def test_a_broken_text_fits_and_loses_nothing(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert max(map(width_of, lines)) <= width
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("mnist_3iter", 11, "mnist_3iter"),
        ("mnist_3iter_no_reconstruction", 16, "mnist_3...uction"),
        ("手書き数字の名前", 11, "手書...名前"),
        ("手書き数字の名前", 10, "手書...前"),  # one cell is left, which half a character cannot fill
        ("e\u0301" * 10, 9, "e\u0301" * 3 + "..." + "e\u0301" * 3),
    ],
)
def test_a_name_loses_its_middle(text: str, width: int, short: str) -> None:
    assert shortened(text, width) == short
    assert width_of(short) <= width


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("loss is nan at step 117", 23, "loss is nan at step 117"),
        ("loss is nan at step 1175", 23, "loss is nan at step ..."),
        ("loss is nan at step 117", 18, "loss is nan at ..."),
        ("no such file: /" + "x" * 60, 40, "no such file: /" + "x" * 22 + "..."),
    ],
)
def test_a_sentence_loses_its_last_words(text: str, width: int, short: str) -> None:
    assert clipped(text, width) == short
    assert width_of(short) <= width


def lines_of(blocks: list[Block]) -> list[list[str]]:
    return [[line(block.titles), *map(line, block.lines)] for block in blocks]


COMPARED = [Column("RUN"), Column("3"), Column("5"), Column("8")]
DIFFERENCES = [
    ["state", "FINISHED", "FINISHED", "RUNNING"],
    ["  lr", "0.001", "0.0005", "0.002"],
    ["  computes", "float32 on the CPU", "tf32 on the GPU", "-"],
]


@pytest.mark.parametrize(
    ("width", "blocks"),
    [
        (
            60,
            [
                [
                    "RUN         3                   5                8",
                    "state       FINISHED            FINISHED         RUNNING",
                    "  lr        0.001               0.0005           0.002",
                    "  computes  float32 on the CPU  tf32 on the GPU  -",
                ]
            ],
        ),
        (
            44,
            [
                [
                    "RUN         3            5           8",
                    "state       FINISHED     FINISHED    RUNNING",
                    "  lr        0.001        0.0005      0.002",
                    "  computes  float32 on   tf32 on     -",
                    "            the CPU      the GPU",
                ]
            ],
        ),
        (
            32,
            [
                [
                    "RUN         3          5",
                    "state       FINISHED   FINISHED",
                    "  lr        0.001      0.0005",
                    "  computes  float32    tf32 on",
                    "            on the     the GPU",
                    "            CPU",
                ],
                [
                    "RUN         8",
                    "state       RUNNING",
                    "  lr        0.002",
                    "  computes  -",
                ],
            ],
        ),
    ],
)
def test_columns_that_all_matter_go_on_in_further_blocks(width: int, blocks: list[list[str]]) -> None:
    assert lines_of(side_by_side(COMPARED, DIFFERENCES, width)) == blocks
    assert len(side_by_side(COMPARED, DIFFERENCES)) == 1


@given(
    st.integers(46, 120),
    st.lists(st.tuples(PRINTABLE, st.floats(), st.integers(), PRINTABLE), min_size=1, max_size=5),
)
def test_a_value_beside_others_stays_in_one_line(width: int, rows: list[tuple[str, float, int, str]]) -> None:
    texts = [[key, f"{loss:.6g}", str(seed)[:LONGEST_VALUE], text] for key, loss, seed, text in rows]
    blocks = side_by_side(COMPARED, texts, width)
    for lines in lines_of(blocks):
        assert max(map(width_of, lines)) <= width
    cells = [cell.strip() for block in blocks for cell in chain(*block.lines)]
    assert {cell for row in texts for cell in row[1:3]} <= set(cells)


def test_the_layers_of_a_network_on_a_narrow_terminal() -> None:
    layers = [
        Layer("primary", "PrimaryMatrixCapsules", (14, 14, 32, 17), 17_952),
        Layer("classes", "MatrixCapsules", (1, 1, 5, 17), 2_570),
    ]
    assert table(layers, 60).splitlines()[1] == "primary  PrimaryMatrixCapsules  14×14×32×17      17,952"
    assert table(layers, 40).splitlines() == [
        "layer    output       parameters",
        "primary  14×14×32×17      17,952",
        "classes  1×1×5×17          2,570",
        "total                     20,522",
        "too narrow for kind: a wider terminal shows more",
    ]
