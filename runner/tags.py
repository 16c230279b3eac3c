"""Limits of tags and notes: text that MLflow takes, without signs that a terminal would obey."""

from __future__ import annotations

import re
import unicodedata

LONGEST = 5000  # characters of a tag's value and of a note, MLflow's limit

NO_TEXT = ("Cc", "Cs")  # control characters, and surrogates: bytes that are no UTF-8

# Tags that a run has in MLflow by itself, and sections of such tags.
OURS = frozenset({"host", "devices", "git.dirty"})
OUR_SECTIONS = ("runner.", "mlflow.", "config.")


def key(text: str) -> str:
    """Return the key of a tag. Raises ValueError for one that MLflow does not take."""
    if not re.fullmatch(r"[A-Za-z0-9_./ -]{1,200}", text):
        raise ValueError("must be at most 200 letters, digits, spaces and _ . / -")
    return text


def is_ours(key: str) -> bool:
    """Return whether a tag of this key is one that a run, or MLflow, gives to itself."""
    return key in OURS or key.startswith(OUR_SECTIONS)


def require_text(text: str, allowed: str = "") -> None:
    """Raise ValueError for text that is too long or holds signs that are no text, except `allowed` ones."""
    if len(text) > LONGEST:
        raise ValueError(f"must have at most {LONGEST:,} characters (this has {len(text):,})")
    found = (sign for sign in text if unicodedata.category(sign) in NO_TEXT and sign not in allowed)
    odd = next(found, None)
    if odd is not None:
        raise ValueError(f"holds a sign that is no text: {odd!a}")
