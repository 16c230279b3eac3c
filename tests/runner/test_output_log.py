"""A process's log while its disk is full, and under a locale that knows ASCII only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PRINTS = """
import resource, signal, sys
from pathlib import Path
from runner.output_log import log_to
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails as it does on a full disk
log_to(Path(sys.argv[1]))
print("before")
resource.setrlimit(resource.RLIMIT_FSIZE, (7, -1))
print("while it is full")
print("and still", file=sys.stdout)
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
print("after")
raise SystemExit(3)
"""


def test_a_full_disk_loses_output_and_says_how_much_but_ends_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    assert subprocess.run([sys.executable, "-c", PRINTS, log]).returncode == 3
    lost = len("while it is full\n") + len("and still\n")
    assert log.read_text() == f"before\n\n({lost} bytes of output were lost here)\nafter\n"


def test_characters_that_the_locale_lacks_are_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    code = (
        "import sys; from pathlib import Path; from runner.output_log import log_to\n"
        "log_to(Path(sys.argv[1])); print(f'1{chr(215)}28 {chr(0xDCFF)}')"
    )
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    assert subprocess.run([sys.executable, "-c", code, log], env=ascii_only).returncode == 0
    assert log.read_text("utf-8") == "1×28 \\udcff\n"
