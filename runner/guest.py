"""The class of an actor that any node can make, and that brings the code of which it is made.

Ray sends a class by its name and makes no actor where that cannot be imported: an actor that was to be
restarted there would be dead for good. And it would be made of whatever is installed there at that moment.
So what is sent is this class, by value, with the source of our packages in it: it needs Python alone, unpacks
the source on the node, imports the real class from there, and otherwise says what is missing there.

The source is a part of the class and not an argument of the actor: Ray keeps classes where it keeps its
actors, large arguments in the process that made the actor, with whose end they are lost.
"""

from __future__ import annotations

import importlib
import json
import os
import threading
import traceback
from pathlib import Path
from typing import Any

from runner.code_cache import bring
from runner.source import PACKAGES, Archive

LEAVE_SECONDS = 1.0  # before an actor that Ray starts anew, perhaps elsewhere, ends on a node that lacks it


def guest(module: str, name: str, archive: Archive, restarted: bool) -> type:
    """Return a class whose instances make one of class `name` in `module` of this source and pass calls on.

    It is local, hence sent by value. `restarted`: Ray starts it anew when it ends, so it ends where it cannot
    be of use.
    """

    class Guest:
        def __init__(self, arguments: str) -> None:
            """`arguments`: of the class, as a JSON list."""
            self._actor: Any = None
            self._trouble = ("", "")
            try:
                bring(archive)
                self._actor = getattr(importlib.import_module(module), name)(*json.loads(arguments))
            except Exception as error:  # whatever it is, this actor cannot serve here
                self._trouble = (
                    ("fault", located(error)) if is_of_the_code(error) else ("lack", described(error))
                )
                if restarted:
                    threading.Timer(LEAVE_SECONDS, os._exit, [1]).start()

        def call(self, method: str, *arguments: Any) -> tuple[str, Any]:
            """("answer", what the method returned); "lack": what is missing here; "fault": of the code."""
            if self._actor is None:
                return self._trouble
            return "answer", getattr(self._actor, method)(*arguments)

    Guest.__name__ = Guest.__qualname__ = name  # what Ray calls the process
    return Guest


def is_of_the_code(error: Exception) -> bool:
    """Return whether what went wrong while our code was imported and made would go wrong on any machine.

    A library that is not there or cannot be loaded, and files that cannot be reached, are the machine's.
    """
    if isinstance(error, ImportError):
        return (error.name or "").partition(".")[0] in PACKAGES
    return not isinstance(error, OSError)


def located(error: Exception) -> str:
    """The error in one line, with the place in the code where it was raised; a SyntaxError says so itself."""
    if isinstance(error, SyntaxError):
        return described(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{described(error)} ({Path(frame.filename).name}, line {frame.lineno})"


def described(error: Exception) -> str:
    """Return the error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
