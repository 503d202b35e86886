"""Reader of COCO caption files.

Chen et al. (2015), Microsoft COCO Captions: Data Collection and Evaluation Server,
https://arxiv.org/abs/1504.00325.
"""

import re
from collections import Counter, defaultdict
from pathlib import Path

import msgspec

from captioning.datasets.reading import read_json_fields
from captioning.datasets.source import (
    REPEATED_CAPTIONS,
    REPEATED_IMAGES,
    UNKNOWN_CAPTIONS,
    CaptionSource,
    Entry,
)
from captioning.datasets.spec import DatasetSpec, normalize_split
from captioning.errors import DataError

_YEARS = ("2017", "2014", "")


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    caption: str


class _CaptionFile(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]


def load_coco(spec: DatasetSpec) -> CaptionSource:
    """Load a COCO caption file. It has no splits.

    Raises:
        DataError: The file is missing or malformed.
    """
    content = read_json_fields(spec.path, _CaptionFile)
    problems: defaultdict[str, list[str]] = defaultdict(list)
    for kind, ids in (
        (REPEATED_IMAGES, (image.id for image in content.images)),
        (REPEATED_CAPTIONS, (annotation.id for annotation in content.annotations)),
    ):
        repeated = (number for number, count in Counter(ids).items() if count > 1)
        problems[kind] += (f"id {number}" for number in repeated)
    entries = {image.id: Entry(image.file_name, [], image_id=image.id) for image in content.images}
    for annotation in content.annotations:
        if (entry := entries.get(annotation.image_id)) is not None:
            entry.captions.append(annotation.caption)
        else:
            name = f"image {annotation.image_id} (caption {annotation.id})"
            problems[UNKNOWN_CAPTIONS].append(name)
    folder = spec.find_images(*_image_folders(spec.path))
    return CaptionSource(list(entries.values()), folder, problems)


def find_annotations(spec: DatasetSpec) -> Path:
    """Return the caption file of a split in a folder in the official layout.

    The captions are ``annotations/captions_{split}2017.json`` and the images are in
    ``{split}2017/``, ``images/{split}2017/`` or ``images/``. The year may also be 2014 or missing;
    2017 is preferred.

    Raises:
        DataError: There is no such file.
    """
    if not spec.path.is_dir():
        return spec.path
    split = normalize_split(spec.split.removesuffix("+restval"))
    names = [f"captions_{split}{year}.json" for year in _YEARS]
    candidates = [
        folder / name for name in names for folder in (spec.path / "annotations", spec.path)
    ]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    advice = (
        "COCO does not publish the captions of its test images. Use Karpathy's test split."
        if split == "test"
        else "Unpack annotations_trainval2017.zip there, or name one file: coco:FILE@IMAGES"
    )
    raise DataError(
        f"cannot find the captions of the {split} split in '{spec.path}'. Searched: "
        f"{', '.join(str(c.relative_to(spec.path)) for c in candidates[::2])}. {advice}"
    )


def list_coco_splits(path: Path) -> list[str] | None:
    """Return the splits of a folder in the official layout; None for a file."""
    if not path.is_dir():
        return None
    return [
        re.sub(r"\d{4}$", "", file.stem.removeprefix("captions_"))
        for folder in (path / "annotations", path)
        for file in sorted(folder.glob("captions_*.json"))
    ]


def _image_folders(annotations: Path) -> list[Path]:
    """Return the possible folders of the images of an annotation file, most likely first."""
    part = annotations.stem.removeprefix("captions_")
    base = annotations.parent
    roots = [base.parent, base] if base.name == "annotations" else [base]
    return [root / name for root in roots for name in (part, f"images/{part}", "images")]
