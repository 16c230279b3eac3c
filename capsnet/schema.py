"""A tree of pydantic models, read as a schema: which keys stand where, which kinds a section may be of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Schema = type[BaseModel]


@dataclass(frozen=True)
class Spot:
    """Where a key stands: its path, the model it stands in, and that model's alternatives."""

    path: tuple[str | int, ...]
    owner: Schema  # the innermost section around it
    kinds: tuple[Schema, ...]  # the union of kinds that `owner` belongs to


def sections(annotation: Any) -> list[Schema]:
    """The models that a field of this type may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections(part)]


def tags(kind: Schema) -> dict[str, str]:
    """The keys and words by which a union tells this kind: `{"name": "sgd", "schedule": "cosine"}`."""
    return {
        name: field.default
        for name, field in kind.model_fields.items()
        if isinstance(field.default, str) and get_args(field.annotation) == (field.default,)
    }


def kinds_at(schema: Schema, path: Sequence[str | int]) -> tuple[Schema, ...]:
    """Every kind that the section at `path` can be, whatever the kinds of the sections around it."""
    kinds = [schema]
    for key in path:
        kinds = [kind for field in _fields(kinds, key) for kind in sections(field.annotation)]
    return tuple(dict.fromkeys(kinds))


def default_kind(schema: Schema, path: Sequence[str | int]) -> Schema:
    """The kind of the section at `path` where nothing chooses another."""
    *around, key = path
    return next(
        type(field.default)
        for field in _fields(kinds_at(schema, around), key)
        if isinstance(field.default, BaseModel)
    )


def _fields(kinds: Iterable[Schema], key: str | int) -> list[FieldInfo]:
    return [kind.model_fields[str(key)] for kind in kinds if key in kind.model_fields]


def spot(schema: Schema, location: Sequence[str | int]) -> Spot:
    """The key at pydantic's location, in which each word of a chosen kind is a step, unlike in the file."""
    path: list[str | int] = []
    owner: Schema = schema
    kinds: tuple[Schema, ...] = ()
    inside_kinds: tuple[Schema, ...] = ()  # of the section in which the next key stands
    candidates = [schema]  # those of them that it may be, by the words so far
    for step in location:
        if step == "[key]":  # pydantic's mark for a wrong key of a free mapping
            continue
        if len(candidates) > 1:
            candidates = [kind for kind in candidates if step in tags(kind).values()]
            continue
        path.append(step)
        if not candidates:  # a list's item, or a free mapping's
            continue
        owner, kinds = candidates[0], inside_kinds
        field = owner.model_fields.get(str(step))
        candidates = sections(field.annotation) if field else []
        inside_kinds = tuple(candidates)
    return Spot(tuple(path), owner, kinds)


def fields_at(schema: Schema, key: str) -> list[FieldInfo]:
    """The fields that a dotted key names, of every kind of its sections."""
    *around, last = key.split(".")
    return _fields(kinds_at(schema, around), last)


@cache
def dotted_keys(schema: Schema) -> tuple[str, ...]:
    """Every key below `schema`, of every kind: `optim.lr`."""
    keys: list[str] = []
    for name, field in schema.model_fields.items():
        keys.append(name)
        for section in sections(field.annotation):
            keys += [f"{name}.{key}" for key in dotted_keys(section)]
    return tuple(dict.fromkeys(keys))
