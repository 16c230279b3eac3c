"""YAML text to plain values and back: the part of YAML that configurations need, strictly.

Built on PyYAML's event stream, so that every value keeps its line, no tag can run code, a duplicate
key is seen, and plain words mean the same whatever the YAML version: `1e-3` is a number, `010` is
refused as ambiguous, `1:30` and `2020-01-01` are text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from capsnet.mistakes import ConfigError, Mistake, ascii_escapes

KeyPath = tuple[str | int, ...]

MAX_VALUES = 10_000  # once aliases are expanded: a few lines of aliases can stand for billions
MAX_DEPTH = 20

# libyaml's parser where PyYAML was built with it: ten times as fast.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys((w for b in ("true", "yes", "on") for w in (b, b.title(), b.upper())), True),
    **dict.fromkeys((w for b in ("false", "no", "off") for w in (b, b.title(), b.upper())), False),
}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*|0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_FLOAT = re.compile(r"[-+]?([0-9]+(_[0-9]+)*(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = {"inf": math.inf, "nan": math.nan}
_PLAIN = re.compile(r"(\.{0,2}/)?[A-Za-z_][A-Za-z0-9_./+-]*( [A-Za-z0-9_./+-]+)*")
_UNPRINTABLE = yaml.reader.Reader.NON_PRINTABLE


class AmbiguousError(ValueError):
    """A plain word that must not be guessed at."""


def scalar(text: str) -> Any:
    """The value of a plain (unquoted) word. Raises AmbiguousError."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _LEADING_ZERO.fullmatch(text):
        raise AmbiguousError(
            "a leading zero makes it octal or decimal, depending on the YAML version; drop the zero"
        )
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    sign, _, word = text.rpartition(".")
    if sign in ("", "-", "+") and text != word and word.lower() in _SPECIAL_FLOAT:
        return math.copysign(1, -1 if sign == "-" else 1) * _SPECIAL_FLOAT[word.lower()]
    return text


def _integer(text: str) -> int:
    if len(text) > 80 or not -(2**63) <= (value := int(text, 0)) < 2**63:
        raise AmbiguousError("does not fit 64 bits; write it in quotes if it is meant as text")
    return value


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
    begin = getattr(error, "context_mark", None)
    if begin is not None and begin.line + 1 != line:
        problem += f" {error.context} from line {begin.line + 1}"
    return Mistake(file, line, "", f"is not valid YAML: {ascii_escapes(problem)}")


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
                self.lines[path], path, f"the tag {ascii_escapes(tag)} is not allowed: write plain values"
            )
        value = self.content(event, path)
        if event.anchor is not None:
            self.anchors[event.anchor] = (value, self.values - before)
        return value

    def content(self, event: Any, path: KeyPath) -> Any:
        if len(path) >= MAX_DEPTH and not isinstance(event, yaml.ScalarEvent):
            raise self.fatal(event, path[:2], f"is nested deeper than {MAX_DEPTH} levels")
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
            self.refuse(self.lines[path], path, f"{error} (got {ascii_escapes(event.value[:40])})")
            return None

    def alias(self, event: Any, path: KeyPath) -> Any:
        if event.anchor not in self.anchors:
            raise self.fatal(
                event, path, f"the alias *{ascii_escapes(event.anchor)} stands for nothing whole"
            )
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
    return ".".join(ascii_escapes(str(part))[:100] for part in path)


def dump(values: Mapping[str, Any], indent: str = "") -> str:
    """Plain values as YAML that `values` reads back equal: blocks for mappings, one line for a list."""
    lines: list[str] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{_word(key)}:\n", dump(value, indent + "  ")]
        else:
            lines.append(f"{indent}{_word(key)}: {_inline(value)}\n")
    return "".join(lines)


def _inline(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_word(k)}: {_inline(v)}" for k, v in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):  # `1.0e-06`: PyYAML takes 1e-06 for text, and others read these files too
        digits, e, exponent = repr(value).partition("e")
        return digits + (".0" if e and "." not in digits else "") + e + exponent
    return _word(value) if isinstance(value, str) else repr(value)


def _word(text: str) -> str:
    """`text` plain where that reads back as the same text, else in double quotes."""
    if _PLAIN.fullmatch(text) and scalar(text) == text:
        return text
    return yaml.dump(
        text, Dumper=yaml.SafeDumper, default_style='"', width=math.inf, allow_unicode=True
    ).rstrip("\n")
