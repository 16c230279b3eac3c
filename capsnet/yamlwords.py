"""Meanings of YAML's plain words, and writing of values so that they read back equal.

The meanings do not depend on the YAML version: `1e-3` is a number, `yes` is true, `010` is refused as
ambiguous, `1:30` and `2020-01-01` are text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

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


class AmbiguousError(ValueError):
    """Error in a plain word that has several meanings, or is an integer beyond 64 bits."""


def scalar(text: str) -> Any:
    """Return the value of a plain (unquoted) word. Raises AmbiguousError."""
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


def dump(values: Mapping[str, Any], indent: str = "") -> str:
    """Write plain values as YAML that `values` reads back equal: blocks for mappings, one line for a list."""
    lines: list[str] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{_word(key)}:\n", dump(value, indent + "  ")]
        else:
            lines.append(f"{indent}{_word(key)}: {inline(value)}\n")
    return "".join(lines)


def inline(value: Any) -> str:
    """Write a plain value as YAML of one line, which reads back equal; control characters are escaped."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(inline, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_word(k)}: {inline(v)}" for k, v in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):  # `1.0e-06`: PyYAML takes 1e-06 for text, and others read these files too
        digits, e, exponent = repr(value).partition("e")
        return digits + (".0" if e and "." not in digits else "") + e + exponent
    return _word(value) if isinstance(value, str) else repr(value)


def _word(text: str) -> str:
    """Write `text` plain where that reads back as the same text, else in double quotes."""
    if _PLAIN.fullmatch(text) and scalar(text) == text:
        return text
    return yaml.dump(
        text, Dumper=yaml.SafeDumper, default_style='"', width=math.inf, allow_unicode=True
    ).rstrip("\n")
