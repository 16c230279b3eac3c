"""Text without the passwords, tokens and keys in it, as it may be printed, logged, stored and published.

Two ways, for neither is enough: by their form in URLs and settings, from any program; and by their value,
where this process was given them, in whatever form a library repeats them. What looks like a secret and is
none is hidden, too. Standard library only.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping

HIDDEN = "***"
SHORTEST = 6  # characters of a secret that is hidden by its value: shorter ones stand in ordinary words

# Names of query parameters and settings whose values are secrets, such as access_token or X-Amz-Signature.
WORDS = (
    "password|passwd|passphrase|secret|token|credentials?|signature|"
    "(?:api|access|account|private|secret)[_-]?key(?:[_-]?id)?"
)
NAME = rf"(?:[\w.-]*(?:{WORDS})|(?:[\w.-]*[_.-])?(?:pass|pwd|sig|auth))"

# A user and a password before a host. Signs that should have been percent-encoded are taken for a part of the
# password, up to the last @ before a space or, unless a port may be meant, of the line: "http://host:5000 is
# down, ask ada@example.org". After a database's user a number may begin a password; in HTTP it is a port.
HTTP, OTHER = "(?:(?<=http://)|(?<=https://))", "(?<=://)(?<!http://)(?<!https://)"
USER = r"(?![/\[])[^\s/?#:@]*:"
NO_PORT = r"(?!\d{1,5}(?:[/?#\s,;)\]'\"]|$))"
USER_AND_PASSWORD = re.compile(
    rf"{HTTP}{USER}{NO_PORT}(?:\S*@|[^\n]*@)|{OTHER}{USER}(?:\S*@|{NO_PORT}[^\n]*@)",
    re.MULTILINE | re.IGNORECASE,
)
LONG_USER_AND_PASSWORD = re.compile(rf"(?<=://){USER}{NO_PORT}[^\n]*@", re.MULTILINE)
USER_ALONE = re.compile(rf"{HTTP}[^/?#\s@]*@", re.IGNORECASE)
PARAMETER = re.compile(rf"(?i)(?<![\w.-])({NAME}=)(?:'[^'\n]*'|\"[^\"\n]*\"|[^\s&])[^\s&]*")
LAST_PARAMETERS = re.compile(rf"(?i)(?<=[?&;#])({NAME}=)[^\n&]*(?:&(?![\w.-]+=)[^\n&]*)*")
IN_QUOTES = re.compile(rf"(?i)(['\"]{NAME}['\"]\s*[:=]\s*)(?:'[^'\n]*'|\"[^\"\n]*\")")
HEADER = re.compile(r"(?i)(\bauthorization['\"]?\s*[:=]\s*['\"]?(?:\w+\s+)?|\bbearer\s+(?=\S{16}))[^\s'\"]+")
WHOLE_URL = re.compile(r"[a-zA-Z][\w+.-]*://")
SECRET_VARIABLE = re.compile(
    r"(?i)(?:^|_)(?:[a-z]*password|passwd|passphrase|secret|token|key|credentials?)(?:_|$)"
)


def redacted(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """`text` without secrets: those of the variables, and what looks like one.

    Users and passwords before a host are left out, so that the URL leads there; others become asterisks.
    """
    return Redactor(environ)(text)


class Redactor:
    """Redaction of many texts: of the secrets that these variables hold, and of what looks like one."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        spellings = {spelling for secret in _secrets(environ) for spelling in _spellings(secret)}
        longest_first = sorted(spellings, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        return _without_forms(text)


def has_password(url: str) -> bool:
    """Return whether a URL holds a secret."""
    return _without_forms(url) != url


def _without_forms(text: str) -> str:
    if WHOLE_URL.match(text):  # what follows a space may still be of a password
        text = LONG_USER_AND_PASSWORD.sub("", text)
        text = LAST_PARAMETERS.sub(rf"\1{HIDDEN}", text)
    if "://" in text:
        text = USER_ALONE.sub("", USER_AND_PASSWORD.sub("", text))
    if "=" in text:
        text = PARAMETER.sub(rf"\1{HIDDEN}", text)
    return HEADER.sub(rf"\1{HIDDEN}", IN_QUOTES.sub(rf"\1{HIDDEN}", text))


def _secrets(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the secrets in the values of variables, as they are written there."""
    for name, value in environ.items():
        if SECRET_VARIABLE.search(name):
            yield value
        if "://" in value:
            yield from _of_url(value)


def _of_url(url: str) -> Iterator[str]:
    for pattern in (LONG_USER_AND_PASSWORD, USER_AND_PASSWORD):
        for found in pattern.finditer(url):
            yield found[0].removesuffix("@").partition(":")[2]
    for found in LAST_PARAMETERS.finditer(url):
        yield found[0].partition("=")[2]


def _spellings(secret: str) -> set[str]:
    """Return the spellings of a secret: as it was written, decoded, encoded, as Python writes text."""
    decoded = {secret, urllib.parse.unquote(secret), urllib.parse.unquote_plus(secret)}
    encoded = {
        encode(one, safe=safe)
        for one in decoded
        for encode in (urllib.parse.quote, urllib.parse.quote_plus)
        for safe in ("", "/")
    }
    escaped = {repr(one)[1:-1] for one in decoded}
    return {one for one in decoded | encoded | escaped if len(one) >= SHORTEST}
