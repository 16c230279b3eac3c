"""Stages of `up`, `down` and a `submit` that starts the service, and their display."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from patience import PATIENCE
from stand_in_ray import ALLOWED, Starts

from capsnet.locks import locked
from runner import local_ray
from runner.paths import Home
from runner.service import bring_up, ensure, own_cluster, shut_down
from runner.stages import stages
from runner.store import open_store


def test_without_a_terminal_each_stage_is_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with stages() as tell:
        tell("starting one")
        tell("starting two")
    assert capsys.readouterr() == ("", "starting one\nstarting two\n")


def on_a_terminal(body: str) -> str:
    """Run a block that calls `tell`, and return all output to its terminal of 80 columns."""
    code = f"from runner.stages import stages\nwith stages() as tell:\n    {body}\n"
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "MPLBACKEND": ""}
    environment.pop("JPY_PARENT_PID", None)
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=theirs, stderr=theirs):
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # what Linux says when the other end of a terminal is closed
            while piece := os.read(ours, 1 << 16):
                shown += piece
    os.close(ours)
    return shown.decode()


def test_on_a_terminal_a_stage_takes_the_place_of_the_one_before_and_the_last_one_goes() -> None:
    frames = on_a_terminal("tell('starting [one]'); tell('starting two')").split("\x1b[2K")  # erases the line
    assert any("starting [one]" in frame for frame in frames)
    assert any("starting two" in frame for frame in frames)
    assert "starting" not in frames[-1]


def test_where_there_is_nothing_to_do_a_terminal_gets_nothing() -> None:
    assert on_a_terminal("pass") == ""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@ALLOWED
def test_up_and_down_tell_their_stages_and_nothing_where_there_is_nothing_to_do(
    home: Home, starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts()
    monkeypatch.setattr("runner.service._launch", lambda *_: "0")  # no scheduler joins this Ray
    told: list[str] = []
    with open_store(home) as store:
        bring_up(home, store, told.append)
        assert told == ["starting Ray: this takes some seconds", "starting the scheduler"]
        store.take_over(store.now(), own_cluster(), "1")
        told.clear()
        bring_up(home, store, told.append)
        ensure(home, store, told.append)
        assert told == []
        shut_down(home, store, tell=told.append)
        assert told == ["ending the scheduler", "ending Ray"]
        assert local_ray.recorded() is None


@ALLOWED
def test_who_waits_for_another_command_is_told_so(
    home: Home, starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts()
    monkeypatch.setattr("runner.service._launch", lambda *_: "")
    told: list[str] = []
    waits = threading.Event()

    def tell(stage: str) -> None:
        told.append(stage)
        waits.set()

    with open_store(home) as store:
        waiting = threading.Thread(target=bring_up, args=(home, store, tell))
        with locked(home.service_lock, "RUNNER_HOME"):
            waiting.start()
            assert waits.wait(PATIENCE)
            assert told == ["waiting for another command that starts or stops this home's service"]
        waiting.join(PATIENCE)
    assert told[1:] == ["starting Ray: this takes some seconds", "starting the scheduler"]
