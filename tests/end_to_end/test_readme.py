"""Commands that the README tells a newcomer to type, and names that the documents mention."""

from __future__ import annotations

import ast
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from end_to_end.harness import Service, understand

from capsnet.cli import parser
from runner import exits
from runner.states import State
from runner.store import open_store

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
# Not the guide of a cluster, whose commands have a test of their own, nor the record of a rehearsal.
PAGES = sorted(set((ROOT / "docs").glob("*.md")) - set((ROOT / "docs").glob("cluster*.md")))


def commands(*files: Path) -> list[str]:
    """Return every command of ours in an indented block of these documents."""
    text = "\n".join(file.read_text() for file in files)
    lines = re.findall(r"^    ((?:\S.*)?python -m (?:runner|capsnet) .*[^\\\n])$", text, re.MULTILINE)
    return [line[line.index("python -m") :] for line in lines]


@pytest.mark.parametrize("command", commands(README, *PAGES))
def test_every_command_of_the_readme_and_the_docs_is_understood(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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


@pytest.mark.parametrize("package", ["capsnet", "runner"])
def test_each_module_begins_with_a_line_that_says_what_it_is_for(package: str) -> None:
    modules = [file for file in (ROOT / package).rglob("*.py") if not file.name.startswith("__")]
    assert modules
    assert [file for file in modules if not ast.get_docstring(ast.parse(file.read_text()))] == []


def test_the_places_that_the_architecture_names_are_there() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text().split("## Where to look")[1].split("\n## ")[0]
    package, missing = "", []
    for place in re.findall(r"`([^`]+)`", table):
        folder, slash, _ = place.partition("/")
        is_whole = bool(slash) and (ROOT / folder).is_dir()
        package = folder if is_whole else package
        missing += [] if list(ROOT.glob(place if is_whole else f"{package}/{place}")) else [place]
    assert table.count("`") > 100
    assert missing == []


def test_the_table_of_exit_codes_is_that_of_the_code() -> None:
    table = (ROOT / "docs" / "commands.md").read_text().split("## Exit codes")[1]
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert told == {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}


def links() -> list[tuple[str, str]]:
    """Return every link from a document to a place in this repository, as (document, target)."""
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    return [
        (str(file.relative_to(ROOT)), target)
        for file in files
        for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text())
        if "://" not in target
    ]


@pytest.mark.parametrize(("document", "target"), links())
def test_every_link_leads_somewhere(document: str, target: str) -> None:
    path, _, heading = target.partition("#")
    file = (ROOT / document).parent / path if path else ROOT / document
    assert file.exists()
    if heading:
        titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
        assert heading in {
            re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles
        }


@pytest.mark.slow
def test_the_quick_start_reaches_97_percent_even_when_its_worker_is_killed(service: Service) -> None:
    command = next(command for command in commands(README) if "--follow" in command)
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
