"""`tag`: tags of runs, at any time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import typer

from runner import tags
from runner.commands import completing
from runner.commands.options import RUN_HELP, Json
from runner.output import PROGRAM, CommandError

Words = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN|KEY=VALUE",
        help=f"{RUN_HELP} KEY= takes a tag away.",
        show_default=False,
        autocompletion=completing.runs,
    ),
]
Removed = Annotated[
    list[str] | None, typer.Option("--remove", metavar="KEY", help="Take this tag away, as KEY= does.")
]


def tag(words: Words, remove: Removed = None, json: Json = False) -> None:
    """Give each RUN tags, also while it runs and when it has ended; MLflow gets them.

    Tags of the submission are those of `runner.tags` in the YAML file. `queue --tag KEY=VALUE` lists the runs
    that have one.

    \b
    Examples:
      python -m runner tag 3 5-9 paper=table-2
      python -m runner tag 3 --remove paper
    """
    from runner.commands.annotating import annotate

    names = [word for word in words if "=" not in word]
    wanted = parsed([word for word in words if "=" in word], remove or [])
    if not names or not wanted:
        raise CommandError(f"name runs and tags, as in `{PROGRAM} tag 3 paper=table-2`")
    annotate(names, lambda store, ids: store.tag(ids, wanted), described(wanted), json)


def parsed(settings: Sequence[str], removed: Sequence[str]) -> dict[str, str | None]:
    """The tags by key, None for those to take away. Raises CommandError with a line for each mistake."""
    pairs = [setting.partition("=")[::2] for setting in settings] + [(key, "") for key in removed]
    mistakes = [f"{key!a}: {why}" for key, value in pairs for why in _mistakes(key, value)]
    wanted = {key: value or None for key, value in pairs}
    if len(wanted) < len(pairs):
        mistakes.append("a tag is named twice: name each once")
    if mistakes:
        raise CommandError("\n".join(mistakes))
    return wanted


def _mistakes(key: str, value: str) -> Iterator[str]:
    try:
        tags.key(key)
    except ValueError as error:
        yield f"the key of a tag {error}"
    try:
        tags.require_text(value)
    except ValueError as error:
        yield f"its value {error}"
    if value and tags.is_ours(key):
        other = f"; `{PROGRAM} note` writes the description" if key == "mlflow.note.content" else ""
        yield f"a run has this tag by itself: choose another key{other}"


def described(wanted: Mapping[str, str | None]) -> str:
    """Return the tags that a run has now and has no more, as words after "run 3 has"."""
    given = ", ".join(f"{key}={value}" for key, value in wanted.items() if value is not None)
    gone = ", ".join(key for key, value in wanted.items() if value is None)
    return " and ".join([*([given] if given else []), *([f"no tag {gone}"] if gone else [])])
