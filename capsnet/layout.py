"""Tables that fit a terminal: columns give way in a stated order, and no cell is cut into another value.

Widths are in terminal cells: a wide character takes two, a combining mark none. Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

GAP = 2  # cells between two columns
ELLIPSIS = "..."
BLANK = ("", "-")  # cells that say nothing
LONGEST_VALUE = 20  # cells: a word up to this length may be a number and is never broken or shortened
FOLDED_WIDTH = 16  # cells: so wide a column is at least for words longer than that
BELOW_WIDTH = 20  # cells that text below a row has at least, where it is indented

BREAKS = re.compile(r"(?<=[=_])|(?<=[/,:])(?=\D)|(?<=[a-z])(?=\.[a-z])")  # in a long word, in no number


class Column(NamedTuple):
    title: str
    right: bool = False  # aligned to the right, as numbers are


@dataclass(frozen=True)
class Shorten:
    """Shorten texts, never numbers, of a column to the room that there is, from `least` to `most` cells."""

    title: str
    least: int
    most: int | None = None  # None: as long as they are


@dataclass(frozen=True)
class Below:
    """Put the texts of a column that do not fit beside their row on lines below it, indented."""

    title: str


@dataclass(frozen=True)
class LeaveOut:
    """Leave out a column as a whole."""

    title: str


Step = Shorten | Below | LeaveOut
Cells = list[str]  # of one line, a text for each column


class Row(NamedTuple):
    cells: Cells
    below: list[str]  # further lines


class Fitted(NamedTuple):
    """A table as it is to be printed, its cells padded to the width of their columns."""

    titles: Cells
    rows: list[Row]
    left_out: list[str]  # titles of the columns that would not fit


class Block(NamedTuple):
    """A part of a wide table, with the first column and some of the others; its cells are padded."""

    titles: Cells
    lines: list[Cells]


def width_of(text: str) -> int:
    """The cells that a line of text takes."""
    if text.isascii() or max(text) < "\u0300":  # Latin letters and signs such as ×: rich is not needed
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def line(cells: Cells) -> str:
    """Join padded cells to one line."""
    return (" " * GAP).join(cells).rstrip()


def fit(
    columns: Sequence[Column], rows: Sequence[Cells], width: int | None = None, gives_way: Sequence[Step] = ()
) -> Fitted:
    """Lay out a table for `width` cells, or as wide as it is (None).

    Where it is too wide, columns that say nothing in any row go first, and then the steps of `gives_way` are
    taken in their order, no more of them than needed. If even all of them do not suffice, lines are too long.
    """
    table = _Table(columns, rows)
    if width is not None and table.least > width:
        table.drop_blank()
        for step in gives_way:
            if table.least <= width:
                break
            table.take(step)
        table.spread(width)
    return table.fitted(width)


class _Table:
    """Which columns a table has and how wide they are, while it gives way."""

    def __init__(self, columns: Sequence[Column], rows: Sequence[Cells]) -> None:
        titles = [column.title for column in columns]
        self._rows = rows
        self._columns = columns
        self._texts = {place: [row[place] for row in rows] for place in range(len(columns))}
        self._natural = {
            place: max(map(width_of, [titles[place], *texts])) for place, texts in self._texts.items()
        }
        self._widths = dict(self._natural)  # of the columns whose every cell stands in its row
        self._most: dict[int, int] = {}  # what columns that were shortened have use for
        self._flowing: list[int] = []
        self._left_out: list[str] = []
        self._place = {title: place for place, title in enumerate(titles)}

    @property
    def least(self) -> int:
        """The cells that the columns take now."""
        return _total(self._widths.values())

    def drop_blank(self) -> None:
        if not self._rows:
            return
        for place, texts in self._texts.items():
            if all(text in BLANK for text in texts):
                del self._widths[place]

    def take(self, step: Step) -> None:
        place = self._place[step.title]
        if place not in self._widths:
            return
        if isinstance(step, Shorten):
            most = self._natural[place] if step.most is None else min(step.most, self._natural[place])
            self._most[place] = most
            self._widths[place] = min(most, max(step.least, width_of(step.title)))
            return
        del self._widths[place]
        if isinstance(step, Below):
            self._flowing.append(place)
        else:
            self._left_out.append(step.title)

    def spread(self, width: int) -> None:
        """Give the cells that are left to columns that were shortened, then to those whose texts flow."""
        for place in sorted(self._most.keys() & self._widths.keys()):
            self._widths[place] += max(0, min(self._most[place] - self._widths[place], width - self.least))
        for place in sorted(self._flowing):
            self._widths |= self._beside(place, width - self.least - GAP)

    def _beside(self, place: int, room: int) -> dict[int, int]:
        """The width of a column for those of its texts that fit into `room` cells; none if most do not."""
        texts = [width_of(text) for text in self._texts[place] if text not in BLANK]
        fitting = [cells for cells in texts if cells <= room]
        title = width_of(self._columns[place].title)
        stays = title <= room and fitting and 2 * len(fitting) >= len(texts)
        return {place: max(title, *fitting)} if stays else {}

    def fitted(self, width: int | None) -> Fitted:
        places = sorted(self._widths)
        titles = [self._columns[place].title for place in places]
        indent = self._widths[places[0]] + GAP if places else 0
        rows = [
            Row(self._padded(self._cells(row)), list(self._below(row, indent, width))) for row in self._rows
        ]
        return Fitted(self._padded(titles), rows, self._left_out)

    def _cells(self, row: Cells) -> Cells:
        """The cells of a row, shortened; those that go below are empty."""
        return [
            "" if place in self._flowing and self._is_below(row, place) else shortened(row[place], width)
            for place, width in sorted(self._widths.items())
        ]

    def _is_below(self, row: Cells, place: int) -> bool:
        return row[place] not in BLANK and width_of(row[place]) > self._widths.get(place, 0)

    def _below(self, row: Cells, indent: int, width: int | None) -> Iterator[str]:
        if width is None:
            return
        indent = indent if width - indent >= BELOW_WIDTH else GAP
        for place in sorted(self._flowing):
            if self._is_below(row, place):
                yield from (f"{' ' * indent}{text}" for text in wrapped(row[place], width - indent))

    def _padded(self, texts: Cells) -> Cells:
        places = sorted(self._widths)
        return [
            padded(text, self._widths[place], self._columns[place].right)
            for place, text in zip(places, texts, strict=True)
        ]


def _total(widths: Iterable[int]) -> int:
    found = list(widths)
    return sum(found) + GAP * max(0, len(found) - 1)


def side_by_side(columns: Sequence[Column], rows: Sequence[Cells], width: int | None = None) -> list[Block]:
    """Lay out a table in which every column matters for `width` cells, or as wide as it is (None).

    Cells that are too wide go on below, at words; columns that do not fit beside the others follow in further
    blocks, each with the first column. Nothing is left out.
    """
    texts = [[column.title, *(row[place] for row in rows)] for place, column in enumerate(columns)]
    natural = [max(map(width_of, column)) for column in texts]
    if width is None or _total(natural) <= width or len(columns) == 1:
        return [_block(columns, rows, dict(enumerate(natural)))]
    least = [max(width_of(column[0]), max(map(_least, column))) for column in texts]
    first = min(natural[0], max(least[0], width - GAP - max(least[1:], default=0)))
    blocks: list[dict[int, int]] = []
    for place in range(1, len(columns)):
        if not blocks or _total([*blocks[-1].values(), least[place]]) > width:
            blocks.append({0: first})
        blocks[-1][place] = least[place]
    return [_block(columns, rows, _widened(widths, natural, width)) for widths in blocks]


def _least(text: str) -> int:
    """The cells that a cell needs at least: its values stay in one line, longer words do not."""
    words = map(width_of, text.split())
    return max((word if word <= LONGEST_VALUE else FOLDED_WIDTH for word in words), default=0)


def _widened(widths: dict[int, int], natural: Sequence[int], width: int) -> dict[int, int]:
    """Give the cells that are left, one after the other in turn, to the columns that have use for them."""
    found = dict(widths)
    while narrow := [place for place, cells in found.items() if cells < natural[place]]:
        for place in narrow:
            if _total(found.values()) >= width:
                return found
            found[place] += 1
    return found


def _block(columns: Sequence[Column], rows: Sequence[Cells], widths: dict[int, int]) -> Block:
    def lines(texts: Sequence[str]) -> Iterator[Cells]:
        parts = [wrapped(texts[place], cells) for place, cells in widths.items()]
        for each in zip_longest(*parts, fillvalue=""):
            yield [
                padded(text, cells, columns[place].right)
                for text, (place, cells) in zip(each, widths.items(), strict=True)
            ]

    (titles,) = lines([column.title for column in columns])
    return Block(titles, [cells for row in rows for cells in lines(row)])


def padded(text: str, width: int, right: bool = False) -> str:
    """Fill a text up to `width` cells with spaces, to the left of it where `right`."""
    space = " " * (width - width_of(text))
    return space + text if right else text + space


def shortened(text: str, width: int) -> str:
    """A name in `width` cells, without its middle where it is longer: names often differ at their ends."""
    if width_of(text) <= width:
        return text
    room = max(0, width - len(ELLIPSIS))
    tail = _last(text, room // 2)
    return _first(text, room - width_of(tail)) + ELLIPSIS + tail


def clipped(text: str, width: int) -> str:
    """The beginning of a sentence in `width` cells: whole words, unless the next one is very long."""
    if width_of(text) <= width:
        return text
    begun = _first(text, width - len(ELLIPSIS) - 1)
    whole = begun if text[len(begun)] == " " else begun.rpartition(" ")[0]
    if whole and width_of(begun) - width_of(whole) <= LONGEST_VALUE:
        return f"{whole.rstrip()} {ELLIPSIS}"
    return _first(text, width - len(ELLIPSIS)) + ELLIPSIS


def wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, at most `width` cells each, broken between words; longer words are broken, too.

    Lines are indented as the text is. There is at least one line; a character wider than `width` has its own.
    """
    if width_of(text) <= width:
        return [text]
    indent = " " * min(len(text) - len(text.lstrip()), width // 4)
    lines: list[str] = []
    current = indent
    for word in text.split():
        for piece in _pieces(word, max(1, width - len(indent))):
            separator = "" if current == indent else " "
            if width_of(current + separator + piece) <= width:
                current += separator + piece
                continue
            if current != indent:
                lines.append(current)
            current = indent + piece
    return [*lines, current]


def _pieces(word: str, width: int) -> Iterator[str]:
    """A word in pieces of at most `width` cells, which end where a reader expects it if they can."""
    while width_of(word) > width and len(word) > 1:
        most = len(_first(word, width)) or 1
        ends = [found.start() for found in BREAKS.finditer(word) if 0 < found.start() <= most]
        end = ends[-1] if ends else most
        yield word[:end]
        word = word[end:]
    yield word


def _first(text: str, cells: int) -> str:
    """The longest beginning that takes at most so many cells."""
    end = 0
    while end < len(text) and width_of(text[: end + 1]) <= cells:
        end += 1
    return text[:end]


def _last(text: str, cells: int) -> str:
    """The longest end that takes at most so many cells, and does not begin with a combining mark."""
    start = len(text)
    while start > 0 and width_of(text[start - 1 :]) <= cells:
        start -= 1
    while start < len(text) and width_of(text[start]) == 0:
        start += 1
    return text[start:]
