"""Readers of captioned images in their published formats.

A data set is named by one string, ``FORMAT:PATH`` or ``FORMAT:PATH@IMAGES``:

    flickr8k:DIR        Flickr8k.token.txt, Flickr_8k.trainImages.txt, ... and the images
    coco:DIR            annotations/captions_train2017.json, ... (or 2014) and the images
    coco:FILE           one COCO caption file
    karpathy:FILE       dataset_flickr8k.json, dataset_flickr30k.json or dataset_coco.json
    jsonl:FILE          {"image": "a.jpg", "captions": ["...", "..."], "split": "train"}
    csv:FILE            columns image and caption (and optionally split), one caption per row

JSONL and CSV files may use the names of Hugging Face's ``imagefolder`` instead: ``file_name`` for
``image`` and ``text`` for ``caption``.

``@IMAGES`` names the folder of the images if they are not next to the captions. ``{split}`` in the
string is replaced by the name of the split: ``coco:captions_{split}.json@{split}2017``. A COCO,
JSONL or CSV file without splits is used as a whole, whichever split is requested.
"""

from collections.abc import Callable
from pathlib import Path

from captioning.datasets.coco import read_coco
from captioning.datasets.coco_results import read_references, write_results
from captioning.datasets.flickr8k import read_flickr8k
from captioning.datasets.karpathy import read_karpathy
from captioning.datasets.reading import DatasetSpec, normalize_split
from captioning.datasets.result_files import read_results
from captioning.datasets.split import CaptionedImage, CaptionSplit, Problems
from captioning.datasets.table import read_csv, read_jsonl
from captioning.datasets.text_captions import read_text_captions
from captioning.errors import DataError
from captioning.messages import suggest

__all__ = [
    "READERS",
    "CaptionSplit",
    "CaptionedImage",
    "Problems",
    "read_captions",
    "read_references",
    "read_results",
    "read_text_captions",
    "shorten_spec",
    "write_results",
]

READERS: dict[str, Callable[[DatasetSpec], CaptionSplit]] = {
    "flickr8k": read_flickr8k,
    "coco": read_coco,
    "karpathy": read_karpathy,
    "jsonl": read_jsonl,
    "csv": read_csv,
}
"""Reader of each format."""


def read_captions(spec: str, *, split: str, require_images: bool = True) -> CaptionSplit:
    """Read one split of a captioned data set.

    Args:
        spec: ``FORMAT:PATH`` or ``FORMAT:PATH@IMAGES``; see :mod:`captioning.datasets`.
        split: ``train``, ``val`` (or ``dev``, ``validation``) or ``test``. Karpathy's files also
            have ``restval`` and ``train+restval``, and JSONL and CSV files may define others.
        require_images: Leave out images whose files do not exist. Scoring needs captions only.

    Returns:
        The images with captions, in the order of the data set, and the problems found.
        Captions keep their spelling and lose surrounding white space.

    Raises:
        DataError: The format or the split is unknown, a file is missing or malformed, or no image
            is usable.
    """
    name, colon, path = spec.partition(":")
    if not colon or not path or name not in READERS:
        # A format without a path may be meant as the name of a folder.
        hint = f" Did you mean {f'{name}:{name}'!r}?" if name in READERS else suggest(name, READERS)
        raise DataError(
            f"{spec!r} does not name a data set: expected FORMAT:PATH, where FORMAT is one of "
            f"{', '.join(READERS)}.{hint} Example: coco:data/tiny"
        )
    return READERS[name](DatasetSpec.parse(spec, path, normalize_split(split), require_images))


def shorten_spec(spec: str) -> str:
    """Return the name of a data set without its folders, such as ``coco:tiny``."""
    kind, _, location = spec.partition(":")
    return f"{kind}:{Path(location.partition('@')[0]).name}"
