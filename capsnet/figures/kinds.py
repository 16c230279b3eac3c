"""The kinds of pictures and what they take. Imports nothing: a command line that offers them starts fast."""

from __future__ import annotations

KINDS = {
    "reconstruct": "show test images above what the decoder makes of them, right and wrong answers apart",
    "perturb": "show what each dimension of a class capsule stands for",
    "rotate": "show what a network sees in an image that is turned, shifted, scaled or sheared",
    "primary": "show what the types of primary capsules stand for, by a decoder trained for them",
    "overlap": "show the two digits that are found in overlaid ones, in two colours",
    "couplings": "show how routing sharpens from iteration to iteration, or by training",
    "confusion": "show how often each class is taken for each other one",
    "curves": "show loss and accuracy by epoch",
}
IMAGES = {"reconstruct": 10, "overlap": 10, "rotate": 200, "couplings": 100}  # test images, if not told
STEPS = 1000  # of training the decoder of "primary", likewise
MOTIONS = ("rotate", "shift", "scale", "shear")  # of "rotate"
ALL = "figures"  # the command that draws all that take seconds


class FigureError(Exception):
    """A picture cannot be drawn of this network, or not to that file: one line that says what would do."""
