"""pydantic's findings in words for users: what is allowed, what was found, what may have been meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from capsnet.mistakes import nearest, shown
from capsnet.schema import Schema, Spot, kinds_at, tags
from capsnet.yamltext import KeyPath, dotted

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

# What is allowed, by pydantic's name for what is wrong.
ALLOWED = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text (in quotes, if need be)",
    "tuple_type": "must be a list, as in [40, 80]",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a section of keys; leave it out to take its defaults",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must be a list of at least {min_length}",
    "too_long": "must be a list of at most {max_length}",
    "string_too_long": "must be at most {max_length} characters",
}


def wrong_value(details: ErrorDetails) -> str:
    """Return why a value is not accepted."""
    context = {name: _bound(value) for name, value in details.get("ctx", {}).items()}
    found = f"(got {shown(details['input'])})"
    match details["type"]:
        case "literal_error":
            words = [word.strip("'") for word in re.split(", | or ", context["expected"])]
            return f"{choose(details['input'], words)} {found}"
        case "missing":
            return "is required"
        case "value_error":
            return f"{context['error']} {found}"
        case kind:
            return f"{ALLOWED.get(kind, 'is not allowed here').format(**context)} {found}"


def _bound(value: Any) -> Any:
    """Return a bound as a person writes it: 0 and not 0.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def choose(value: Any, words: Sequence[str]) -> str:
    """Return the words to choose from as a message, with the word that was likely meant."""
    meant = nearest(value, words) if isinstance(value, str) else None
    only = f"must be {words[0]}" if len(words) == 1 else f"must be one of {', '.join(words)}"
    return f"{only}; did you mean `{meant}`?" if meant and len(words) > 1 else only


def unknown_kinds(schema: Schema, path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, str]]:
    """Yield the path of each key whose word names no kind, and the message for it."""
    owners = kinds_at(schema, path)
    elsewhere = {word: hint for owner in owners for word, hint in getattr(owner, "elsewhere", {}).items()}
    for key in tags(owners[0]):
        words = list(dict.fromkeys(tags(owner)[key] for owner in owners))
        word = value.get(key, words[0]) if isinstance(value, Mapping) else value
        if word not in words:
            hint = f"; {elsewhere[word]}" if isinstance(word, str) and word in elsewhere else ""
            yield (*path, key), f"{choose(word, words)}{hint} (got {shown(word)})"


def unknown_key(where: Spot, section: Any, known: Sequence[str], prefix: KeyPath) -> str:
    """Return why a key means nothing here. `section`: the keys beside it; `known`: all keys that exist."""
    key = str(where.path[-1])
    if homes := [kind for kind in where.kinds if key in kind.model_fields]:
        own = tags(where.owner)
        name, words = _homes(own, homes)
        default = "" if isinstance(section, Mapping) and name in section else ", the default here"
        *others, last = words
        belongs = f"{', '.join(others)} or {last}" if others else last
        return f"`{key}` means nothing with {name}: {own[name]}{default}; it belongs to {name}: {belongs}"
    here = dotted((*prefix, *where.path[:-1]))
    elsewhere = {name for kind in where.kinds for name in kind.model_fields} - set(where.owner.model_fields)
    siblings = [name for name in known if name.rpartition(".")[0] == here and _leaf(name) not in elsewhere]
    if meant := _meant(key, siblings, known):
        return f"unknown key; did you mean `{meant}`?"
    return f"unknown key; known here: {', '.join(_leaf(name) for name in siblings)}"


def _homes(own: Mapping[str, str], homes: Sequence[Schema]) -> tuple[str, list[str]]:
    """Return the key and choices of the one word to change of the kind `own` to get one of `homes`."""
    for name in own:
        rest = {key: word for key, word in own.items() if key != name}
        words = [tags(home)[name] for home in homes if rest.items() <= tags(home).items()]
        if words:
            return name, words
    raise AssertionError("kinds of one section that differ in more than one word from all that have a key")


def _meant(key: str, siblings: Sequence[str], known: Sequence[str]) -> str | None:
    """Return the same key of another section, or one spelt alike here or in another section."""
    same = [name for name in known if _leaf(name) == key]
    if same:
        return same[0]
    for candidates in (siblings, known):
        leaves = {_leaf(name): name for name in reversed(candidates)}
        if found := nearest(key, leaves):
            return leaves[found]
    return None


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]
