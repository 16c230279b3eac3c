"""The `--set key=value` of a run, kept beside its configuration to show what is special about the run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache


def key_of(override: str) -> str:
    """Return the key that a `key=value` sets."""
    return override.partition("=")[0].strip()


@lru_cache(maxsize=1024)
def keys_of(override: str) -> tuple[str, ...]:
    """Every key that a `key=value` names: `optim.lr` and `optim.floor` of `optim={lr: 1, floor: 0}`."""
    from capsnet.yamltext import flat, values

    key, _, text = override.partition("=")
    value, _, _ = values(text, override)
    return tuple(flat({key.strip(): value})) if isinstance(value, dict) else (key.strip(),)


def is_below(key: str, section: str) -> bool:
    """Return whether a key is the section itself or belongs to it: `optim.lr` to `optim`."""
    return key == section or key.startswith(f"{section}.")


def merged(before: Sequence[str], later: Sequence[str]) -> tuple[str, ...]:
    """The `--set` of a submission and of the resumes after it; a later value of a key replaces an earlier."""
    kept = [old for old in before if not any(is_below(key_of(old), key_of(new)) for new in later)]
    return (*kept, *later)
