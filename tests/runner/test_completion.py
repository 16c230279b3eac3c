"""Completion by TAB in real shells, and the files that its installation writes into the user's home."""

from __future__ import annotations

import shlex
import shutil
import stat
import sys
from pathlib import Path

import pytest
from cli_harness import Done, Lab

from runner.cli import app
from runner.commands.completion import SCRIPTS, append_line
from runner.rows import NewRun
from runner.states import State

OLD_QUEUE = Path(__file__).parent / "data" / "queue-schema-4.db"
ASKED = {"_RUNNER_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
SOURCE = "import sys; from runner.cli import main; sys.exit(main())"
ANSWER = (  # bash prints a line for each candidate for the line that stands in $TYPED
    'COMP_LINE=$TYPED COMP_POINT=${#TYPED}; _runner_completion runner; printf "%s\\n" "${COMPREPLY[@]}"'
)


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of a user whose shell finds `runner`."""
    home, programs = tmp_path / "user", tmp_path / "bin"
    for folder in (home, programs):
        folder.mkdir()
    put_command(programs / "runner", f"#!{sys.executable}\n# runner.cli\n{SOURCE}\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    for variable in ("XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(variable, raising=False)
    return home


def put_command(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def written(home: Path) -> dict[str, str]:
    return {str(file.relative_to(home)): file.read_text() for file in home.rglob("*") if file.is_file()}


def in_shell(lab: Lab, shell: str, command: str, **variables: str) -> Done:
    """Run a command in an interactive shell of the user."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    return lab.finish([shell, "-i", "-c", command], **variables)


def candidates(lab: Lab, typed: str) -> list[str]:
    """Install completion and return bash's candidates for a typed line."""
    assert lab.call("--install-completion", "bash").code == 0
    return in_shell(lab, "bash", ANSWER, TYPED=typed).out.split()


def test_bash_completes_runner_once_that_is_installed_and_python_as_before(lab: Lab, user: Path) -> None:
    (user / ".bashrc").write_text("complete -W before python\nMARK=kept")  # without a last line's end
    done = lab.call("--install-completion", "bash")
    assert (done.code, done.out) == (0, "")
    told = in_shell(lab, "bash", "complete -p runner; complete -p python; echo $MARK")
    assert told.out.splitlines() == [
        "complete -o default -F _runner_completion runner",
        "complete -W 'before' python",
        "kept",
    ]
    first = written(user)
    assert lab.call("--install-completion=bash").code == 0
    assert written(user) == first


@pytest.mark.parametrize("shell", SCRIPTS)
def test_python_m_runner_installs_for_runner_alone(lab: Lab, user: Path, shell: str) -> None:
    done = lab.process("--install-completion", shell)
    assert done.code == 0, done.err
    assert done.err.startswith(f"{shell} completes `runner` from its next start on: ")
    for name, text in written(user).items():
        assert "python" not in name + text.replace(str(user), ""), name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_reads(lab: Lab, user: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    shown = lab.call("--show-completion", shell)
    assert shown.code == 0 and written(user) == {}
    script = user / "script"
    script.write_text(shown.out)
    assert lab.finish([shell, "-n", str(script)]) == Done(0, "", "")


def test_without_the_command_on_path_nothing_is_written_and_what_works_is_said(
    lab: Lab, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    done = lab.process("--install-completion", "bash")
    assert done.code == 2 and done.err.count("\n") == 1
    assert "then `runner --install-completion bash`" in done.err
    assert written(user) == {}


def test_another_program_of_that_name_is_not_taken_for_this_one(lab: Lab, user: Path, tmp_path: Path) -> None:
    put_command(tmp_path / "bin" / "runner", "#!/bin/sh\necho something else\n")
    done = lab.call("--install-completion", "bash")
    assert done.code == 2 and f"{tmp_path / 'bin' / 'runner'} is another program" in done.err
    assert written(user) == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--install-completion", "tcsh"], "there is completion for bash, zsh, fish"),
        (["--show-completion", "bash", "zsh"], "takes a shell and nothing else"),
    ],
)
def test_what_cannot_be_installed_is_refused_in_a_line(
    lab: Lab, user: Path, words: list[str], said: str
) -> None:
    done = lab.call(*words)
    assert done.code == 2 and done.err.count("\n") == 1 and said in done.err
    assert written(user) == {}


def test_what_an_earlier_version_has_left_for_python_is_told(lab: Lab, user: Path) -> None:
    earlier = user / ".bash_completions" / "python -m runner.sh"
    earlier.parent.mkdir()
    earlier.write_text("complete -F _pythonmrunner_completion python -m runner\n")
    done = lab.call("--install-completion", "bash")
    assert f"delete '{earlier}', and the line with it in {user / '.bashrc'}" in done.err


def test_a_start_file_that_is_no_text_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / ".bashrc"
    file.write_bytes(b"PS1='\xe9'")
    assert append_line(file, "new", "new") and not append_line(file, "new", "new")
    assert file.read_bytes() == b"PS1='\xe9'\nnew\n"


def test_runs_are_completed_as_far_as_the_command_applies_to_them(lab: Lab, user: Path) -> None:
    finished, queued = lab.ended(), lab.submit(name="late")
    running = lab.submit(name="now")
    lab.start(running)
    offered = {
        command: set(candidates(lab, f"runner {command} "))
        for command in ("show", "resume", "cancel", "priority")
    }
    assert offered == {
        "show": {str(finished), str(queued), str(running)},
        "resume": {str(finished)},
        "cancel": {str(queued), str(running)},
        "priority": {str(queued)},
    }


def test_a_shell_that_shows_words_on_candidates_gets_name_and_state(lab: Lab, user: Path) -> None:
    lab.ended(State.FAILED)
    lab.call("--install-completion", "fish")
    done = in_shell(lab, "fish", "complete -C 'runner logs '", COLUMNS="20")
    assert done.out == "1\ttiny FAILED\n"


@pytest.fixture
def runs(lab: Lab) -> Lab:
    """Two runs of one name, one of another, and one of a name that a shell would take apart."""
    lab.ended()
    lab.ended()
    lab.submit(name="one")
    lab.store.add([NewRun(name="a b; c", config="", num_epochs=1)], now=0.0)
    return lab


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("runner sho", ["show"]),
        ("runner show ", ["4", "3", "2", "1"]),
        ("runner show o", ["one"]),
        ("runner show t", []),  # a name of two runs stands for none of them
        ("runner show n", ["name:one", "name:tiny"]),
        ("runner show 1 2 --diff o", ["one"]),
        ("runner queue --name t", ["tiny"]),
        ("runner queue --state fai", ["FAILED"]),
        ("runner figures cou", []),  # the first word is a run
        ("runner figures 1 cou", ["couplings"]),
        ("runner evaluate 1 --dataset svh", ["svhn"]),
        ("runner submit a.yaml --set mod", ["model."]),
        ("runner submit a.yaml --set optim.l", ["optim.lr="]),
        ("runner submit a.yaml --set=optim.l", ["optim.lr="]),
        ("runner validate a.yaml --set seed=1 --set model.rout", ["model.routing."]),
        ("runner validate a.yaml --set optim.name=adamw", ["optim.name=adamw"]),
        ("runner submit --set runner.pri", ["runner.priority="]),
        ("runner submit --set use_cuda=", ["use_cuda=true", "use_cuda=false"]),
        ("runner submit --set seed=", []),  # any number
        ("runner submit --set no.such=", []),
        ("runner resume 1 --set num_e", ["num_epochs="]),
        ("runner resume 1 --set batch", []),  # not of a run that has begun
        ("runner resume 1 --set optim.na", []),
        ("runner submit experiments/qui", []),  # left to the shell, which completes files
        ("runner 'show", ["show"]),
    ],
)
def test_commands_runs_pictures_keys_and_values_are_offered(
    runs: Lab,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    offered: list[str],
) -> None:
    for name, value in {**ASKED, "_TYPER_COMPLETE_ARGS": typed}.items():
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        app(prog_name="runner")
    out, err = capsys.readouterr()
    assert [line.partition("\t")[0] for line in out.splitlines() if line] == offered
    assert err == ""


