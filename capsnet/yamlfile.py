"""YAML files as data with the line of each value, and overrides put over the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from capsnet.files import odd_kind
from capsnet.mistakes import ConfigError, Mistake, brief, shown
from capsnet.validation import check, validate
from capsnet.yamltext import KeyPath, dotted, values
from capsnet.yamlwords import dump

__all__ = [
    "ConfigError",
    "Document",
    "Mistake",
    "check",
    "dump",
    "parse",
    "read",
    "validate",
    "with_overrides",
]

MAX_BYTES = 256 * 1024  # a configuration is 2 KB; a checkpoint named by mistake is not read to its end


@dataclass(frozen=True)
class Document:
    """Content of a YAML file: its data, the line of each value, overrides and mistakes."""

    file: str
    data: dict[str, Any]
    lines: Mapping[KeyPath, int]  # from 1, of each key and list item
    overrides: Mapping[KeyPath, str] = field(default_factory=dict)  # where a value was set, and how
    mistakes: tuple[Mistake, ...] = ()  # those that did not stop reading; `check` reports them
    text: str = ""
    notes: tuple[str, ...] = ()  # of overrides: which keys of the file they have dropped

    def place(self, path: KeyPath) -> tuple[str, int | None]:
        """Return the file (or override) and line where the value at `path` stands."""
        inside = [origin for below, origin in self.overrides.items() if below[: len(path)] == path]
        if inside and path not in self.lines:  # a section that exists only by overrides
            return inside[0], None
        for end in range(len(path), 0, -1):
            if path[:end] in self.overrides:
                return self.overrides[path[:end]], None
            if path[:end] in self.lines:
                return self.file, self.lines[path[:end]]
        return self.file, None

    def mistake(self, path: KeyPath, message: str) -> Mistake:
        """Return a mistake at `path`; where an override already names the key, the key is left out."""
        file, line = self.place(path)
        key = "" if self.overrides.get(path) == file else dotted(path)
        return Mistake(file, line, key, message)


def read(path: str | Path) -> Document:
    """The document in a YAML file. Raises ConfigError."""
    file = str(path)
    return parse(_text(Path(path), file), file)


def parse(text: str, file: str) -> Document:
    """The document that `text` holds; `file` names it in messages. Raises ConfigError."""
    data, lines, mistakes = values(text, file)
    if data is None:
        raise ConfigError([*mistakes, Mistake(file, None, "", "is empty: write at least one key")])
    if not isinstance(data, dict):
        message = f"must be a mapping, one `key: value` a line (got {shown(data)})"
        raise ConfigError([*mistakes, Mistake(file, lines[()], "", message)])
    return Document(file, data, lines, mistakes=tuple(mistakes), text=text)


def _text(path: Path, file: str) -> str:
    if (kind := odd_kind(path)) and not _is_open_here(path):  # to read it could take for ever
        raise ConfigError([Mistake(file, None, "", f"is a {kind}; name a YAML file")])
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError([Mistake(file, None, "", _unreadable(path, error))]) from error
    if len(content) > MAX_BYTES:
        message = f"is larger than {MAX_BYTES // 1024} KiB: not a configuration"
        raise ConfigError([Mistake(file, None, "", message)])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"is not UTF-8 text (byte 0x{content[error.start]:02x})"
        raise ConfigError([Mistake(file, line, "", message)]) from error


def _is_open_here(path: Path) -> bool:
    """Return whether a path is a pipe that this process was given, as by `<(sed ...)` of a shell."""
    return path.parent.as_posix() in ("/dev/fd", "/proc/self/fd") or path.as_posix() == "/dev/stdin"


def _unreadable(path: Path, error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "is a directory; name a YAML file"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def with_overrides(
    document: Document, overrides: Iterable[str], spelt_out: Callable[[str], str] = str
) -> Document:
    """Put each `a.b=value` over `document`, in order; values are YAML. `check` reports mistakes.

    `spelt_out`: expands a short override; mistakes quote the override as it was given.
    """
    for override in overrides:
        document = _with_override(document, spelt_out(override), f"--set {brief(override)}")
    return document


def _with_override(document: Document, override: str, origin: str) -> Document:
    key, equals, text = override.partition("=")
    path: KeyPath = tuple(key.strip().split("."))
    try:
        _check_key(document, path, equals)
        value, _, mistakes = values(text, origin)
    except ConfigError as error:
        return replace(
            document, mistakes=(*document.mistakes, *(_of(origin, path, m) for m in error.mistakes))
        )
    return replace(
        document,
        data=_put(document.data, path, value),
        lines={p: line for p, line in document.lines.items() if p[: len(path)] != path},
        overrides={**document.overrides, path: origin},
        mistakes=(*document.mistakes, *(_of(origin, path, m) for m in mistakes)),
    )


def _check_key(document: Document, path: KeyPath, equals: str) -> None:
    """Raise ConfigError unless `path` can be set."""
    if not equals or not all(path):
        raise ConfigError([Mistake("", None, "", "must read key=value, as in optim.lr=0.01")])
    for earlier, origin in document.overrides.items():
        if earlier[: len(path)] == path:
            raise ConfigError([Mistake("", None, "", f"would undo {origin}")])


def _of(origin: str, path: KeyPath, mistake: Mistake) -> Mistake:
    """A mistake in an override's value, whose keys begin at `path`."""
    key = f"{dotted(path)}.{mistake.key}" if mistake.key else ""
    return replace(mistake, file=origin, line=None, key=key)


def _put(data: Any, path: KeyPath, value: Any) -> Any:
    """Return `data` with `value` at `path`; anything but a mapping on the way there becomes a mapping."""
    if not path:
        return value
    below = data if isinstance(data, dict) else {}
    return {**below, path[0]: _put(below.get(path[0]), path[1:], value)}
