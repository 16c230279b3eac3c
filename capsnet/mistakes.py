"""Mistakes in a configuration, in words for the person who wrote it; all are reported at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from capsnet.printable import printable

SHOWN_CHARACTERS = 60  # of a value inside a message


@dataclass(frozen=True)
class Mistake:
    """One mistake: where it stands and what is allowed there."""

    file: str  # as the user named it, or the override: `--set optim.lr=0`
    line: int | None  # from 1; None where no line is to blame
    key: str  # dotted path, empty for the file as a whole
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class ConfigError(ValueError):
    """Error where a configuration cannot be used; `mistakes` are the reasons, one line each."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(dict.fromkeys(mistakes))
        super().__init__("\n".join(map(str, self.mistakes)))


def shown(value: Any) -> str:
    """A value as a short piece of one line, written as YAML would write it."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return _short("[" + ", ".join(shown(item) for item in value[:SHOWN_CHARACTERS]) + "]")
    if isinstance(value, str):
        return _short('"' + printable(value[: SHOWN_CHARACTERS + 1]) + '"')
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _short(repr(value))


def brief(text: str) -> str:
    """The beginning of a text, in one line that a terminal shows as it is."""
    return _short(printable(text[: 2 * SHOWN_CHARACTERS]), 2 * SHOWN_CHARACTERS - 1)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` is most likely a misspelling of."""
    import difflib  # here, because a configuration without a mistake never needs it

    plain = {_plain(candidate): candidate for candidate in known}
    found = difflib.get_close_matches(_plain(word), plain, n=1)
    return plain[found[0]] if found else None


def _plain(word: str) -> str:
    return word[:SHOWN_CHARACTERS].lower().replace("-", "_")


def _short(text: str, characters: int = SHOWN_CHARACTERS) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"
