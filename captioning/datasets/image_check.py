"""Checks of images before training: damaged ones, copies, and images in two splits."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from captioning.datasets.findings import Findings
from captioning.datasets.spec import TRAIN_SPLIT
from captioning.datasets.split import CaptionedImage, CaptionSplit, iterate_files
from captioning.images.file_digest import stat_file
from captioning.images.image_ref import ImageRef
from captioning.images.loader import ImageLoader
from captioning.images.preprocessing import Preprocessing

_CHECKED_SIZE = 8  # pixels; a JPEG is decoded at 1/8, which reads all of its data
_BATCH_SIZE = 256


def check_images(
    splits: Sequence[tuple[str, CaptionSplit]],
    findings: Findings,
    *,
    workers: int = 2,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Decode all images, and report damaged ones and those with equal content.

    Args:
        splits: Splits and their names in examples.
        findings: Receives the problems.
        workers: Processes that decode images.
        on_progress: Called with the number of decoded images and the number of all.
    """
    entries = [(name, split, image) for name, split in splits for image in split.images]
    digests = [b""] * len(entries)
    refs = (
        _digest_when_read(image, partial(digests.__setitem__, number))
        for number, (_, _, image) in enumerate(entries)
    )
    loader = ImageLoader(Preprocessing(_CHECKED_SIZE), _BATCH_SIZE, workers)
    done = 0
    for batch in loader.batches(refs):
        for (name, _, _), error in zip(entries[done:], batch.errors, strict=False):
            if error:
                findings.add("damaged images", f"{name}: {error}", loses_data=True)
        done += len(batch.images)
        on_progress(done, len(entries))
    first: dict[bytes, tuple[str, CaptionSplit, CaptionedImage]] = {}
    for digest, entry in zip(digests, entries, strict=True):
        name, split, image = entry
        other_name, other_split, other = first.setdefault(digest, entry) if digest else entry
        if other.name != image.name:
            where = "one split" if _use(split) == _use(other_split) else "two splits"
            example = f"{other_name}, {_base(other)} = {name}, {_base(image)}"
            findings.add(f"images with equal content in {where}", example)


def _use(split: CaptionSplit) -> str:
    """Return what a split is used for. Training splits of several data sets may overlap."""
    return "train" if split.split in TRAIN_SPLIT.split("+") else split.split


def _digest_when_read(image: CaptionedImage, keep: Callable[[bytes], None]) -> ImageRef:
    """Return a reference to an image that passes the digest of its content to ``keep``."""
    if image.content is None:
        return ImageRef(
            image.name,
            stamp=stat_file(image.name)[1],
            on_digest=lambda digest: keep(bytes.fromhex(digest or "")),
        )

    def read(content: bytes | Callable[[], bytes] = image.content) -> bytes:
        content = content if isinstance(content, bytes) else content()
        keep(hashlib.sha256(content).digest())
        return content

    return ImageRef(image.name, read)


def _base(image: CaptionedImage) -> str:
    return os.path.basename(image.name)  # noqa: PTH119  (a path would be slow)


def check_overlap(splits: Sequence[tuple[str, CaptionSplit]], findings: Findings) -> None:
    """Report images that are in two splits, by their file or by their id.

    Ids are compared within a data set, and only where the data set itself contains them.
    """
    for kind, key in (("files", iterate_files), ("image ids", _id_key)):
        first: dict[object, tuple[str, str]] = {}
        for name, split in splits:
            use = _use(split)
            for image, value in key(split):
                other_use, other = first.setdefault(value, (use, name))
                if other_use != use:
                    example = f"{_base(image)} in {other} and {name}"
                    findings.add(f"{kind} in two splits", example, loses_data=True)


def _id_key(split: CaptionSplit) -> Iterator[tuple[CaptionedImage, object]]:
    if split.source.startswith(("coco:", "karpathy:")):
        yield from ((image, (split.source, image.image_id)) for image in split.images)
