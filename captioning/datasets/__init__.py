"""Readers of captioned images in their published formats.

A data set is named by one string, ``FORMAT:PATH`` or ``FORMAT:PATH@IMAGES``:

    flickr8k:DIR        Flickr8k.token.txt, Flickr_8k.trainImages.txt, ... and the images
    flickr30k:DIR       results_20130124.token or results.csv, and the images
    coco:DIR            annotations/captions_train2017.json, ... (or 2014) and the images
    coco:FILE           one COCO caption file
    karpathy:FILE       dataset_flickr8k.json, dataset_flickr30k.json or dataset_coco.json
    jsonl:FILE          {"image": "a.jpg", "captions": ["...", "..."], "split": "train"}
    json:FILE           a list of such rows
    csv:FILE            columns image and caption (and optionally split), one caption per row
    tsv:FILE            the same with tabs, or caption and URL without a header
    parquet:FILES       such columns; images as paths or as the content of files
    tar:FILES           archives in the layout of webdataset (also webdataset:FILES)

Rows may use the field names of other programs (:mod:`captioning.datasets.rows`). FILES is a file,
a folder or a pattern (:mod:`captioning.file_patterns`).

``@IMAGES`` names the folder of the images if they are not next to the captions. ``{split}`` in the
string is replaced by the name of the split: ``coco:captions_{split}.json@{split}2017``. A file
without splits is used as a whole, whichever split is requested, or divided by ``val_fraction``.

A module loads each form as a :class:`captioning.datasets.source.CaptionSource`, with all splits.
:func:`captioning.datasets.source.select_split` is the same for all forms.
"""

from pathlib import Path
from typing import Any

from captioning.datasets.caption_data import FORMS, CaptionData
from captioning.datasets.coco_results import read_references, write_results
from captioning.datasets.hold_out import HoldOutConfig
from captioning.datasets.result_files import read_results
from captioning.datasets.split import CaptionedImage, CaptionSplit, Problems
from captioning.datasets.text_captions import read_text_captions

__all__ = [
    "FORMS",
    "CaptionData",
    "CaptionSplit",
    "CaptionedImage",
    "HoldOutConfig",
    "Problems",
    "read_captions",
    "read_references",
    "read_results",
    "read_text_captions",
    "shorten_spec",
    "write_results",
]


def read_captions(
    data: Any,
    *,
    split: str,
    require_images: bool = True,
    val_fraction: float = 0.0,
    split_seed: int = 0,
) -> CaptionSplit:
    """Read one split of a captioned data set.

    Args:
        data: ``FORMAT:PATH`` or ``FORMAT:PATH@IMAGES``, see :mod:`captioning.datasets`. Or images
            in memory: a list of ``{"image": ..., "captions": [...]}`` or of pairs ``(image,
            captions)``, where an image is a path, the content of a file, a Pillow image or an
            array; or a ``Dataset`` or ``DatasetDict`` of Hugging Face.
        split: ``train``, ``val`` (or ``dev``, ``validation``) or ``test``; ``train+restval`` for
            both. Tables may define others.
        require_images: Leave out images whose files do not exist. Scoring needs captions only.
        val_fraction: Share of the training images that is held out for validation, if the data set
            has no split ``val`` (0 to below 1; 0: none). ``split="val"`` returns these images,
            ``split="train"`` the others.
        split_seed: Seed of the held-out images.

    Returns:
        The images with captions, in the order of the data set, and the problems found.
        Captions keep their spelling and lose surrounding white space.

    Raises:
        DataError: The format or the split is unknown, a file is missing or malformed, or no image
            is usable.
        ConfigError: ``val_fraction`` is out of its range.
    """
    hold_out = HoldOutConfig(val_fraction, split_seed)
    return CaptionData(data, hold_out, require_images=require_images).read(split)


def shorten_spec(spec: str) -> str:
    """Return the name of a data set without its folders, such as ``coco:tiny``."""
    kind, _, location = spec.partition(":")
    return f"{kind}:{Path(location.partition('@')[0]).name}"
