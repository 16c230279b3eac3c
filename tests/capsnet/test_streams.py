"""Standard streams that are closed, full, or take ASCII only, of real processes."""

import os
import subprocess
import sys

import pytest

from capsnet.streams import CLOSED

PREPARED = "from capsnet import streams\nassert streams.prepare() is None\n"


def python(code, *words, redirected="", **variables):
    """Run Python code, or a module's words, by a shell that redirects as said."""
    command = [
        "sh",
        "-c",
        f'exec "$@" {redirected}',
        "sh",
        sys.executable,
        *(["-c", code] if code else words),
    ]
    environment = {**os.environ, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("program", ["capsnet", "runner"])
def test_with_closed_standard_output_a_program_says_so_in_one_line_and_does_nothing(
    tmp_path, monkeypatch, program
):
    monkeypatch.chdir(tmp_path)
    words = {"capsnet": ("train", "tiny.yaml"), "runner": ("up",)}[program]
    done = python(None, "-m", program, *words, redirected=">&-")
    assert done.returncode == 2
    assert done.stderr.removeprefix("error: ") == f"{CLOSED}\n"
    assert list(tmp_path.iterdir()) == []


def test_closed_streams_get_no_number_that_a_file_would_take(tmp_path):
    code = f"{PREPARED}import sys\nwith open('file', 'w') as file: print(file.fileno(), sys.stdin.read())"
    done = python(f"import os; os.chdir({str(tmp_path)!r})\n{code}", redirected="<&- 2>&-")
    assert done.returncode == 0
    assert int(done.stdout) > 2


def test_characters_that_the_encoding_lacks_are_replaced():
    done = python(f"{PREPARED}print('1×28×28 \\udcff')", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "1?28?28 ?\n")


@pytest.mark.slow
def test_a_network_is_summed_up_on_a_terminal_that_knows_ascii_only(tmp_path):
    (tmp_path / "tiny.yaml").write_text("dataset: {name: digits}\nmodel: {conv_channels: 8}\n")
    words = ("-m", "capsnet", "summary", str(tmp_path / "tiny.yaml"))
    done = python(None, *words, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("tiny: images 1?28?28, 10 classes\n")


def test_output_that_finds_no_room_is_one_line_and_python_adds_nothing_at_its_end():
    code = f"{PREPARED}import sys\nprint('x')\nprint(streams.flushed(), file=sys.stderr)"
    done = python(code, redirected=">/dev/full", PYTHONUNBUFFERED="")
    line = "standard output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (0, line)