def test_bash_gets_what_belongs_behind_the_sign_at_which_it_splits_words(runs: Lab, user: Path) -> None:
    """At = and :; what ends in = or a dot has no space behind it, and files are left to bash."""
    runs.call("--install-completion", "bash")
    typed = {
        "runner show name:t": "tiny",
        "runner submit --set=optim.name=adamw": "adamw",
        "runner submit --set optim.l": "optim.lr=",
        "runner submit exp": "",
    }
    ask = f"for TYPED in {shlex.join(typed)}; do {ANSWER}; done"
    assert in_shell(runs, "bash", ask).out.splitlines() == list(typed.values())


@pytest.mark.parametrize("variables", [{}, {"RUNNER_DATABASE_URL": "postgresql://127.0.0.1:1/none"}])
def test_where_there_is_no_queue_nothing_is_offered_said_or_made(
    lab: Lab, user: Path, tmp_path: Path, variables: dict[str, str]
) -> None:
    none = tmp_path / "none"
    asked = {**ASKED, "RUNNER_HOME": str(none), "_TYPER_COMPLETE_ARGS": "runner show ", **variables}
    assert lab.finish(["runner"], **asked) == Done(0, "\n", "")
    assert not none.exists()


def test_a_queue_of_an_earlier_version_is_not_brought_up_to_date_by_tab(
    lab: Lab, user: Path, tmp_path: Path
) -> None:
    home = tmp_path / "old"
    home.mkdir()
    shutil.copy(OLD_QUEUE, home / "queue.db")
    asked = {**ASKED, "RUNNER_HOME": str(home), "_TYPER_COMPLETE_ARGS": "runner show "}
    assert lab.finish(["runner"], **asked) == Done(0, "\n", "")
    assert (home / "queue.db").read_bytes() == OLD_QUEUE.read_bytes()
    assert not list(home.glob("*schema*"))


def test_completing_loads_nothing_heavy(lab: Lab, user: Path) -> None:
    lab.submit()
    code = (
        "import os, sys\n"
        "from runner.cli import app\n"
        "try:\n    app()\n"
        "except SystemExit:\n    pass\n"
        "print(sorted({'torch', 'ray', 'mlflow', 'numpy', 'pandas', 'alembic'} & set(sys.modules)))\n"
    )
    script = lab.folder / "runner"
    script.write_text(code)
    for typed in ("runner show ", "runner submit --set optim."):
        done = lab.finish([sys.executable, str(script)], **ASKED, _TYPER_COMPLETE_ARGS=typed)
        assert len(done.out.splitlines()) > 1 and done.out.splitlines()[-1] == "[]", done
