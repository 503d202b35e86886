"""Reader of Karpathy's split files, such as ``dataset_flickr8k.json`` and ``dataset_coco.json``.

Karpathy and Fei-Fei (2015), Deep Visual-Semantic Alignments for Generating Image Descriptions,
https://cs.stanford.edu/people/karpathy/deepimagesent/.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from captioning.datasets.reading import (
    DatasetSpec,
    SplitBuilder,
    normalize_split,
    read_json_object,
    require_fields,
)
from captioning.datasets.split import CaptionSplit
from captioning.errors import DataError
from captioning.messages import format_count


def read_karpathy(spec: DatasetSpec) -> CaptionSplit:
    """Read one split of a Karpathy split file, or several splits joined by ``+``.

    ``train+restval`` is the usual COCO training set of 113,287 images. The id of an image is its
    COCO id if the file has one, else its ``imgid``.

    Raises:
        DataError: The file is missing or malformed, or the split does not exist.
    """
    path = spec.path
    content = read_json_object(path, lists=("images",), format_name="Karpathy split file")
    entries = content["images"]
    for i, entry in enumerate(entries):
        _check_entry(entry, f"{path}, images[{i}]")
    selected = {normalize_split(part) for part in spec.split.split("+")}
    counts = Counter(normalize_split(entry["split"]) for entry in entries)
    if unknown := sorted(selected - set(counts)):
        known = ", ".join(f"{name} ({format_count(n, 'image')})" for name, n in counts.items())
        raise DataError(f"{path} has no split {', '.join(unknown)}, only {known}.")
    folder = spec.find_images(path.parent / "images", path.parent)
    builder = SplitBuilder(spec)
    for entry in entries:
        if normalize_split(entry["split"]) in selected:
            captions = [sentence["raw"] for sentence in entry["sentences"]]
            image_id = entry.get("cocoid", entry["imgid"])
            builder.add(_find_image(entry, folder, builder), captions, image_id)
    return builder.build()


def _check_entry(entry: Any, where: str) -> None:
    require_fields(entry, {"filename": str, "imgid": int, "split": str, "sentences": list}, where)
    for optional, kind in (("cocoid", int), ("filepath", str)):
        if optional in entry:
            require_fields(entry, {optional: kind}, where)
    for i, sentence in enumerate(entry["sentences"]):
        require_fields(sentence, {"raw": str}, f"{where}, sentences[{i}]")


def _find_image(entry: dict[str, Any], folder: Path, builder: SplitBuilder) -> Path:
    """Return the file of an image. COCO entries also name the subfolder of the release."""
    flat = folder / entry["filename"]
    nested = folder / entry.get("filepath", "") / entry["filename"]
    return flat if builder.exists(flat) else nested
