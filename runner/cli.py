"""The command line: which commands there are, and the edge where an error becomes one line."""

from __future__ import annotations

import io
import sys
import traceback

import typer

from capsnet import streams
from runner import exits
from runner.commands import (
    adopt,
    cleanup,
    code,
    compare,
    completion,
    control,
    evaluate,
    figures,
    listing,
    logs,
    note,
    priority,
    resume,
    services,
    show,
    submit,
    tag,
    ui,
    validate,
    waiting,
    watch,
)
from runner.output import CommandError, hint, one_line

app = typer.Typer(
    name="runner",
    help="Queue training runs, run them on the GPUs of this machine or a Ray cluster, compare them.",
    epilog=f"Runs are kept in the folder that RUNNER_HOME names, ./runs without it. {exits.OF_COMMANDS}",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # plain help: the same in a pipe, and no brackets taken for markup
    pretty_exceptions_enable=False,
)

COMMANDS = (
    (submit.submit, "Queue a run for each YAML file.", exits.OF_SUBMIT),
    (validate.validate, "Print what YAML files resolve to, or every mistake.", exits.OF_COMMANDS),
    (listing.queue, "List the runs (also: ls).", exits.OF_COMMANDS),
    (show.show, "Print the details of runs.", exits.OF_COMMANDS),
    (compare.compare, "Print what differs between runs.", exits.OF_COMMANDS),
    (tag.tag, "Give runs tags, or take them away.", exits.OF_SEVERAL),
    (note.note, "Write a note about runs.", exits.OF_SEVERAL),
    (logs.logs, "Print what a run's workers printed.", exits.OF_COMMANDS),
    (code.code, "Show the code of runs.", exits.OF_COMMANDS),
    (evaluate.evaluate, "Test the networks of runs.", exits.OF_COMMANDS),
    (figures.figures, "Draw pictures of the networks of runs.", exits.OF_SEVERAL),
    (watch.watch, "Look on while runs go on.", exits.OF_WAITING),
    (waiting.wait, "Wait until runs have ended.", exits.OF_WAITING),
    (control.interrupt, "Let runs save and stop.", exits.OF_SEVERAL),
    (resume.resume, "Let ended runs go on, also for more epochs.", exits.OF_RESUME),
    (control.cancel, "End runs.", exits.OF_SEVERAL),
    (priority.priority, "Give queued runs another place.", exits.OF_SEVERAL),
    (cleanup.rm, "Delete ended runs.", exits.OF_SEVERAL),
    (cleanup.prune, "Delete all old runs but those worth keeping.", exits.OF_COMMANDS),
    (services.up, "Start Ray and the scheduler.", exits.OF_COMMANDS),
    (services.down, "Stop them; what runs is saved and queued again.", exits.OF_COMMANDS),
    (services.status, "Say what is up.", exits.OF_COMMANDS),
    (adopt.adopt, "Make a copy of a home one of its own.", exits.OF_COMMANDS),
    (ui.ui, "Serve the MLflow UI and TensorBoard.", exits.OF_COMMANDS),
)

# The last word may begin with a hyphen, as in `priority 3 -5`; in a note no -h is looked for.
OF_ANY_WORDS = {
    priority.priority: {"ignore_unknown_options": True},
    note.note: {"ignore_unknown_options": True, "help_option_names": ["--help"]},
}

for command, summary, codes in COMMANDS:
    app.command(short_help=summary, epilog=codes, context_settings=OF_ANY_WORDS.get(command))(command)
app.command("ls", hidden=True, epilog=exits.OF_COMMANDS)(listing.queue)


def main() -> None:
    """Obey the command line and exit; what a user can cause is one line on stderr and exit code 2."""
    if reason := streams.prepare():  # before anything is done whose output would be lost
        hint(reason)
        sys.exit(exits.USAGE)
    sys.exit(run())


def run() -> int:
    """Obey the command line and return the exit code. What is printed of an error goes through `hint`."""
    try:
        if completion.asked(sys.argv[1:]):
            completion.obey(sys.argv[1:])
            return exits.OK
        return app(standalone_mode=False) or exits.OK
    except typer.Abort:
        hint("aborted")
        return exits.FAILED
    except Exception as error:
        if (message := usage_error(error)) is not None:
            hint(message)
            return exits.USAGE
        if isinstance(error, expected_errors()):
            hint(one_line(error))
            return exits.USAGE
        hint(traceback.format_exc().rstrip())  # a fault of this program, and its words may hold a password
        return exits.FAILED


def usage_error(error: Exception) -> str | None:
    """Return Typer's message on a command line that it cannot read, which it quotes; None: another error."""
    show = getattr(error, "show", None)  # its class has another module in each version of Typer
    if show is None:
        return None
    text = io.StringIO()
    show(file=text)
    return text.getvalue().rstrip()


def expected_errors() -> tuple[type[Exception], ...]:
    """Return the errors that a user can cause, imported only once something has gone wrong."""
    from capsnet.yamlfile import ConfigError
    from runner.local_ray import LocalRayError
    from runner.ownership import PlaceTaken
    from runner.service import ServiceError
    from runner.source import SourceError
    from runner.states import IllegalMove
    from runner.store import StoreError
    from runner.ui import UIError

    return (
        CommandError,
        ConfigError,
        IllegalMove,
        LocalRayError,
        OSError,
        PlaceTaken,
        ServiceError,
        SourceError,
        StoreError,
        UIError,
    )
