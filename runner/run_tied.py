"""Run a module or a file as a program that ends when the process that started it does, however that ends.

    python run_tied.py MODULE|FILE.py [ARGUMENT]...

Stdin is a pipe whose other end the starting process alone holds: the kernel closes it with that process. This
program must lead a process group: all of the group is ended. Standard library only, so that it can be run as
a file by an interpreter that does not find this package.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    threading.Thread(target=_end_with_starter, daemon=True).start()
    del sys.argv[0]
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _end_with_starter() -> None:
    while os.read(0, 1):  # nothing is ever written; the end of the file is the end of the other process
        pass
    os.killpg(0, signal.SIGTERM)


if __name__ == "__main__":
    main()
