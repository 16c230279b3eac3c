"""A user's homes: which of them are up, and the messages of a new home about the others."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cli_harness import FAR_AHEAD, Lab

from runner import exits, homes
from runner.homes import KnownHome
from runner.paths import Home
from runner.states import State
from runner.store import open_store


def another_home(lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str = "other") -> Home:
    """Make a home without runs and scheduler, which commands use from now on."""
    home = Home(lab.folder / name)
    monkeypatch.setenv("RUNNER_HOME", str(home.root))
    return home


def noted() -> list[str]:
    return [known.name for known in homes.known_homes()]


def test_the_first_submit_to_a_new_home_says_where_another_one_is_up(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.submit()
    before = lab.home.root
    other = another_home(lab, monkeypatch)
    line = (
        f"runs go to {other.root}, a new home; the scheduler of {before} is up: set RUNNER_HOME={before} "
        "to use it"
    )
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")  # no scheduler starts here
    assert line in lab.call("submit", lab.file()).err.splitlines()
    assert "a new home" not in lab.call("submit", lab.file()).err


def test_a_new_home_says_nothing_where_no_other_is_up(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.submit()
    lab.leave()
    another_home(lab, monkeypatch)
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    assert "a new home" not in lab.call("submit", lab.file()).err


def test_of_several_that_are_up_all_are_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.submit()
    second = Home(lab.folder / "second")
    with open_store(second) as store:
        store.take_over(store.now() + FAR_AHEAD, "lab", "1")
    homes.note(second)
    another_home(lab, monkeypatch, "third")
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    said = lab.call("submit", lab.file()).err.splitlines()[0]
    first = lab.home.root
    assert f"the schedulers of {first}, {second.root} are up: set RUNNER_HOME={first} to use one of" in said


def test_status_all_lists_every_home_with_its_runs(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.ended()
    lab.submit()
    other = another_home(lab, monkeypatch)
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    lab.call("submit", lab.file())
    titles, *lines = lab.call("status", "--all").out.splitlines()
    assert titles.split() == ["STATE", "HOME", "RUNS", "NOTE"]
    assert [re.split("  +", line) for line in lines] == [
        ["up", str(lab.home.root), "1 QUEUED, 1 FINISHED"],
        ["down", str(other.root), "1 QUEUED", "used here"],
    ]
    found = json.loads(lab.call("status", "--all", "--json").out)
    assert [(home["home"], home["state"], home["current"]) for home in found] == [
        (str(lab.home.root), "up", False),
        (str(other.root), "down", True),
    ]
    assert found[0]["runs"] == {state: int(state in (State.QUEUED, State.FINISHED)) for state in State}


def test_status_all_needs_no_home_here(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.submit()
    another_home(lab, monkeypatch, "none")
    done = lab.call("status", "--all")
    assert done.code == 0 and str(lab.home.root) in done.out
    assert not (lab.folder / "none").exists()


def test_a_home_that_is_gone_is_named_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.submit()
    lab.close()
    another_home(lab, monkeypatch)
    shutil.rmtree(lab.home.root)
    assert lab.call("status", "--all").err.splitlines() == [
        "no home is known yet: `python -m runner submit` or `python -m runner up` makes one",
        f"gone, and forgotten now: {lab.home.root}",
    ]
    assert noted() == []


def test_a_home_that_only_another_host_sees_is_not_forgotten(lab: Lab) -> None:
    file = homes.folder() / "0123.json"
    file.write_text(json.dumps({"root": "/scratch/runs", "database": None, "host": "elsewhere"}))
    done = lab.call("status", "--all")
    assert "unknown" in done.out and "on host elsewhere" in done.out
    assert file.exists()


def test_a_home_that_was_only_looked_at_is_listed_too(lab: Lab) -> None:
    lab.submit()
    shutil.rmtree(homes.folder())
    assert lab.call("queue").code == exits.OK
    [found] = json.loads(lab.call("status", "--all", "--json").out)
    assert (found["home"], found["current"], found["runs"]["QUEUED"]) == (str(lab.home.root), True, 1)


def test_a_database_without_a_queue_in_it_is_no_traceback(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.submit()
    with sqlite3.connect(lab.home.database) as database:
        database.execute("DELETE FROM queue")
    database.close()
    another_home(lab, monkeypatch)
    [found] = json.loads(lab.call("status", "--all", "--json").out)
    assert found["state"] == "unknown"


def test_commands_that_only_look_note_nothing(lab: Lab) -> None:
    lab.call("queue")
    assert noted() == []
    lab.call("cancel", 1)  # there is none; but who cancels runs of a home uses it
    assert noted() == [str(lab.home.root)]


def test_passwords_are_not_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    homes.note(Home(tmp_path, "postgresql+psycopg://ada:secret-word@db.example.org/queue"))
    [file] = homes.folder().iterdir()
    assert "secret-word" not in file.read_text()
    [known] = homes.known_homes()
    assert known.name == "postgresql+psycopg://db.example.org/queue"
    status = homes.look(known, time.time())
    assert (status.condition, status.runs) == ("unknown", {}) and known.setting in str(status.note)


def test_a_queue_in_a_file_elsewhere_is_known_by_its_url(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{lab.folder}/elsewhere.db"
    monkeypatch.setenv("RUNNER_DATABASE_URL", url)
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    lab.call("submit", lab.file())
    assert noted() == [url]
    assert homes.look(homes.known_homes()[0], time.time()).runs == {"QUEUED": 1}


def test_notes_are_for_this_user_alone(lab: Lab) -> None:
    lab.submit()
    assert homes.folder().stat().st_mode & 0o777 == 0o700
    assert [file.stat().st_mode & 0o777 for file in homes.folder().iterdir()] == [0o600]


def test_a_folder_open_to_others_is_not_used_and_status_all_says_so(lab: Lab) -> None:
    homes.folder().chmod(0o777)
    assert lab.call("submit", lab.file()).code == 0
    assert list((lab.folder / "state" / "capsnet-runner" / "homes").iterdir()) == []
    done = lab.call("status", "--all")
    assert done.code == exits.USAGE
    assert done.err.startswith("the homes of this user are not known: other users may write to ")
    assert "set XDG_STATE_HOME to a folder of your own" in done.err


def test_where_no_home_can_be_noted_everything_else_works(lab: Lab) -> None:
    (lab.folder / "state").write_text("a file in the way of the folder")
    assert lab.call("submit", lab.file()).code == 0
    assert lab.call("queue").code == 0
    done = lab.call("status", "--all")
    assert done.code == exits.USAGE and "the homes of this user are not known" in done.err
    assert done.err.count("\n") == 1


def test_many_processes_note_homes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    places = [Home(tmp_path / str(number % 7)) for number in range(56)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(homes.note, places))
    assert len(noted()) == len(list(homes.folder().iterdir())) == 7


def test_what_is_noted_in_words_of_another_version_is_passed_over(lab: Lab) -> None:
    for number, text in enumerate(['{"root": "/a"}', "[]", "{", "\x00", os.devnull]):
        (homes.folder() / f"{number}.json").write_text(text)
    assert homes.known_homes() == []


def test_a_path_is_quoted_for_the_shell() -> None:
    assert KnownHome("/my runs", None, "here").setting == "RUNNER_HOME='/my runs'"
