"""Images that networks are tested on: those of their own data set, or of another of the same size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import TypeAdapter, ValidationError

from capsnet.commands.trained import Trained, placed
from capsnet.config import Config, Dataset, Folder, MultiMNIST, Photographs
from capsnet.images import DataError, ImageShape, shape, whole
from capsnet.mistakes import shown
from capsnet.schema import sections, tags
from capsnet.wording import choose, wrong_value

KINDS = {tags(kind)["name"]: kind for kind in sections(Config.model_fields["dataset"].annotation)}
# Keys that do not decide which images a test has: their folder, what concerns training, and how images are
# prepared for a network.
OF_NO_MATTER = {"root", "validation", "shift", "flip", "brightness", "contrast", "clip", "standardise"}


def tested_on(trained: Trained, name: str | None, root: str | None) -> Dataset:
    """Return the data set that a network is tested on: its own where `name` is None, else the one called so.

    The latter takes each setting that both have, such as the size of a crop, from the network's own data
    set, and lies in `root`, or else in that one's folder. Raises DataError where the images differ in size,
    or in the number of classes.
    """
    own = trained.config.dataset
    if name is None:
        return own
    other = placed(_of_kind(name, own, root), root)
    if isinstance(other, Photographs) and other.crop and other.crop > (side := min(whole(other))):
        raise DataError(
            f"--dataset {name}: its images have {side} pixels a side, and {trained.path} takes "
            f"{other.crop}×{other.crop} of them (dataset.crop)"
        )
    if shape(other) != shape(own):
        raise DataError(
            f"--dataset {name}: {trained.path} was trained on {_described(shape(own))} ({own.name}), "
            f"and not on {_described(shape(other))}"
        )
    return other


def require_same_images(networks: list[Trained], datasets: list[Dataset]) -> None:
    """Raise DataError, naming what differs, unless all networks are tested on the same images."""
    first = _deciding(datasets[0])
    for trained, dataset in zip(networks[1:], datasets[1:], strict=True):
        for key, value in _deciding(dataset).items():
            if value != first.get(key):
                values = f"{shown(first.get(key))} for the first and {shown(value)} for the second"
                raise DataError(
                    f"{networks[0].path} and {trained.path} are not tested on the same images: "
                    f"dataset.{key} is {values}"
                )


def _deciding(dataset: Dataset) -> dict[str, Any]:
    """The keys of a data set that decide its test images, the name first."""
    of_no_matter = set(OF_NO_MATTER)
    if isinstance(dataset, MultiMNIST):
        of_no_matter.remove("shift")  # the digits of its test are shifted, too
    if isinstance(dataset, Folder):
        of_no_matter.remove("root")  # which is all that tells one such data set from another
    return {"name": dataset.name} | dataset.model_dump(exclude=of_no_matter)


def _of_kind(name: str, own: Dataset, root: str | None) -> Dataset:
    """The data set called `name`, with the keys of `own` that mean something for it."""
    kind = KINDS.get(name)
    if kind is None:
        raise DataError(f"--dataset {choose(name, list(KINDS))} (got {shown(name)})")
    if kind is Folder and not isinstance(own, Folder) and root is None:
        raise DataError("--dataset folder: say with --data in which folder its images lie")
    values = dict(_shared(own, kind is Folder)) | {"name": name}
    if kind is Folder and root is not None:
        values["root"] = root
    try:
        return TypeAdapter(Dataset).validate_python(
            {key: values[key] for key in kind.model_fields if key in values}
        )
    except ValidationError as error:
        (details, *_) = error.errors()
        why = f"{'.'.join(map(str, details['loc'][1:]))} {wrong_value(details)}"
        raise DataError(f"--dataset {name} does not go with {own.name}: {why}") from error


def _shared(own: Dataset, folder: bool) -> Iterator[tuple[str, Any]]:
    """Yield the settings that another data set may take over from `own`.

    `root` is among them only where both, or neither, are folders of the user's own images.
    """
    size = shape(own)
    yield from {"size": whole(own)[0], "channels": size.channels, "classes": size.classes}.items()
    for key, value in own:
        if key != "validation" and (key != "root" or isinstance(own, Folder) == folder):
            yield key, value


def _described(size: ImageShape) -> str:
    labels = f"{size.labels} of " if size.labels > 1 else ""
    return f"images of {size.channels}×{size.height}×{size.width} with {labels}{size.classes} classes"
