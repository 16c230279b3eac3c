"""The kinds of pictures and what they take. Imports nothing: a command line that offers them starts fast."""

from __future__ import annotations

KINDS = {
    "reconstruct": "show test images above what the decoder makes of them, right and wrong answers apart",
    "perturb": "show what each dimension of a class capsule stands for",
    "rotate": "show what a network sees in an image that is turned, shifted, scaled or sheared",
    "primary": "show what the types of primary capsules stand for, by a decoder trained for them",
    "overlap": "show the two digits that are found in overlaid ones, in two colours",
    "couplings": "show how routing sharpens from iteration to iteration, or by training",
    "confusion": "show which classes are taken for which other ones, and how often",
    "curves": "show loss and error by epoch, of one run or of several in one chart",
}
IMAGES = {"reconstruct": 10, "overlap": 10, "rotate": 200, "couplings": 100}  # test images, if not told
STEPS = 1000  # of training the decoder of "primary", likewise
MOTIONS = ("rotate", "shift", "scale", "shear")  # of "rotate"
ORDERS = ("index", "effect")  # of the dimensions of "perturb"
OVERLAID = 8  # runs at most in one chart of "curves": nobody tells more colours apart
FORMATS = ("png", "pdf", "svg")
DPI = {"png": 150, "pdf": 300, "svg": 300}  # dots per inch; of a PDF and an SVG those of the images inside
DPI_RANGE = (50, 1200)
ALL = "figures"  # the command that draws all that take seconds


class FigureError(Exception):
    """A picture cannot be drawn of this network, or not to that file: one line that says what would do."""
