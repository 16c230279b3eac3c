"""Choosing another kind of a section by an override, as in `--set model=cnn`.

What a file says of the kind that it names is of no use to another one: those keys are dropped, with a note.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from capsnet.mistakes import ConfigError
from capsnet.schema import Schema, default_kind, kinds_at, tags
from capsnet.yamltext import KeyPath, dotted, values

if TYPE_CHECKING:
    from capsnet.yamlfile import Document

Data = Mapping[str, Any]  # of a document, or of a section in it

NAME = "name"  # the key by which a word alone chooses the kind of a section


def spelt_out(schema: Schema, override: str) -> str:
    """The override that `key=value` stands for: `model.name=cnn` for `model=cnn`, else itself."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or NAME not in _choice(schema, tuple(key.split("."))):
        return override
    try:
        value, _, _ = values(text, override)
    except ConfigError:  # reported where the override is applied
        return override
    return f"{key}.{NAME}={text}" if isinstance(value, str) else override


def without_other_kinds(
    schema: Schema, file: Document, document: Document, with_defaults: Callable[[dict[str, Any]], Data]
) -> Document:
    """`document` without the keys of its file that only fit kinds of sections which overrides have replaced.

    `file`: the same without overrides. `with_defaults`: data with what its other values ask for, such as a
    preset, put under them, so that all its sections have the kinds that they come to.
    """
    before, after = with_defaults(file.data), with_defaults(document.data)
    for path in _choices(schema, document.data):
        old, new = (_kind(schema, path, _at(data, path)) for data in (before, after))
        if old is not None and new is not None and old is not new:
            document = _of_one_kind(document, path, old, new)
    return document


def _choices(schema: Schema, data: Data, around: KeyPath = ()) -> Iterator[KeyPath]:
    """The sections of which there are several kinds, those around others first."""
    for key, value in data.items():
        path = (*around, key)
        if isinstance(value, Mapping):
            if _choice(schema, path):
                yield path
            yield from _choices(schema, value, path)


def _choice(schema: Schema, path: KeyPath) -> Collection[str]:
    """The keys that choose the kind of the section at `path`; none where there is no choice."""
    kinds = kinds_at(schema, path)
    return tags(kinds[0]) if path and len(kinds) > 1 else ()


def _of_one_kind(document: Document, path: KeyPath, old: Schema, new: Schema) -> Document:
    """`document` without the keys of its file in one section that fit the `old` kind and not the `new`."""
    section = _at(document.data, path)
    misfits = _refused(new, {**section, **tags(new)}) - _refused(old, {**section, **tags(old)})
    kept = {key: value for key, value in section.items() if key not in misfits}
    for key in (key for key in section if key in misfits):
        kept |= dict(_set_only(section[key], (*path, key), document.overrides))
    dropped = [key for key in _leaves(section) if key not in _leaves(kept)]
    if not dropped:
        return document
    chosen = [f"{dotted((*path, key))}={word}" for key, word in tags(new).items() if tags(old)[key] != word]
    names = ", ".join(f"{dotted(path)}.{key}" for key in dropped)
    words = " ".join(word for key, word in tags(old).items() if tags(new)[key] != word)
    note = f"{document.file}: {', '.join(chosen)}: dropped {names} of {words}"
    depth = len(path) + 1
    gone = {(*path, key) for key in misfits}  # what is still there of them was set
    lines = {place: line for place, line in document.lines.items() if place[:depth] not in gone}
    data = _with(document.data, path, kept)
    return replace(document, data=data, lines=lines, notes=(*document.notes, note))


def _leaves(section: Data) -> list[str]:
    """The dotted keys of a section that hold no others; an empty section in it is one."""
    found: list[str] = []
    for key, value in section.items():
        below = _leaves(value) if isinstance(value, Mapping) else []
        found += [f"{key}.{leaf}" for leaf in below] or [key]
    return found


def _kind(schema: Schema, path: KeyPath, section: Data) -> Schema | None:
    """The kind that a section is by its words; None where there is no such kind."""
    words = {key: section.get(key, word) for key, word in tags(default_kind(schema, path)).items()}
    return next((kind for kind in kinds_at(schema, path) if tags(kind) == words), None)


def _refused(kind: Schema, section: Data) -> set[str]:
    """The keys of a section that a kind does not have, or whose values it does not take."""
    try:
        kind.model_validate(section)
    except ValidationError as error:
        return {str(details["loc"][0]) for details in error.errors() if details["loc"]}
    return set()


def _set_only(value: Any, path: KeyPath, overrides: Collection[KeyPath]) -> Iterator[tuple[str, Any]]:
    """The last key of `path` with as much of its value as overrides have set; nothing where none has."""
    if any(path[:end] in overrides for end in range(1, len(path) + 1)):  # itself, or a section around it
        yield str(path[-1]), value
    elif isinstance(value, dict):
        below = dict(item for key in value for item in _set_only(value[key], (*path, key), overrides))
        if below:
            yield str(path[-1]), below


def _at(data: Any, path: KeyPath) -> Data:
    """The section at `path`, empty where there is none."""
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data if isinstance(data, Mapping) else {}


def _with(data: Data, path: KeyPath, section: Data) -> dict[str, Any]:
    """`data` with another section in the place of the one at `path`."""
    key, *below = path
    return {**data, str(key): _with(data[str(key)], tuple(below), section) if below else dict(section)}
