"""The pictures of a run that are cheap and make sense for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from capsnet.figures import confusion, couplings, curves, overlap, perturb, reconstruct
from capsnet.figures.needs import obstacle
from capsnet.figures.subject import Subject, choose
from capsnet.history import Row
from capsnet.images import Images

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def gallery(
    subject: Subject, test: Images, history: Sequence[Row], seed: int
) -> Iterator[tuple[str, Figure]]:
    """Each kind of picture that this run gives, by its name; what they show is chosen by `seed`.

    They take one pass over the test images and some seconds. Raises ImportError without matplotlib.
    """
    config = subject.config
    if history:
        yield "curves", curves.draw([curves.History(subject.label or config.name, history, config)])
    answers = subject.answers(test)
    yield "confusion", confusion.picture(subject, test, answers)
    sample, label = choose(test, seed)
    for kind in ("reconstruct", "perturb", "overlap", "couplings"):
        if obstacle(kind, config) is not None:
            continue
        match kind:
            case "reconstruct":
                yield kind, reconstruct.picture(subject, test, answers, seed)
            case "perturb":
                yield kind, perturb.picture(subject, test, sample, label)
            case "overlap":
                yield kind, overlap.picture(subject, test, answers, seed)
            case "couplings":
                yield kind, couplings.picture(subject, test, seed, sample)
