"""The kinds of pictures. Imports nothing, so that a command line that offers them starts at once."""

from __future__ import annotations

KINDS = {
    "reconstruct": "show test images above what the decoder makes of them, right and wrong answers apart",
    "perturb": "show what each dimension of a class capsule stands for",
    "rotate": "show what a network sees in an image that is turned, shifted, scaled or sheared",
    "primary": "show what the types of primary capsules stand for, by a decoder trained for them",
    "overlap": "show the two digits that are found in overlaid ones, in two colours",
    "couplings": "show how routing sharpens from iteration to iteration",
    "confusion": "show how often each class is taken for each other one",
    "curves": "show loss and accuracy by epoch",
}
ALL = "figures"  # the command that draws all that take seconds


class FigureError(Exception):
    """A picture cannot be drawn of this network, or not to that file: one line that says what would do."""
