"""Reading pickles of dictionaries, lists, numbers and NumPy arrays such that nothing in them can run.

A pickle is a program: it names functions of any module and calls them. Here the few names that NumPy's
arrays need stand for classes of ours that only note what they are given, and any other name is refused.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np


class PickledError(Exception):
    """Error in a pickle; the message is a few words that follow the file's name."""


class _Noted:
    """Stand-in for a name of NumPy's that keeps the arguments and the state which a pickle gives it."""

    def __init__(self, *given: Any) -> None:
        self.given = given
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Noted):
    pass


class _Type(_Noted):
    pass


_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,  # as NumPy 1 wrote it
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise PickledError(f"would run {module}.{name}, which has no place in such a file")
        return _NAMES[module, name]


def load(content: bytes) -> Any:
    """Return the value in a pickle, text of Python 2 as bytes; `array` makes an array of its stand-in.

    Raises PickledError when it is damaged or holds anything else.
    """
    try:
        return _Reader(io.BytesIO(content), encoding="bytes").load()
    except PickledError:
        raise
    except Exception as error:  # by pickle's documentation, damage can show as any error
        cause = " ".join(str(error).split()) or type(error).__name__  # some have several lines
        raise PickledError(f"is no whole pickle ({cause})") from error


def array(value: Any) -> np.ndarray:
    """Return the array of bytes that a pickle's value stands for. Raises PickledError when it holds none."""
    try:
        _, shape, kind, by_columns, content = value.state
        if isinstance(value, _Array) and kind.given[0] in (b"u1", "u1") and len(content) == math.prod(shape):
            values = np.frombuffer(content, np.uint8)
            return values.reshape(shape, order="F" if by_columns else "C")
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise PickledError("holds something else in the place of its pixels") from error
    raise PickledError("holds no array of bytes in the place of its pixels")
