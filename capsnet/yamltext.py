"""YAML text to plain values: the part of YAML that configurations need, strictly.

Built on PyYAML's event stream, so that every value keeps its line, no tag can run code, a duplicate
key is seen, and nesting and aliases are bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from capsnet.mistakes import ConfigError, Mistake
from capsnet.printable import printable
from capsnet.yamlwords import AmbiguousError, scalar

KeyPath = tuple[str | int, ...]

MAX_VALUES = 10_000  # once aliases are expanded: a few lines of aliases can stand for billions
MAX_DEPTH = 20
TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels"

# libyaml's parser where PyYAML was built with it: ten times as fast.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_UNPRINTABLE = yaml.reader.Reader.NON_PRINTABLE


def values(text: str, file: str) -> tuple[Any, dict[KeyPath, int], list[Mistake]]:
    """A YAML document's value, the line of each key and item, and the mistakes that can be passed over.

    An empty document is None. Raises ConfigError where reading on makes no sense: syntax, size, nesting.
    """
    if found := _UNPRINTABLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        character = f"U+{ord(found.group()):04X}"
        raise ConfigError([Mistake(file, line, "", f"is not text: it holds the character {character}")])
    parser = _Parser(text, file)
    try:
        return parser.document(), parser.lines, parser.mistakes
    except yaml.YAMLError as error:
        raise ConfigError([_syntax(error, text, file)]) from error


def _syntax(error: Any, text: str, file: str) -> Mistake:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return Mistake(file, None, "", f"is not valid YAML: {' '.join(str(error).split())}")
    lines = text.splitlines()
    line = min(mark.line + 1, len(lines))
    if any("\t" in near[: len(near) - len(near.lstrip())] for near in lines[max(line - 2, 0) : line]):
        return Mistake(file, line, "", "a tab: YAML is indented with spaces")
    problem = getattr(error, "problem", None) or "not understood"
    if "nesting depth" in problem:  # a bound of newer versions of LibYAML, met while they read ahead
        return Mistake(file, line, "", TOO_DEEP)
    begin = getattr(error, "context_mark", None)
    if begin is not None and begin.line + 1 != line:
        problem += f" {error.context} from line {begin.line + 1}"
    return Mistake(file, line, "", f"is not valid YAML: {printable(problem)}")


class _Parser:
    """Builds plain values from events, and nothing but plain values, to a bounded depth."""

    def __init__(self, text: str, file: str) -> None:
        self.events: Iterator[Any] = yaml.parse(text, Loader=_Loader)
        self.file = file
        self.lines: dict[KeyPath, int] = {}
        self.mistakes: list[Mistake] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.values = 0

    def document(self) -> Any:
        value, documents = None, 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self.fatal(event, (), "a second YAML document (`---`): one file describes one run")
                value = self.value(next(self.events), ())
        return value

    def value(self, event: Any, path: KeyPath) -> Any:
        """The value that begins with `event`. Refused ones are noted, and read as None."""
        self.lines.setdefault(path, event.start_mark.line + 1)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, path)
        before = self.values
        self.count(1, event, path)
        if event.tag not in (None, "!"):
            tag = event.tag.replace("tag:yaml.org,2002:", "!!", 1)
            self.refuse(
                self.lines[path], path, f"the tag {printable(tag)} is not allowed: write plain values"
            )
        value = self.content(event, path)
        if event.anchor is not None:
            self.anchors[event.anchor] = (value, self.values - before)
        return value

    def content(self, event: Any, path: KeyPath) -> Any:
        if len(path) >= MAX_DEPTH and not isinstance(event, yaml.ScalarEvent):
            raise self.fatal(event, path[:2], TOO_DEEP)
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(path)
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(path)
        return self.word(event, path)

    def sequence(self, path: KeyPath) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.value(event, (*path, len(items))))
        return items

    def mapping(self, path: KeyPath) -> dict[str, Any]:
        pairs: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            key = self.key(event, path)
            if key in pairs:
                first = self.lines[(*path, key)]
                self.refuse(line, (*path, key), f"duplicate key, first on line {first}")
                self.value(next(self.events), (*path, key))
                continue
            self.lines[(*path, key)] = line
            pairs[key] = self.value(next(self.events), (*path, key))
        return pairs

    def key(self, event: Any, path: KeyPath) -> str:
        """Keys are text as it stands: `on:` and `1:` are the keys "on" and "1"."""
        if not isinstance(event, yaml.ScalarEvent):
            raise self.fatal(event, path, "a key must be a word")
        if event.value == "<<" and event.implicit[0]:
            raise self.fatal(event, path, "merge keys (`<<`) are not supported: write the keys out")
        return event.value

    def word(self, event: Any, path: KeyPath) -> Any:
        if not event.implicit[0]:
            return event.value
        try:
            return scalar(event.value)
        except AmbiguousError as error:
            self.refuse(self.lines[path], path, f"{error} (got {printable(event.value[:40])})")
            return None

    def alias(self, event: Any, path: KeyPath) -> Any:
        if event.anchor not in self.anchors:
            raise self.fatal(event, path, f"the alias *{printable(event.anchor)} stands for nothing whole")
        value, size = self.anchors[event.anchor]
        self.count(size, event, path)
        return value

    def count(self, size: int, event: Any, path: KeyPath) -> None:
        self.values += size
        if self.values > MAX_VALUES:
            raise self.fatal(event, path[:2], f"more than {MAX_VALUES:,} values, aliases expanded")

    def refuse(self, line: int, path: KeyPath, message: str) -> None:
        self.mistakes.append(Mistake(self.file, line, dotted(path), message))

    def fatal(self, event: Any, path: KeyPath, message: str) -> ConfigError:
        return ConfigError(
            [*self.mistakes, Mistake(self.file, event.start_mark.line + 1, dotted(path), message)]
        )


def dotted(path: KeyPath) -> str:
    """`("optim", "milestone", 0)` as `optim.milestone.0`, for people."""
    return ".".join(printable(str(part))[:100] for part in path)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one dictionary: {"optim": {"lr": 1}} -> {"optim.lr": 1}."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves
