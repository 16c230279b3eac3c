"""The tables of `queue`, `watch`, `compare`, `status` on terminals of 40 to 200 columns, and without one."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from itertools import pairwise

import pytest
from cli_harness import TINY, Lab
from hypothesis import given
from hypothesis import strategies as st
from patience import wait_until

from capsnet.layout import ELLIPSIS, LeaveOut, fit, line, width_of
from runner.commands.listing import COLUMNS, GIVES_WAY
from runner.commands.services import machine_lines
from runner.rows import Machine
from runner.states import State
from runner.views import frame

WIDTHS = (40, 62, 80, 100, 200)
TITLES = [column.title for column in COLUMNS]
TEXTS = ("NAME", "CHANGES", "NOTE")  # what may be shortened or go on below; all other cells are values

LONG_NAME = "mnist_3iter_no_reconstruction"
LONGER_NAME = "a_name_that_goes_on_" * 5
ROWS = [
    ["7", LONG_NAME, "FINISHED", "32/32", "99.51%", "gpu 0", "", "2h", "", ""],
    ["8", "sweep", "RUNNING", "15/150", "98.00%", "gpu 1", "51s", "3m", "seed=2 optim.lr=0.002", "starting"],
    [
        "19",
        LONGER_NAME,
        "QUEUED",
        "0/150",
        "-",
        "auto",
        "",
        "40s",
        "dataset.root=/データ/手書き",
        "needs 1 GPU",
    ],
    ["120", "sweep", "QUEUED", "0/1000", "-", "2", "", "9s", "seed=3", "needs 999 cores: can never start"],
]

SHOWN = {
    40: """\
RUN  NAME               STATE      EPOCH
  7  mnist_3...ruction  FINISHED   32/32
  8  sweep              RUNNING   15/150
     seed=2 optim.lr=0.002
     starting
 19  a_name_...oes_on_  QUEUED     0/150
     dataset.root=/データ/手書き
     needs 1 GPU
120  sweep              QUEUED    0/1000
     seed=3
     needs 999 cores: can never start
""",
    62: """\
RUN  NAME              STATE      EPOCH  ACCURACY  GPU    LEFT
  7  mnist_3...uction  FINISHED   32/32    99.51%  gpu 0
  8  sweep             RUNNING   15/150    98.00%  gpu 1   51s
     seed=2 optim.lr=0.002
     starting
 19  a_name_...es_on_  QUEUED     0/150         -  auto
     dataset.root=/データ/手書き
     needs 1 GPU
120  sweep             QUEUED    0/1000         -  2
     seed=3
     needs 999 cores: can never start
""",
    80: """\
RUN  NAME                           STATE      EPOCH  ACCURACY  GPU    LEFT  AGE
  7  mnist_3iter_no_reconstruction  FINISHED   32/32    99.51%  gpu 0         2h
  8  sweep                          RUNNING   15/150    98.00%  gpu 1   51s   3m
     seed=2 optim.lr=0.002
     starting
 19  a_name_that_g...that_goes_on_  QUEUED     0/150         -  auto         40s
     dataset.root=/データ/手書き
     needs 1 GPU
120  sweep                          QUEUED    0/1000         -  2             9s
     seed=3
     needs 999 cores: can never start
""",
    100: """\
RUN  NAME                              STATE      EPOCH  ACCURACY  GPU    LEFT  AGE  NOTE
  7  mnist_3iter_no_reconstruction     FINISHED   32/32    99.51%  gpu 0         2h
  8  sweep                             RUNNING   15/150    98.00%  gpu 1   51s   3m  starting
     seed=2 optim.lr=0.002
 19  a_name_that_goe..._that_goes_on_  QUEUED     0/150         -  auto         40s  needs 1 GPU
     dataset.root=/データ/手書き
120  sweep                             QUEUED    0/1000         -  2             9s
     seed=3
     needs 999 cores: can never start
