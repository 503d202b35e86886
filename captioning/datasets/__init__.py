"""Captioned images from the formats they are published in.

A data set is named by one string, ``FORMAT:PATH`` or ``FORMAT:PATH@IMAGES``:

    flickr8k:DIR        Flickr8k.token.txt, Flickr_8k.trainImages.txt and their photos
    coco:DIR            annotations/captions_train2017.json ... (or 2014) and their photos
    coco:FILE           one COCO caption file
    karpathy:FILE       dataset_flickr8k.json, dataset_flickr30k.json, dataset_coco.json
    jsonl:FILE          {"image": "a.jpg", "captions": ["...", "..."], "split": "train"}
    csv:FILE            a header with image and caption, and one caption per row

In JSONL and CSV, ``file_name`` and ``text``, the names of Hugging Face's ``imagefolder``, stand for
``image`` and ``caption`` where these are not there. CSV may have a ``split`` column too.

``@IMAGES`` names the folder of the images where it is not beside the captions. ``{split}`` in a
name stands for the split that is asked for: ``coco:captions_{split}.json@{split}2017``. A COCO,
JSONL or CSV file that says nothing about splits is the split that was asked for, whole.
"""

from collections.abc import Callable
from pathlib import Path

from captioning.datasets.coco import read_coco
from captioning.datasets.flickr8k import read_flickr8k
from captioning.datasets.karpathy import read_karpathy
from captioning.datasets.split import (
    CaptionedImage,
    CaptionSplit,
    Problems,
    Source,
    canonical_split,
)
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
    "read_text_captions",
    "short_name",
]

READERS: dict[str, Callable[[Source], CaptionSplit]] = {
    "flickr8k": read_flickr8k,
    "coco": read_coco,
    "karpathy": read_karpathy,
    "jsonl": read_jsonl,
    "csv": read_csv,
}
"""The formats by name."""


def read_captions(spec: str, *, split: str) -> CaptionSplit:
    """Read one split of a captioned data set, and say what in it cannot be used.

    Args:
        spec: ``FORMAT:PATH`` or ``FORMAT:PATH@IMAGES``, as this module's first lines list them.
        split: ``train``, ``val`` (or ``dev``, ``validation``) or ``test``; ``restval`` and
            ``train+restval`` in Karpathy's files; any other name that a JSONL or CSV file gives.

    Returns:
        The images that exist and have captions, in the order of the split list or file, and the
        problems: what was left out, by name. Captions are as they were written, but for white
        space around them.

    Raises:
        DataError: The format is unknown, a file is missing or malformed, there is no such split,
            or nothing in it can be used.
    """
    name, colon, path = spec.partition(":")
    if not colon or not path or name not in READERS:
        alone = name in READERS  # as who has a folder of that name would write it
        meant = f" Did you mean {f'{name}:{name}'!r}?" if alone else suggest(name, READERS)
        raise DataError(
            f"{spec!r} names no captions: FORMAT:PATH was expected, where FORMAT is one of "
            f"{', '.join(READERS)}.{meant} An example: coco:data/tiny"
        )
    return READERS[name](Source.parse(spec, path, canonical_split(split)))


def short_name(spec: str) -> str:
    """Return ``FORMAT:NAME`` of a data set's name, without the folders of this machine."""
    kind, _, place = spec.partition(":")
    return f"{kind}:{Path(place.partition('@')[0]).name}"
