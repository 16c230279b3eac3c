"""Processes that stand for a local Ray's: they start, name an address and can be lost, in milliseconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import psutil
import pytest

from runner import local_ray

# A Ray outlives the process that starts it.
ALLOWED = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

ADDRESS = "127.0.0.1:1"
# Replaces `ray start`: it makes its folder, starts a raylet and, when that has an agent, names its
# address. It has a worker, too, and does not end what it has started.
START = """
import pathlib, subprocess, sys, time
folder = pathlib.Path(sys.argv[-1].partition("=")[2])
folder.mkdir()
folder.chmod(0o777)
raylet = subprocess.Popen([sys.argv[1]])
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
while not pathlib.Path(f"/proc/{raylet.pid}/task/{raylet.pid}/children").read_text(): time.sleep(0.01)
while not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.01)
part = folder / "part"
part.write_text(sys.argv[3])
part.rename(folder / "ray_current_cluster")
time.sleep(600)
"""
RAYLET = """#!/bin/sh
sh -c 'sleep 600; exit' ray::DashboardAgent &
wait
"""


class Starts(Protocol):
    """Function that sets the next Ray's address; returns the file that lets Ray start if not `at_once`."""

    def __call__(self, address: str = ADDRESS, at_once: bool = True) -> Path: ...


@contextmanager
def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Starts]:
    """Start stand-in processes instead of Ray's during the block, with their files in `folder`."""
    monkeypatch.setattr(local_ray, "STOP_SECONDS", 0.1)  # they end nothing by themselves
    raylet, go = folder / "raylet", folder / "go"
    raylet.write_text(RAYLET)
    raylet.chmod(0o755)

    def prepare(address: str = ADDRESS, at_once: bool = True) -> Path:
        if at_once:
            go.touch()
        command = [sys.executable, "-c", START, str(raylet), str(go), address]
        monkeypatch.setattr(local_ray, "_options", lambda: command)
        return go

    yield prepare
    if (ray := local_ray.recorded()) is not None:
        local_ray.stop(ray)


def session(leader: int) -> list[psutil.Process]:
    """The living processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found
