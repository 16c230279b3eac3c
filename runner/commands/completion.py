"""`--install-completion` and `--show-completion`: the shell functions that let TAB complete `runner`.

Each asks `runner` itself by the protocol of Typer's script for fish, which takes the line as it was typed.
Typer's own scripts are not used: its script for bash does not know that bash splits words at `=` and `:`, and
all of them complete the running program, which may be `python -m runner`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from runner.commands import completing
from runner.output import CommandError, emit_exactly, hint

INSTALL, SHOW = "--install-completion", "--show-completion"
COMMAND = "runner"
SOURCE_OF_COMMAND = b"runner.cli"  # stands in the script that an installation makes
READ_BYTES = 4096

# COLUMNS: on a narrow terminal Typer would fold the words on a candidate into a line of its own.
ASK = "COLUMNS=1000 _RUNNER_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args _TYPER_COMPLETE_ARGS"

BASH = f"""\
_runner_completion() {{
    local candidate typed=${{COMP_LINE:0:COMP_POINT}} word before
    word=${{typed##*[[:space:]]}}
    [[ $word == --*=* ]] && word=${{word#--*=}}  # candidates are for what an option is set to
    before=${{word%"${{word##*[=:]}}"}}  # readline completes what is behind the last = or :
    COMPREPLY=()
    while IFS= read -r candidate; do
        candidate=${{candidate%%$'\\t'*}}
        [[ -n $candidate ]] || continue
        [[ $candidate == *[=.] ]] && compopt -o nospace 2>/dev/null  # bash 3 has no compopt
        COMPREPLY+=("${{candidate#"$before"}}")
    done < <({completing.BARE}=1 {ASK}="$typed" "$1" 2>/dev/null)
}}
complete -o default -F _runner_completion {COMMAND}
"""

ZSH = f"""\
#compdef {COMMAND}
_runner_completion() {{
    local line value
    local -a whole open
    while IFS= read -r line; do
        value=${{line%%$'\\t'*}}
        line="${{value//:/\\\\:}}:${{${{line#"$value"}}#$'\\t'}}"
        if [[ $value == *[=.] ]]; then open+=("$line"); elif [[ -n $value ]]; then whole+=("$line"); fi
    done < <({ASK}="${{(j: :)words[1,CURRENT-1]}} $PREFIX" $words[1] 2>/dev/null)
    compset -P '--*='
    if (( $#whole + $#open == 0 )); then _files; return; fi
    (( $#whole )) && _describe -V runner whole
    (( $#open )) && _describe -V runner open -S ''
    return 0
}}
if [[ $funcstack[1] == _{COMMAND} ]]; then
    _runner_completion "$@"
else
    compdef _runner_completion {COMMAND}
fi
"""

FISH = f"""\
function __runner_completion
    set -l found (env {ASK}=(commandline -cp) {COMMAND} 2>/dev/null)
    if string length -q -- $found
        string join -- \\n $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete --command {COMMAND} --no-files --keep-order --arguments '(__runner_completion)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def asked(words: Sequence[str]) -> bool:
    """Return whether the command line asks for completion, and nothing else."""
    return bool(words) and words[0].partition("=")[0] in (INSTALL, SHOW)


def obey(words: Sequence[str]) -> None:
    """Install or print the completion for the shell that is named, or for the one that runs this command."""
    option, equals, value = words[0].partition("=")
    shell, *others = [value, *words[1:]] if equals else [*words[1:], ""]
    if any(others):
        raise CommandError(f"{option} takes a shell and nothing else, as in `{COMMAND} {option} bash`")
    shell = shell or _shell()
    if shell not in SCRIPTS:
        raise CommandError(f"there is completion for {', '.join(SCRIPTS)}: `{COMMAND} {option} bash`")
    if option == SHOW:
        emit_exactly(SCRIPTS[shell].rstrip("\n"))
        return
    require_command(shell)
    for line in install(shell, Path.home()):
        hint(line)


def _shell() -> str:
    """Return the shell that runs this command, or else that of the user; empty where neither is known."""
    import shellingham

    try:
        return shellingham.detect_shell()[0]
    except shellingham.ShellDetectionFailure:
        return Path(os.environ.get("SHELL", "")).name


def require_command(shell: str) -> None:
    """Raise CommandError where the shell would not find the command that is to be completed."""
    found = shutil.which(COMMAND)
    if found is not None and SOURCE_OF_COMMAND in _beginning(Path(found)):
        return
    then = f"`{COMMAND} {INSTALL} {shell}`"
    ours = Path(sys.executable).with_name(COMMAND)
    if ours.exists():
        why = f"which is not on PATH: `source {shlex.quote(str(ours.with_name('activate')))}`"
    else:
        why = "which is not installed: `pip install -e .`"
    if found is not None:
        why = f"but {found} is another program: put {ours.parent} before it on PATH"
    raise CommandError(f"completion is for the command `{COMMAND}`, {why}, then {then}")


def _beginning(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(READ_BYTES)


class Place(NamedTuple):
    """Path at which a shell finds its script, and the line of its start file that makes it look there."""

    script: Path
    start_file: Path | None = None
    line: str = ""
    mark: str = ""  # where the start file holds it, the line is there


def _places(home: Path) -> dict[str, Place]:
    script = home / ".bash_completions" / f"{COMMAND}.sh"
    quoted = shlex.quote(str(script))
    load = f"if [ -r {quoted} ]; then source {quoted}; fi"
    look = "fpath+=~/.zfunc; autoload -Uz compinit; compinit"
    start_of_zsh = Path(os.environ.get("ZDOTDIR") or home) / ".zshrc"
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return {
        "bash": Place(script, home / ".bashrc", load, str(script)),
        "zsh": Place(home / ".zfunc" / f"_{COMMAND}", start_of_zsh, look, look),
        "fish": Place(config / "fish" / "completions" / f"{COMMAND}.fish"),
    }


def install(shell: str, home: Path) -> list[str]:
    """Write the script where the shell finds it, in the user's `home`; return lines on what was done."""
    place = _places(home)[shell]
    place.script.parent.mkdir(parents=True, exist_ok=True)
    place.script.write_text(SCRIPTS[shell])
    lines = [f"{shell} completes `{COMMAND}` from its next start on: {place.script}"]
    if place.start_file and append_line(place.start_file, place.line, place.mark):
        lines.append(f"a line was added to {place.start_file}")
    return [*lines, *left_over(place)]


def append_line(file: Path, line: str, mark: str) -> bool:
    """Append a line to a file, unless the file holds `mark` already; return whether it did not."""
    content = file.read_bytes() if file.exists() else b""
    if os.fsencode(mark) in content:
        return False
    with file.open("ab") as opened:
        opened.write((b"\n" if content and not content.endswith(b"\n") else b"") + os.fsencode(line) + b"\n")
    return True


def left_over(place: Place) -> list[str]:
    """Return what to do about an earlier version's script, with which TAB after `python` fails; else []."""
    earlier = place.script.with_name(place.script.name.replace(COMMAND, f"python -m {COMMAND}"))
    if not earlier.exists():
        return []
    named = f", and the line with it in {place.start_file}" if place.script.suffix == ".sh" else ""
    return [f"an earlier version has broken TAB after `python`: delete '{earlier}'{named}"]
