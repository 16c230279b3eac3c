"""Commands that the README tells a newcomer to type, and names that the documents mention."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from end_to_end.harness import Service, understand

from capsnet.cli import parser
from runner.states import State
from runner.store import open_store

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    """Every command of ours in an indented block of the README."""
    lines = re.findall(r"^    ((?:\S.*)?python -m (?:runner|capsnet) .*)$", README, re.MULTILINE)
    return [line[line.index("python -m") :] for line in lines]


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_readme_is_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    _, _, program, name, *words = shlex.split(command, comments=True)
    if program == "capsnet":
        parser().parse_args([name, *words])
        return
    understand(name, words)


def named_commands() -> list[tuple[str, str]]:
    """Every command of ours, with arguments, that a document or the comment of an experiment names."""
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "experiments").glob("*.yaml")]
    pattern = r"(?:`|^    |^#   )(python -m (?:runner|capsnet) [\w-]+ [^`\n]*[^`\n\\])(?:`|$)"
    return [
        (file.name, command)
        for file in files
        for command in re.findall(pattern, file.read_text(), re.MULTILINE)
        if "..." not in command
    ]


@pytest.mark.parametrize(("file", "command"), named_commands())
def test_every_command_that_a_document_names_is_understood(
    file: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    _, _, program, name, *words = shlex.split(command, comments=True)
    if program == "runner":
        understand(name, words)
        return
    parser().parse_args([name, *words])
    assert "RUN" not in words, "capsnet knows no runs: it takes checkpoints and folders"


def test_the_file_tree_of_the_readme_names_every_module() -> None:
    tree = README[README.index("## Files") : README.index("## Development")].split()
    modules = {path.name for package in ("capsnet", "runner") for path in (ROOT / package).rglob("*.py")}
    assert modules - {"__init__.py", "__main__.py"} <= set(tree)
    assert {name for name in tree if name.endswith(".py") and "/" not in name} <= modules


@pytest.mark.slow
def test_the_quick_start_reaches_97_percent_even_when_its_worker_is_killed(service: Service) -> None:
    command = next(command for command in commands() if "--follow" in command)
    words = shlex.split(command)[3:]
    following = subprocess.Popen(
        service.command(*words),
        cwd=ROOT,
        env=service.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    run = service.wait_for(1, lambda run: run.pid is not None and (run.epoch or 0) >= 3)
    assert run.pid is not None
    os.kill(run.pid, signal.SIGKILL)
    output, _ = following.communicate(timeout=240)
    assert following.returncode == 0, output
    ended = service.run(1)
    assert ended.state is State.FINISHED
    assert ended.accuracy is not None and ended.accuracy >= 0.97
    stages = ["starting Ray: this takes some seconds", "starting the scheduler"]
    assert [line for line in output.splitlines() if line.startswith("starting ")] == stages
    assert "epoch 28/28 done, " in output and "\r" not in output
    assert "python -m runner ui" in output and str(service.root) in output
    with open_store(service.home, create=False) as store:
        assert [attempt.outcome for attempt in store.attempts(1)] == ["lost", "finished"]
