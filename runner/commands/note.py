"""`note`: notes about runs, at any time."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from runner import tags
from runner.commands import completing
from runner.commands.options import RUN_HELP, Json
from runner.output import PROGRAM, CommandError
from runner.wording import plural

Words = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN|TEXT",
        help=f"{RUN_HELP} TEXT: the note, in quotes.",
        show_default=False,
        autocompletion=completing.runs,
    ),
]


def note(words: Words, json: Json = False) -> None:
    """Write a note about each RUN, over an earlier one, also while it runs and when it has ended.

    `show` prints it, and MLflow has it as the run's description. An empty text takes it away.

    \b
    Examples:
      python -m runner note 3 "diverges from epoch 7 on: the learning rate is too high"
      python -m runner note 3 ""
    """
    from runner.commands.annotating import annotate

    *runs, text = words
    if not runs:
        raise CommandError(f'say what to note: {PROGRAM} note {text} "TEXT"')
    if re.fullmatch(r"--?[a-z][a-z-]*", text):
        raise CommandError(f"there is no option {text}, and a note should say more")
    text = text.strip()
    try:
        tags.require_text(text, allowed="\n\t")
    except ValueError as error:
        raise CommandError(f"a note {error}") from error
    described = f"a note of {plural(len(text), 'character')}" if text else "no note"
    annotate(runs, lambda store, ids: store.note(ids, text or None), described, json)
