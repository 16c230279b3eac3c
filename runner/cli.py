"""The command line: which commands there are, and the edge where an error becomes one line."""

from __future__ import annotations

import sys

import typer

from runner import exits
from runner.commands import (
    cleanup,
    control,
    listing,
    logs,
    services,
    show,
    submit,
    ui,
    validate,
    waiting,
    watch,
)
from runner.output import CommandError

app = typer.Typer(
    name="runner",
    help="Queue training runs, run them on the GPUs of this machine or a Ray cluster, compare them.",
    epilog=f"Runs are kept in the folder that RUNNER_HOME names, ./runs without it. {exits.OF_COMMANDS}",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # plain help: the same in a pipe, and no brackets taken for markup
    pretty_exceptions_enable=False,
)

app.command(epilog=exits.OF_SUBMIT)(submit.submit)
app.command(epilog=exits.OF_COMMANDS)(validate.validate)
app.command(epilog=exits.OF_COMMANDS)(listing.queue)
app.command("ls", hidden=True)(listing.queue)
app.command(epilog=exits.OF_COMMANDS)(show.show)
app.command(epilog=exits.OF_COMMANDS)(logs.logs)
app.command(epilog=exits.OF_WAITING)(watch.watch)
app.command(epilog=exits.OF_WAITING)(waiting.wait)
app.command(epilog=exits.OF_COMMANDS)(control.interrupt)
app.command(epilog=exits.OF_RESUME)(control.resume)
app.command(epilog=exits.OF_COMMANDS)(control.cancel)
app.command(epilog=exits.OF_COMMANDS)(control.priority)
app.command(epilog=exits.OF_COMMANDS)(cleanup.rm)
app.command(epilog=exits.OF_COMMANDS)(cleanup.prune)
app.command(epilog=exits.OF_COMMANDS)(services.up)
app.command(epilog=exits.OF_COMMANDS)(services.down)
app.command(epilog=exits.OF_COMMANDS)(services.status)
app.command(epilog=exits.OF_COMMANDS)(ui.ui)


def main() -> None:
    """Obey the command line and exit; what a user can cause is one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr] # a log may hold what the terminal cannot show
    try:
        app()
    except Exception as error:
        if not isinstance(error, expected_errors()):
            raise
        print(error, file=sys.stderr)
        sys.exit(exits.USAGE)


def expected_errors() -> tuple[type[Exception], ...]:
    """What a user can cause; imported only once something has gone wrong."""
    from capsnet.yamlfile import ConfigError
    from runner.local_ray import LocalRayError
    from runner.service import ServiceError
    from runner.states import IllegalMove
    from runner.store import StoreError
    from runner.ui import UIError

    return CommandError, ConfigError, IllegalMove, LocalRayError, OSError, ServiceError, StoreError, UIError
