"""docker/compose.yaml as it is written: its services with their commands and variables, without Docker."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "docker"
VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?:(?P<operator>:?[-?])(?P<word>[^}]*))?\})")


class Unset(Exception):  # noqa: N818 - the name says what happened
    """A variable that has no default is not set; the message is the file's own."""


@dataclass(frozen=True)
class ComposeService:
    """A service of a Compose file: the process that Docker would start, without the container."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folders: Mapping[str, str]  # of named volumes: the volume, and where the service sees it
    check: tuple[str, ...]  # the health check's command
    settings: Mapping[str, Any]  # all that the file says of it


def services(variables: Mapping[str, str], file: Path = FOLDER / "compose.yaml") -> dict[str, ComposeService]:
    """Read the file's services, with variables in the place of `${NAME}`.

    Raises:
        Unset: the file insists on a variable that is missing or empty.
    """
    document = yaml.safe_load(file.read_text())
    found = _substituted(
        {"services": document["services"], "volumes": document.get("volumes", {})}, variables
    )
    return {name: _service(name, found["services"][name], found["volumes"]) for name in found["services"]}


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """Put values in the place of `${NAME}`, `${NAME:-default}` and `${NAME:?message}`, as Docker does."""

    def value(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        name, operator, word = match["name"], match["operator"] or "", match["word"] or ""
        known = variables.get(name)
        if known is not None and (known or not operator.startswith(":")):
            return known
        if operator.endswith("?"):
            raise Unset(f"{name}: {word}")
        return word

    return VARIABLE.sub(value, text)


def _substituted(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return substitute(value, variables)
    if isinstance(value, list):
        return [_substituted(item, variables) for item in value]
    if isinstance(value, dict):
        return {key: _substituted(item, variables) for key, item in value.items()}
    return value


def _service(name: str, settings: Mapping[str, Any], volumes: Mapping[str, Any]) -> ComposeService:
    mounts = [volume.split(":") for volume in settings.get("volumes", [])]
    check = settings.get("healthcheck", {}).get("test", [])
    return ComposeService(
        name=name,
        command=tuple(settings.get("entrypoint", [])) + tuple(settings.get("command", [])),
        environment=settings.get("environment", {}),
        folders={mount[0]: mount[1] for mount in mounts if mount[0] in volumes},
        check=tuple(check[1:]),
        settings=settings,
    )
