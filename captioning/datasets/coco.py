"""Reader of COCO caption files.

Chen et al. (2015), Microsoft COCO Captions: Data Collection and Evaluation Server,
https://arxiv.org/abs/1504.00325.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from captioning.datasets.reading import (
    REPEATED_CAPTIONS,
    REPEATED_IMAGES,
    UNKNOWN_CAPTIONS,
    DatasetSpec,
    SplitBuilder,
    read_json_fields,
)
from captioning.datasets.split import CaptionSplit
from captioning.errors import DataError

_YEARS = ("2017", "2014", "")


@dataclass(frozen=True)
class _Image:
    id: int
    file_name: str


@dataclass(frozen=True)
class _Annotation:
    id: int
    image_id: int
    caption: str


@dataclass(frozen=True)
class _CaptionFile:
    images: tuple[_Image, ...]
    annotations: tuple[_Annotation, ...]


def read_coco(spec: DatasetSpec) -> CaptionSplit:
    """Read a COCO caption file, or one split of a folder in the official layout.

    In a folder, the captions are ``annotations/captions_{split}2017.json`` and the images are in
    ``{split}2017/``, ``images/{split}2017/`` or ``images/``. The year may also be 2014 or missing;
    2017 is preferred.

    Raises:
        DataError: A file is missing or malformed.
    """
    path = _find_annotations(spec) if spec.path.is_dir() else spec.path
    content = read_json_fields(path, _CaptionFile)
    folder = spec.find_images(*_image_folders(path))
    builder = SplitBuilder(spec)
    for kind, ids in (
        (REPEATED_IMAGES, [image.id for image in content.images]),
        (REPEATED_CAPTIONS, [annotation.id for annotation in content.annotations]),
    ):
        for number, count in Counter(ids).items():
            if count > 1:
                builder.report(kind, f"id {number}")
    images = {image.id: image for image in content.images}
    captions: defaultdict[int, list[str]] = defaultdict(list)
    for annotation in content.annotations:
        captions[annotation.image_id].append(annotation.caption)
        if annotation.image_id not in images:
            name = f"image {annotation.image_id} (caption {annotation.id})"
            builder.report(UNKNOWN_CAPTIONS, name)
    for image in images.values():
        builder.add(folder / image.file_name, captions[image.id], image.id)
    return builder.build()


def find_splits(path: Path) -> list[str]:
    """Return the splits of a folder in the official layout; none for a file."""
    return [
        re.sub(r"\d{4}$", "", file.stem.removeprefix("captions_"))
        for folder in (path / "annotations", path)
        for file in sorted(folder.glob("captions_*.json"))
    ]


def _find_annotations(spec: DatasetSpec) -> Path:
    names = [f"captions_{spec.split}{year}.json" for year in _YEARS]
    candidates = [
        folder / name for name in names for folder in (spec.path / "annotations", spec.path)
    ]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    advice = (
        "COCO does not publish the captions of its test images. Use Karpathy's test split."
        if spec.split == "test"
        else "Unpack annotations_trainval2017.zip there, or name one file: coco:FILE@IMAGES"
    )
    raise DataError(
        f"cannot find the captions of the {spec.split} split in '{spec.path}'. Searched: "
        f"{', '.join(str(c.relative_to(spec.path)) for c in candidates[::2])}. {advice}"
    )


def _image_folders(annotations: Path) -> list[Path]:
    """Return the possible folders of the images of an annotation file, most likely first."""
    part = annotations.stem.removeprefix("captions_")
    base = annotations.parent
    roots = [base.parent, base] if base.name == "annotations" else [base]
    return [root / name for root in roots for name in (part, f"images/{part}", "images")]
