"""A configuration as the row of a run holds it, read without the schema, which takes long to import.

PyYAML takes 10 ms, and most listings need none of it: it is imported where something is read.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from runner.rows import Run

BLOCK = "runner"
TAGS = f"{BLOCK}.tags."
PRIORITY = f"{BLOCK}.priority"

OF_PARSERS = tuple("|>&*!")  # text of several lines, names for values, tags begin so
INDENT = 2  # spaces more for the keys of a section, in the YAML of a row


def document(run: Run) -> dict[str, Any]:
    """Return the resolved YAML of a run as plain values, section by section; not to be changed."""
    return _parsed(run.config)


def settings(run: Run) -> dict[str, Any]:
    """Return every key of a run with its value now, in the order of the file: {"optim.lr": 0.001}.

    Priority and tags are those of the row, for they change after the submission.
    """
    from capsnet.yamltext import flat

    found = {key: value for key, value in flat(document(run)).items() if not key.startswith(TAGS)}
    return found | {PRIORITY: run.priority} | {f"{TAGS}{key}": value for key, value in run.tags.items()}


def is_of_training(key: str) -> bool:
    """Return whether a key belongs to the training, and is not the run's name, priority or a tag."""
    return key not in ("name", PRIORITY) and not key.startswith(TAGS)


@lru_cache(maxsize=1024)  # `watch` asks for the same ones once a second
def _parsed(text: str) -> dict[str, Any]:
    found = line_by_line(text)
    return _yaml(text) or {} if found is None else found


def _yaml(text: str) -> Any:
    from capsnet.yamltext import values

    return values(text, "the run's configuration")[0]


def line_by_line(text: str) -> dict[str, Any] | None:
    """The data of YAML as `submit` writes it, a line for each key or section: five times as fast as parsed.

    None where a line is anything else. Each line is read once, however many runs have it.
    """
    open_sections: list[dict[str, Any]] = [{}]
    every = [*open_sections]
    for line in text.rstrip("\n").split("\n"):
        read = _line(line)
        if read is None or read.depth >= len(open_sections):
            return None
        del open_sections[read.depth + 1 :]
        section = open_sections[-1]
        if read.key in section:
            return None
        if read.is_section:
            section[read.key] = {}
            open_sections.append(section[read.key])
            every.append(section[read.key])
        else:
            section[read.key] = read.value
    return open_sections[0] if all(every) else None  # `key:` with nothing in it is null


class Line(NamedTuple):
    """A line of a configuration: a key with its value, or the name of a section, `depth` sections down."""

    depth: int
    key: str
    value: Any
    is_section: bool


@lru_cache(maxsize=8192)
def _line(line: str) -> Line | None:
    """Return a line of plain words; None for one that only a parser understands."""
    from capsnet.mistakes import ConfigError

    words = line.lstrip(" ")
    key, colon, value = words.partition(":")
    depth, odd = divmod(len(line) - len(words), INDENT)
    is_plain = key[:1].isalpha() and not key.endswith(" ") and (not value or value[0] == " ")
    if not colon or odd or not is_plain or value[1:2] in OF_PARSERS:
        return None
    try:
        return Line(depth, key, _yaml(value) if value else None, is_section=not value)
    except ConfigError:  # a list that goes on in the next line, say
        return None
