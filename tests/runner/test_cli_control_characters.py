"""Control characters of configurations, files and logs never reach a terminal raw."""

from __future__ import annotations

import os
import pty
import subprocess

import pytest
from cli_harness import Done, Lab
from patience import PATIENCE

from runner import exits
from runner.states import State

CLEAR = "\x1b[2J"
EVIL = """
dataset: {name: digits}
num_epochs: 10
runner:
  tags: {a: "\\e[2J\\u202e"}
"""


def on_a_terminal(lab: Lab, *words: object) -> Done:
    """Run a command whose stdout and stderr are a terminal; its output is what the terminal gets."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(
        lab.command(*words), stdin=theirs, stdout=theirs, stderr=theirs, env=environ
    ) as process:
        os.close(theirs)
        pieces = []
        try:
            while piece := os.read(ours, 1 << 16):
                pieces.append(piece)
        except OSError:  # the last process that had the terminal open has ended
            pass
        code = process.wait(PATIENCE)
    os.close(ours)
    return Done(code, b"".join(pieces).decode(), "")


def failed(lab: Lab) -> None:
    """A run of a file with such a name, with such a tag, that failed for such a reason."""
    assert lab.call("submit", lab.file(f"{CLEAR}.yaml", EVIL)).code == exits.OK
    lab.start(1)
    lab.end(1, State.FAILED, f"loss{CLEAR} is nan")


def assert_harmless(printed: str) -> None:
    assert CLEAR not in printed
    assert "\u202e" not in printed
    assert r"\x1b[2J" in printed


@pytest.mark.parametrize(
    "words", [("queue",), ("show", 1), ("show", 1, "--json"), ("watch", 1), ("wait", 1), ("rm", 1)]
)
def test_what_a_configuration_and_a_reason_hold_is_shown_escaped(lab: Lab, words: tuple[str, ...]) -> None:
    failed(lab)
    done = lab.call(*words)
    printed = done.out + done.err
    assert CLEAR not in printed and "\u202e" not in printed
    assert words[0] == "rm" or r"\x1b[2J" in printed or r"\u001b[2J" in printed


@pytest.mark.parametrize("words", [("queue",), ("watch", 1)])
def test_so_it_is_on_a_terminal_with_colours(lab: Lab, words: tuple[str, ...]) -> None:
    failed(lab)
    assert_harmless(on_a_terminal(lab, *words).out)


@pytest.mark.parametrize(
    "words", [("submit", f"{CLEAR}.yaml"), (f"{CLEAR}",), ("show", CLEAR), ("priority", 1, CLEAR)]
)
def test_a_command_line_that_is_wrong_is_quoted_escaped(lab: Lab, words: tuple[str, ...]) -> None:
    done = lab.call(*words)
    assert done.code == exits.USAGE
    assert CLEAR not in done.err and (r"\x1b[2J" in done.err or words[0] == "priority")


PRINTED = b"\x1b[31mred\x1b[0m\n10%\r20%\r\n\x1b]0;title\x07caf\xc3\xa9\xff\n"


def with_log(lab: Lab) -> None:
    number = lab.ended()
    log = lab.home.run(number, "tiny").attempt(1).log
    log.parent.mkdir(parents=True)
    log.write_bytes(PRINTED)


def test_a_log_is_plain_text_on_a_terminal(lab: Lab) -> None:
    with_log(lab)
    printed = on_a_terminal(lab, "logs", 1).out.replace("\r\n", "\n")  # as a terminal is given its lines
    assert printed == "red\n10%\n20%\n\\x1b]0;title\\x07café\\xff\n"


def test_a_program_gets_a_log_as_it_is(lab: Lab) -> None:
    with_log(lab)
    done = subprocess.run(lab.command("logs", 1), capture_output=True, timeout=PATIENCE)
    assert done.stdout == PRINTED
