"""Results of a command for each of the runs that it was given: done, or why not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from string import Template
from typing import TYPE_CHECKING

import typer

from runner import exits
from runner.output import PROGRAM, CommandError, hint
from runner.states import State
from runner.wording import runs_named, spans

if TYPE_CHECKING:
    from runner.rows import Run
    from runner.store import Moved, Store

GOING = f"$runs $are being deleted: `{PROGRAM} rm $numbers` finishes that"
SINGULAR = {"are": "is", "have": "has", "save": "saves", "stay": "stays", "stop": "stops", "them": "it"}
MOST_SPANS = 10  # numbers and ranges of runs that a command in a sentence lists
GONE = "$runs $are not there any more"


class Results:
    """Collection of sentences, one for each run; those that are alike are printed as one line.

    Sentences have the runs in them as `$runs` ("runs 3 and 4") and `$numbers` (as a command takes them), and
    `$are`, `$have`, `$save`, `$stay`, `$stop`, `$them` for one or several. Words of the user are made
    `literal`.
    """

    def __init__(self) -> None:
        self._done: defaultdict[str, list[int]] = defaultdict(list)
        self._refused: defaultdict[str, list[int]] = defaultdict(list)
        self._remarks: defaultdict[str, list[int]] = defaultdict(list)
        self._why: dict[str, None] = {}

    def done(self, number: int, sentence: str = "") -> None:
        """Note a run for which it is done, or is about to be, and what to say of that, if anything."""
        self._done[sentence].append(number)

    def remark(self, number: int, sentence: str) -> None:
        """Note what to say besides of a run for which it is done."""
        self._remarks[sentence].append(number)

    def refused(self, number: int, sentence: str) -> None:
        self._refused[sentence].append(number)

    def why(self, text: str) -> None:
        """Note why something was not done, in whole lines; the same for several runs is printed once."""
        self._why[text] = None

    def take(
        self,
        store: Store,
        runs: Sequence[Run],
        moved: Mapping[int, Moved],
        done: Callable[[State], str],
        refused: Callable[[Run], str],
    ) -> None:
        """Note what became of runs that the store was to move, in sentences of `done` and `refused`."""
        for run in runs:
            after = moved[run.id]
            if isinstance(after, State):
                self.done(run.id, done(after))
            else:  # by its row as it is now: it may have ended this moment
                self.refused(run.id, _why_not(store.run(run.id), refused))

    @property
    def numbers(self) -> list[int]:
        """The runs for which it was done."""
        return sorted(number for numbers in self._done.values() for number in numbers)

    def tell(self) -> None:
        """Say what was done, and what not. Raises CommandError where that is all."""
        reasons = [*_lines(self._refused), *self._why]
        if reasons and not self._done:
            raise CommandError("\n".join(reasons))
        for line in [*_lines(self._done), *_lines(self._remarks), *reasons]:
            hint(line)

    def end(self) -> None:
        """End the command with the exit code for what was done only in part."""
        if self._done and (self._refused or self._why):
            raise typer.Exit(exits.PARTLY)


def _why_not(run: Run | None, sentence: Callable[[Run], str]) -> str:
    if run is None:
        return GONE
    return GOING if run.is_going else sentence(run)


def literal(text: str) -> str:
    """Words of the user as a part of a sentence."""
    return text.replace("$", "$$")


def _lines(sentences: dict[str, list[int]]) -> list[str]:
    return [about(numbers, sentence) for sentence, numbers in sentences.items() if sentence]


def about(numbers: list[int], sentence: str) -> str:
    """Return a sentence about these runs; of very many, a command in it does not list the numbers."""
    numbered = spans(numbers)
    if len(numbered.split()) > MOST_SPANS:
        numbered = "RUN..."
    words = {plural: one if len(numbers) == 1 else plural for plural, one in SINGULAR.items()}
    return Template(sentence).substitute(words, runs=runs_named(numbers), numbers=numbered)
