"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner.commands import completing

RUN_HELP = "A run's number; several as in 5-9; its name, where only one has it; all like 'name:mnist_*'."
Runs = Annotated[
    list[str],
    typer.Argument(metavar="RUN", help=RUN_HELP, show_default=False, autocompletion=completing.runs),
]
RunsOrAll = Annotated[
    list[str] | None,
    typer.Argument(metavar="RUN", help=RUN_HELP, show_default=False, autocompletion=completing.runs),
]
All = Annotated[bool, typer.Option("--all", help="All runs that the command can act on; asks first.")]
Files = Annotated[list[Path], typer.Argument(metavar="FILE", help="YAML files.", show_default=False)]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Put a value over the file's, as in optim.lr=0.01; a list: 'optim.milestone=[10,20]'; "
        "a section: 'optim={lr: 0.01}'; another kind: model=cnn; nothing: threads=null.",
        autocompletion=completing.settings,
    ),
]
Best = Annotated[bool, typer.Option("--best", help="The weights that did best on validation.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Unpublished = Annotated[
    bool, typer.Option("--unpublished", help="Also runs that MLflow does not have to their end yet.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
