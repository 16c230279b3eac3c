"""Matplotlib without the user's settings, and figures as the bytes of PNG, PDF and SVG files.

Only matplotlib's objects are used: no pyplot, no backend but the one that writes the format asked for.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from capsnet.figures.kinds import DPI

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Nothing that differs from one drawing to the next, or from one version of matplotlib to the next.
METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Creator": None, "Date": None},
}


def import_matplotlib() -> None:
    """Import matplotlib, whatever backend the environment names. Raises ImportError.

    Notebooks set MPLBACKEND for every command that they start, and matplotlib refuses to be imported where
    that backend is not installed. Pyplot, where others use it in this process, still gets that backend.
    """
    if sys.modules.get("matplotlib") is not None:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend is not None:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend


@contextmanager
def defaults() -> Iterator[None]:
    """Make pictures look the same everywhere, whatever style the user's matplotlibrc asks for."""
    import_matplotlib()
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # A sign that the font lacks is drawn as a box; a warning beside it would help nobody.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams["pdf.fonttype"] = 42  # TrueType: many journals refuse the default, Type 3
        matplotlib.rcParams["svg.hashsalt"] = "capsnet"  # else the names of elements are drawn by chance
        yield


def encoded(figure: Figure, kind: str, dpi: int | None = None) -> bytes:
    """A figure as the bytes of a "png", "pdf" or "svg" file, the same ones each time.

    `dpi`: dots per inch of a PNG, and of the images inside a PDF or an SVG.
    """
    file = io.BytesIO()
    with defaults():
        figure.savefig(file, format=kind, dpi=dpi or DPI[kind], metadata=METADATA[kind])
    return file.getvalue()


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    return encoded(figure, "png")
