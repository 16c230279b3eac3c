"""One guard for everything that a run can do without: pictures, TensorBoard, tracking. Imports no PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from capsnet.patience import described


@dataclass
class Tried:
    """How a guarded block ended."""

    error: BaseException | None = None


class Guard:
    """Turns whatever goes wrong in a block into a warning that is said once.

    Errors that are no `Exception` count, too: a library may end the process while it is imported, and code in
    Rust panics with one. Ctrl-C passes.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        """`say` gets a line."""
        self._say = say
        self._failing: set[str] = set()

    @contextmanager
    def __call__(self, failure: str) -> Iterator[Tried]:
        """For a `with` block; `failure`: what to say of an error in it, before its cause."""
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
        """Say this failure again when it happens again: it has gone well since."""
        self._failing.discard(failure)


def cause(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, OSError):
        return described(error)
    kind = type(error).__name__
    said = str(error).strip()
    return f"{kind}: {said.splitlines()[0]}" if said else kind
