"""Text from configurations and files, as a terminal may show it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsnet import cli
from capsnet.printable import LINES, printable

CLEAR = "\x1b[2J"


@given(st.text())
def test_whatever_a_text_holds_a_terminal_shows_all_of_it_and_obeys_nothing(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown.isascii() or not text.isascii()


@given(st.text(st.characters(exclude_categories=["C", "Z"])))
def test_ordinary_text_stays(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"a{CLEAR}b", r"a\x1b[2Jb"),
        ("one\rtwo", r"one\rtwo"),
        ("\x9b2J", r"\x9b2J"),  # the same as ESC [ in one C1 character
        ("epoch\u202e3", r"epoch\u202e3"),  # right-to-left override
        ("a\u2066b\u200bc", r"a\u2066b\u200bc"),
        ("\udcff", r"\udcff"),  # a byte that is no UTF-8, as in file names
        ("one\ntwo\t3", r"one\ntwo\t3"),
    ],
)
def test_a_character_that_a_terminal_obeys_is_shown_as_python_writes_it(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_lines_stay_lines_where_several_are_printed() -> None:
    assert printable(f"one\n\ttwo{CLEAR}", LINES) == "one\n\ttwo\\x1b[2J"


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", f"{CLEAR}.yaml"],
        ["summary", "named.yaml"],
        ["evaluate", f"out/{CLEAR}"],
        ["perturb", f"out/{CLEAR}"],
        [f"te{CLEAR}st"],
        ["train", "named.yaml", f"--{CLEAR}"],
    ],
)
def test_no_command_prints_control_characters_of_names(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("named.yaml").write_text('name: "\\e[2J"\ndataset: {name: digits}\n')
    with contextlib.suppress(SystemExit):
        cli.main(arguments)
    printed = "".join(capsys.readouterr())
    assert "\x1b" not in printed
    assert r"\x1b[2J" in printed
