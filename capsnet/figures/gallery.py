"""The pictures of a run that are cheap and make sense for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from capsnet.config import Config
from capsnet.execution import Execution
from capsnet.figures import confusion, couplings, curves, overlap, perturb, reconstruct
from capsnet.figures.needs import obstacle
from capsnet.figures.subject import Subject, choose
from capsnet.history import Row
from capsnet.images import Images
from capsnet.network import Network

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def gallery(
    config: Config, network: Network, test: Images, execution: Execution, history: Sequence[Row]
) -> Iterator[tuple[str, Figure]]:
    """Each kind of picture that this run gives, by its name; what they show is chosen by the run's seed.

    They take one pass over the test images and some seconds. Raises ImportError without matplotlib.
    """
    subject, seed = Subject(config, network, execution), config.seed
    if history:
        yield "curves", curves.draw(history, config.name)
    answers = subject.answers(test)
    yield "confusion", confusion.picture(config, test, answers)
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
