"""The bar of a run on terminals of any width: numbers whole or absent."""

from __future__ import annotations

import io
import re

import pytest

from capsnet.progressbar import Bar, Numbers

NUMBERS = Numbers(
    epoch=32,
    num_epochs=150,
    step=5,
    steps_per_epoch=10,
    loss=0.25,
    accuracy=0.9951,
    images_per_second=10_000.0,
    seconds_left=51.0,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (200, "loss 0.2500  accuracy 99.51%  10,000 images/s  0:51 left"),
        (80, "loss 0.2500  accuracy 99.51%  10,000 images/s  0:51 left"),
        (62, "loss 0.2500  accuracy 99.51%  0:51 left"),
        (50, "accuracy 99.51%  0:51 left"),
        (40, "0:51 left"),
        (24, ""),
    ],
)
def test_what_a_narrow_terminal_has_no_room_for_gives_way_as_a_whole(
    width: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with Bar(terminal) as bar:
        bar.show(NUMBERS)
    plain = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", terminal.getvalue())
    drawn = {line for line in re.split(r"[\r\n]+", plain) if line.startswith("31.5/150 epochs")}
    assert max(map(len, drawn)) <= width
    assert {line.removeprefix("31.5/150 epochs ").lstrip("━╸╺ ").rstrip() for line in drawn} == {text}
