"""The class of an actor that any node can make, also one on which nothing of ours is installed.

Ray sends a class by its name and makes no actor where that cannot be imported: an actor that was to be
restarted there would be dead for good. So what is sent is this class, by value: it needs Python alone,
imports the real one on the node, and otherwise says what is missing there.
"""

from __future__ import annotations

import importlib
import os
import pickle
import threading
from typing import Any

LEAVE_SECONDS = 1.0  # before an actor that Ray starts anew, perhaps elsewhere, ends on a node that lacks it


def guest(actor_class: type, restarted: bool) -> type:
    """A class whose instances make one of `actor_class` and pass calls on; local, hence sent by value.

    `restarted`: Ray starts it anew when it ends, so it ends where it cannot be of use.
    """
    module, name = actor_class.__module__, actor_class.__name__

    class Guest:
        def __init__(self, version: str, arguments: bytes) -> None:
            self._actor: Any = None
            self._lack = ""
            try:
                installed = importlib.import_module("capsnet").__version__
                if installed != version:
                    raise ImportError(f"version {installed} is installed there, and not {version}")
                self._actor = getattr(importlib.import_module(module), name)(*pickle.loads(arguments))
            except Exception as error:  # whatever it is, this node cannot serve
                self._lack = f"{type(error).__name__}: {' '.join(str(error).split())}"
                if restarted:
                    threading.Timer(LEAVE_SECONDS, os._exit, [1]).start()

        def call(self, method: str) -> tuple[str, Any]:
            """Return what the method returned, or what is missing here."""
            if self._actor is None:
                return "lack", self._lack
            return "answer", getattr(self._actor, method)()

    Guest.__name__ = Guest.__qualname__ = name  # what Ray calls the process
    return Guest