""",
}


def queue_table(width: int | None) -> list[str]:
    fitted = fit(COLUMNS, ROWS, width, GIVES_WAY)
    return [line(fitted.titles)] + [text for row in fitted.rows for text in (line(row.cells), *row.below)]


@pytest.mark.parametrize("width", SHOWN)
def test_the_queue_on_a_narrow_terminal(width: int) -> None:
    assert queue_table(width) == SHOWN[width].splitlines()


def test_the_queue_on_a_wide_terminal_has_all_columns_and_only_very_long_names_lose_their_middle() -> None:
    titles, *rows = queue_table(200)
    assert titles.split() == TITLES
    assert len(rows) == len(ROWS)
    whole = [row for row in ROWS if row[1] != LONGER_NAME]
    shown = [re.split("  +", text.strip()) for text in rows if ELLIPSIS not in text]
    assert shown == [[cell for cell in row if cell] for row in whole]


def test_without_a_terminal_each_run_is_one_line_with_everything() -> None:
    titles, *rows = queue_table(None)
    assert titles.split() == TITLES
    shown = [re.split("  +", text.strip()) for text in rows]
    assert shown == [[cell for cell in row if cell] for row in ROWS]


TEXT = st.lists(st.sampled_from([*"ab_ 01=.数字🙂", "e\u0301"]), max_size=60).map("".join).map(str.strip)
VALUES = {
    "RUN": st.integers(1, 10**6).map(str),
    "STATE": st.sampled_from(list(State)).map(str),
    "EPOCH": st.tuples(st.integers(0, 10**4), st.integers(1, 10**4)).map("{0[0]}/{0[1]}".format),
    "ACCURACY": st.floats(0, 1).map("{:.2%}".format) | st.just("-"),
    "GPU": st.sampled_from(["auto", "cpu", "-", "gpu 0,1,2,3", "0.5"]),
    "LEFT": st.sampled_from(["", "51s", "3m 05s", "11h 10m", "4d 3h"]),
    "AGE": st.sampled_from(["51s", "3m", "150d"]),
}


@given(
    st.sampled_from(WIDTHS) | st.integers(10, 250),
    st.lists(st.tuples(*(VALUES.get(title, TEXT) for title in TITLES)).map(list), min_size=1, max_size=6),
)
def test_each_value_that_a_terminal_shows_is_the_whole_value(width: int, rows: list[list[str]]) -> None:
    fitted = fit(COLUMNS, rows, width, GIVES_WAY)
    titles = [title.strip() for title in fitted.titles]
    for row, shown in zip(rows, fitted.rows, strict=True):
        full = dict(zip(TITLES, row, strict=True))
        cells = dict(zip(titles, map(str.strip, shown.cells), strict=True))
        assert {title: cells[title] for title in titles if title not in TEXTS} == {
            title: full[title] for title in titles if title not in TEXTS
        }
        assert "NAME" not in cells or cells["NAME"] == full["NAME"] or ELLIPSIS in cells["NAME"]
        texts = "".join([cells.get("CHANGES", ""), cells.get("NOTE", ""), *shown.below]).replace(" ", "")
        assert sorted(texts) == sorted((full["CHANGES"] + full["NOTE"]).replace(" ", "").replace("-", ""))
    missing = {title for title in VALUES if title not in titles} - set(fitted.left_out)
    for title in missing:  # an empty column is left out without a notice
        assert {row[TITLES.index(title)] for row in rows} <= {"", "-"}
    if width >= 40:
        lines = [line(fitted.titles)] + [line(row.cells) for row in fitted.rows]
        assert max(map(width_of, [*lines, *(text for row in fitted.rows for text in row.below)])) <= width


def test_the_help_of_queue_states_the_order_in_which_columns_are_left_out(lab: Lab) -> None:
    told = " ".join(lab.call("queue", "--help").out.split()).partition("too narrow")[2]
    order = [step.title for step in GIVES_WAY if isinstance(step, LeaveOut)]
    places = [told.index(f" {title}") for title in ("NOTE", "CHANGES", *order)]
    assert all(before < after for before, after in pairwise(places))


class Terminal(io.StringIO):
    """A standard output that is a terminal which shows plain text."""

    def isatty(self) -> bool:
        return True


def on_a_terminal(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, width: int, *words: object
) -> tuple[list[str], str]:
    """The lines that a command prints on a terminal of this width, and its hints."""
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", str(width))
    with monkeypatch.context() as context:
        context.setattr(sys, "stdout", terminal := Terminal())
        done = lab.call(*words)
    return terminal.getvalue().splitlines(), done.err


@pytest.fixture
def sweep(lab: Lab) -> Lab:
    """A run that has finished, one that runs, one that waits; of a long name, with settings."""
    text = TINY + f"name: {LONG_NAME}\n"
    lab.serve(gpus=1)
    lab.ended(accuracy=0.9951, text=text)
    lab.call("submit", lab.file(text=text), "--set", "seed=2", "--set", "optim.lr=0.002")
    lab.start(2, gpus=1)
    lab.report(
        2, epoch=3, step=1, steps_per_epoch=4, loss=0.5, accuracy=0.5, seconds_left=51.0, devices=("0",)
    )
    lab.submit(text + "runner: {cpus: 999}\n")
    return lab


@pytest.mark.parametrize("width", WIDTHS)
def test_queue_prints_no_line_that_is_too_wide_and_says_what_it_leaves_out(
    sweep: Lab, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    lines, hints = on_a_terminal(sweep, monkeypatch, width, "queue")
    assert max(map(width_of, lines)) <= width
    left_out = [title for title in ("AGE", "GPU", "LEFT", "ACCURACY") if title not in lines[0]]
    told = re.findall(r"too narrow for (.*): a wider terminal or `python -m runner queue --json`", hints)
    assert told == ([", ".join(left_out)] if left_out else [])
    text = " ".join(" ".join(lines).split())
    assert "needs 999 cores, the largest machine has 2: can never start" in text
    assert "10/10" in text and "2.2/10" in text
    if "LEFT" not in left_out:
        assert " 51s " in text


def test_in_a_pipe_columns_of_the_environment_cut_nothing(
    sweep: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sweep.call("queue")
    monkeypatch.setenv("COLUMNS", "40")
    narrow = sweep.call("queue")
    assert len(narrow.out.splitlines()) == 4
    assert narrow.err == ""
    assert re.sub(r"\d+s", "", narrow.out) == re.sub(r"\d+s", "", whole.out)


def test_compare_goes_on_in_further_blocks(sweep: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, _ = on_a_terminal(sweep, monkeypatch, 40, "compare", "1-3")
    assert max(map(width_of, lines)) <= 40
    assert [text.split() for text in lines if text.startswith("RUN")] == [
        ["RUN", "1"],
        ["RUN", "2"],
        ["RUN", "3"],
    ]
    assert [text.split()[1] for text in lines if text.startswith("  optim.lr")] == ["0.001", "0.002", "0.001"]
    wide, _ = on_a_terminal(sweep, monkeypatch, 200, "compare", "1-3")
    assert ["optim.lr", "0.001", "0.002", "0.001"] in [text.split() for text in wide]


def test_the_hosts_of_a_cluster_on_a_narrow_terminal() -> None:
    hosts = [
        Machine(name="ip-10-0-0-12.example.internal", gpus=8, cpus=96, leaving=True),
        Machine(name="b", gpus=0, cpus=2, leaving=False),
    ]
    assert (
        machine_lines(hosts)[1] == "  ip-10-0-0-12.example.internal  8 GPUs  96 cores  nothing starts there"
    )
    assert machine_lines(hosts, 40) == [
        "hosts",
        "  ip-10-0-0...internal  8 GPUs  96 cores",
        "    nothing starts there",
        "  b                     0 GPUs   2 cores",
    ]


def test_a_frame_of_watch_is_no_higher_than_the_terminal(sweep: Lab) -> None:
    runs = [sweep.run(number) for number in (1, 2, 3)]
    rows = {run.id: row for run, row in zip(runs, ROWS[:3], strict=True)}
    for width in WIDTHS:
        whole = frame(runs, rows, width, 99)
        for height in range(1, len(whole) + 2):
            lines = frame(runs, rows, width, height)
            assert len(lines) <= height
            assert max(width_of(line(cells)) for cells in lines) <= width
        assert frame(runs, rows, width, len(whole)) == whole


def test_a_frame_shows_what_runs_and_says_how_many_runs_it_leaves_out(sweep: Lab) -> None:
    runs = [sweep.run(number) for number in (1, 2, 3)]
    rows = {run.id: row for run, row in zip(runs, ROWS[:3], strict=True)}
    lines = [line(cells) for cells in frame(runs, rows, 80, 5)]
    assert [text.split()[0] for text in lines[:2]] == ["RUN", "8"]
    assert lines[-1] == "2 more runs: `python -m runner queue` lists them"


def after_resizing(lab: Lab, *words: object, drawn: bytes, drawn_anew: bytes) -> str:
    """Return what a command draws after its terminal shrinks from 100 columns and 30 lines to 50 and 10."""
    ours, theirs = pty.openpty()
    resize(ours, columns=100, lines=30)
    plain = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    environ = {**plain, "TERM": "xterm-256color"}
    shown = bytearray()

    def draws(pattern: bytes) -> bool:
        shown.extend(os.read(ours, 1 << 16))
        return re.search(pattern, shown, re.DOTALL) is not None

    command = lab.command(*words)
    with subprocess.Popen(command, env=environ, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        try:
            wait_until(lambda: draws(drawn), "the first picture")
            shown.clear()
            resize(ours, columns=50, lines=10)
            wait_until(lambda: draws(drawn_anew), "the picture of another size")
        finally:
            process.kill()
    os.close(ours)
    return shown.decode()


def resize(terminal: int, columns: int, lines: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


def test_watch_draws_the_whole_screen_anew_when_the_terminal_has_another_size(sweep: Lab) -> None:
    shown = after_resizing(sweep, "watch", drawn=b"AGE.*can never start", drawn_anew=rb"\x1b\[2J.*more run")
    last = shown.rpartition("\x1b[2J")[2]
    lines = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", last).replace("\r", "").split("\n")
    assert len(lines) < 10
    assert max(map(width_of, lines)) <= 50
    assert "2.2/10" in last


def test_a_bar_leaves_nothing_of_itself_behind_when_the_terminal_becomes_narrower(sweep: Lab) -> None:
    line_above = r"\x1b\[2K\x1b\[1A"
    shown = after_resizing(
        sweep,
        *("watch", 2),
        drawn=b"loss 0.5000  accuracy 50.00%  0 images/s  0:51 left",
        drawn_anew=line_above.encode() + b".*0:51 left",
    )
    assert len(re.findall(line_above, shown)) == 1
    last = re.split(line_above, shown)[1]
    assert "accuracy 50.00%  0:51 left" in last and "loss" not in last and "…" not in last
