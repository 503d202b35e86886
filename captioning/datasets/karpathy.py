"""Karpathy's split files: ``dataset_flickr8k.json``, ``dataset_coco.json`` and their like.

Karpathy and Fei-Fei (2015), Deep Visual-Semantic Alignments for Generating Image Descriptions,
https://cs.stanford.edu/people/karpathy/deepimagesent/.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from captioning.datasets.split import (
    Assembler,
    CaptionSplit,
    Source,
    canonical_split,
    check_entry,
    read_json_object,
)
from captioning.errors import DataError
from captioning.messages import format_count


def read_karpathy(source: Source) -> CaptionSplit:
    """Read one split of a file by Karpathy, or several joined by ``+``.

    The papers' COCO training set of 113,287 images is ``train+restval``. ``image_id`` is COCO's
    number where the file gives it, else the file's own ``imgid``.

    Raises:
        DataError: The file is missing or malformed, or has no such split.
    """
    path = source.path
    content = read_json_object(path, needed=("images",), format_name="split file by Karpathy")
    entries = content["images"]
    for place, entry in enumerate(entries):
        _check(entry, f"{path}, images[{place}]")
    wanted = {canonical_split(part) for part in source.split.split("+")}
    counts = Counter(canonical_split(entry["split"]) for entry in entries)
    if unknown := sorted(wanted - set(counts)):
        there = ", ".join(f"{name} ({format_count(n, 'image')})" for name, n in counts.items())
        raise DataError(f"{path} has no split {', '.join(unknown)}; it has {there}.")
    folder = source.image_folder(path.parent / "images", path.parent)
    assembler = Assembler(source)
    for entry in entries:
        if canonical_split(entry["split"]) in wanted:
            captions = [sentence["raw"] for sentence in entry["sentences"]]
            image_id = entry.get("cocoid", entry["imgid"])
            assembler.add(_file(entry, folder, assembler), captions, image_id)
    return assembler.finish()


def _check(entry: Any, where: str) -> None:
    check_entry(entry, {"filename": str, "imgid": int, "split": str, "sentences": list}, where)
    for optional, kind in (("cocoid", int), ("filepath", str)):
        if optional in entry:
            check_entry(entry, {optional: kind}, where)
    for place, sentence in enumerate(entry["sentences"]):
        check_entry(sentence, {"raw": str}, f"{where}, sentences[{place}]")


def _file(entry: dict[str, Any], folder: Path, assembler: Assembler) -> Path:
    """Return the image's file: COCO's entries also say in which folder it was published."""
    nested = folder / entry.get("filepath", "") / entry["filename"]
    flat = folder / entry["filename"]
    return flat if assembler.exists(flat) else nested
