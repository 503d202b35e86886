"""One split of a captioned data set, as every reader returns it."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TypeVar

from captioning.datasets.hold_out import HoldOutConfig
from captioning.images.image_ref import ImageRef
from captioning.short_repr import ShortDict, ShortRepr, ShortTuple

T = TypeVar("T")

_ROWS_SHOWN, _TEXT_SHOWN = 5, 200  # images, and characters of a caption, in a notebook


@dataclass(frozen=True, repr=False, slots=True)
class CaptionedImage(ShortRepr):
    """An image with its reference captions.

    Attributes:
        name: Path of the image file. An image in an archive is named ``archive.tar/member``.
        captions: Reference captions, stripped of surrounding white space.
        image_id: Id from the data set (COCO, Karpathy). For other formats, the position of the
            file name among all sorted file names of the data set, so that an image has the same
            id in every split.
        content: Content of an image that is not a file of its own, or a function that reads it.
    """

    name: str
    captions: tuple[str, ...]
    image_id: int
    content: bytes | Callable[[], bytes] | None = field(default=None, repr=False)

    @property
    def path(self) -> Path:
        """The name as a path."""
        return Path(self.name)

    @property
    def ref(self) -> ImageRef:
        """Reference for :class:`captioning.images.loader.ImageLoader`."""
        return ImageRef(self.name, self.content)


@dataclass(frozen=True, repr=False)
class Problems:
    """Images and captions that a reader could not use.

    Attributes:
        found: Names of the unusable items for each kind of problem, in reading order.
    """

    found: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        short = ShortDict({kind: ShortTuple(names) for kind, names in self.found.items()})
        object.__setattr__(self, "found", short)

    def __len__(self) -> int:
        return sum(map(len, self.found.values()))

    def __repr__(self) -> str:
        counts = ", ".join(f"{kind}: {len(names):,}" for kind, names in self.found.items())
        return f"Problems({counts})"

    def report(self, *, shown: int = 5) -> str:
        """Return one line per kind of problem: its count and the first ``shown`` names.

        The text is empty if there are no problems.
        """
        lines = []
        for kind, names in self.found.items():
            rest = f" and {len(names) - shown} more" if len(names) > shown else ""
            lines.append(f"{kind} ({len(names):,}): {', '.join(names[:shown])}{rest}")
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class CaptionSplit:
    """The usable images of one split.

    Attributes:
        images: Existing images with at least one caption, in the order of the data set.
        problems: Images and captions that were left out.
        source: Data set as the user named it, such as ``coco:data/tiny``.
        split: Name of the split.
        hold_out: The images that were held out of the training split for validation; None if the
            data set has its own splits, or is used as a whole.
    """

    images: tuple[CaptionedImage, ...]
    problems: Problems
    source: str
    split: str
    hold_out: HoldOutConfig | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", ShortTuple(self.images))

    def __repr__(self) -> str:
        captions = sum(len(image.captions) for image in self.images)
        return (
            f"CaptionSplit({self.source!r:.100}, {self.split!r:.20}: "
            f"{len(self.images):,} images, {captions:,} captions, {len(self.problems):,} problems"
            f"{f'; first: {self.images[0]!r}' if self.images else ''})"
        )

    def _repr_html_(self) -> str:
        """Return the counts and the first images as an HTML table for notebooks."""
        rows = "".join(
            f"<tr><td>{escape(image.path.name)}</td>"
            f"<td>{escape(image.captions[0][:_TEXT_SHOWN])}</td></tr>"
            for image in self.images[:_ROWS_SHOWN]
        )
        head = "<tr><th>image</th><th>first caption</th></tr>"
        return f"<table><caption>{escape(repr(self))}</caption>{head}{rows}</table>"


def pick_evenly(items: Sequence[T], count: int) -> tuple[T, ...]:
    """Return ``count`` evenly spaced items, or all if there are no more."""
    count = min(count, len(items))
    return tuple(items[i * len(items) // count] for i in range(count))


def find_files(splits: Iterable[CaptionSplit]) -> set[str]:
    """Return the files of the images with links resolved, and the names of images in archives."""
    return {file for split in splits for _, file in iterate_files(split)}


def iterate_files(split: CaptionSplit) -> Iterator[tuple[CaptionedImage, str]]:
    """Yield each image and its file as :func:`find_files` returns it."""
    folders: dict[str, str] = {}
    for image in split.images:
        if image.content is not None:
            yield image, image.name
            continue
        folder, name = os.path.split(image.name)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        path = os.path.join(folders[folder], name)  # noqa: PTH118
        yield image, os.path.realpath(path) if os.path.islink(path) else path  # noqa: PTH114
