"""Guard for the optional parts of a run: pictures, TensorBoard, tracking. Imports no PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from capsnet.patience import described


@dataclass
class Tried:
    """Outcome of a guarded block: its error, or None."""

    error: BaseException | None = None


class Guard:
    """Turns any error in a block into a warning that is given once.

    Errors that are no `Exception` count, too: a library may end the process while it is imported, and code in
    Rust panics with one. Ctrl-C is not caught.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        """`say` is called with each warning, one line."""
        self._say = say
        self._failing: set[str] = set()

    @contextmanager
    def __call__(self, failure: str) -> Iterator[Tried]:
        """Guard a `with` block; `failure`: the warning's words before the cause of an error."""
        tried = Tried()
        try:
            yield tried
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            tried.error = error
            if failure not in self._failing:
                self._say(f"warning: {failure}: {cause(error)}")
            self._failing.add(failure)

    def over(self, failure: str) -> None:
        """Note that `failure` is over, so that the next one is warned of again."""
        self._failing.discard(failure)


def cause(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, OSError):
        return described(error)
    kind = type(error).__name__
    said = str(error).strip()
    return f"{kind}: {said.splitlines()[0]}" if said else kind
