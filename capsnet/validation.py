"""Validation of data by a schema: an instance, or all mistakes, each with its place in the document."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from capsnet.mistakes import ConfigError, Mistake
from capsnet.schema import Schema, dotted_keys, spot
from capsnet.wording import unknown_key, unknown_kinds, wrong_value
from capsnet.yamltext import KeyPath, dotted

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Model = TypeVar("Model", bound=BaseModel)


class Source(Protocol):
    """Document that can be checked: it has the mistakes of reading it, and finds the place of each key."""

    @property
    def mistakes(self) -> tuple[Mistake, ...]: ...

    def mistake(self, path: KeyPath, message: str) -> Mistake: ...


@dataclass(frozen=True)
class Finding:
    """One mistake in a mapping of values, without its place in a file."""

    path: KeyPath
    message: str
    unknown: bool = False  # the key, not its value
    involved: tuple[KeyPath, ...] = ()  # the keys that contradict each other


def validate(
    schema: type[Model],
    data: Mapping[str, Any],
    document: Source,
    prefix: KeyPath = (),
    known: Collection[str] = (),
) -> Model:
    """Return `data` as an instance of `schema`. Raises ConfigError with all mistakes of data and document.

    `prefix`: where `data` stands in the document. `known`: dotted keys beside this schema's, to be suggested
    for a misspelt one.
    """
    model, mistakes = check(schema, data, document, prefix, known)
    if model is None or document.mistakes:
        raise ConfigError(in_order([*document.mistakes, *mistakes]))
    return model


def check(
    schema: type[Model],
    data: Mapping[str, Any],
    document: Source,
    prefix: KeyPath = (),
    known: Collection[str] = (),
) -> tuple[Model | None, list[Mistake]]:
    """Validate one of several parts of a document; return the model or None, and the mistakes in `data`."""
    own = [dotted((*prefix, key)) for key in dotted_keys(schema)]
    model, findings = _examine(schema, data, [*own, *known], prefix)
    mistakes = [document.mistake((*prefix, *finding.path), finding.message) for finding in findings]
    refused = {(m.file, m.line, m.key) for m in document.mistakes}
    return model, [m for m in mistakes if (m.file, m.line, m.key) not in refused]


def in_order(mistakes: Iterable[Mistake]) -> list[Mistake]:
    """Sort mistakes by their lines in the file; those of overrides come last."""
    return sorted(mistakes, key=lambda mistake: (mistake.file.startswith("--set "), mistake.line or 0))


def _examine(
    schema: type[Model], data: Mapping[str, Any], known: list[str], prefix: KeyPath
) -> tuple[Model | None, list[Finding]]:
    try:
        return schema.model_validate(data), []
    except ValidationError as error:
        findings = [f for details in error.errors() for f in _findings(schema, details, data, known, prefix)]
    # pydantic does not count the wrong items of a list, and then finds it too short as well.
    findings = [found for found in findings if not _holds_another(found, findings)]
    # Contradictions only show where every value is right by itself: look again without the wrong ones.
    rest = data
    for finding in findings:
        rest = _without(rest, finding.path)
    if rest != data:
        _, later = _examine(schema, rest, known, prefix)
        findings += [found for found in later if found.involved and not _follows(found, findings)]
    return None, findings


def _holds_another(finding: Finding, findings: Iterable[Finding]) -> bool:
    return any(
        len(other.path) > len(finding.path) and other.path[: len(finding.path)] == finding.path
        for other in findings
    )


def _findings(
    schema: Schema, details: ErrorDetails, data: Mapping[str, Any], known: list[str], prefix: KeyPath
) -> Iterator[Finding]:
    if details["type"] == "contradictions":
        yield from (Finding(path, text, involved=keys) for path, text, keys in details["ctx"]["found"])  # type: ignore
        return
    where = spot(schema, details["loc"])
    if details["type"] == "extra_forbidden":
        section = _at(data, where.path[:-1])
        yield Finding(where.path, unknown_key(where, section, known, prefix), unknown=True)
    elif details["type"] == "union_tag_invalid":
        yield from (Finding(*found) for found in unknown_kinds(schema, where.path, details["input"]))
    else:
        yield Finding(where.path, wrong_value(details))


def _at(data: Any, path: KeyPath) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def _without(data: Mapping[str, Any], path: KeyPath) -> dict[str, Any]:
    """Return `data` without the value at `path`; a list with a wrong item is left out as a whole."""
    if not path:
        return {}
    key, below = path[0], data.get(str(path[0]))
    rest = {name: value for name, value in data.items() if name != key}
    return {**rest, str(key): _without(below, path[1:])} if isinstance(below, dict) and path[1:] else rest


def _follows(contradiction: Finding, findings: Iterable[Finding]) -> bool:
    """Return whether a contradiction may come only from a value left out, or from a misspelt key."""
    return any(
        involved[: len(found.path)] == found.path or (found.unknown and involved[:-1] == found.path[:-1])
        for involved in contradiction.involved
        for found in findings
    )
