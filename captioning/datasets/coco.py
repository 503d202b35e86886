"""COCO caption files, read through pycocotools.

Chen et al. (2015), Microsoft COCO Captions: Data Collection and Evaluation Server,
https://arxiv.org/abs/1504.00325.
"""

import contextlib
import io
from collections import Counter
from pathlib import Path
from typing import Any

from captioning.datasets.split import (
    REPEATED_CAPTIONS,
    REPEATED_IMAGES,
    UNKNOWN,
    Assembler,
    CaptionSplit,
    Source,
    check_entry,
    read_json_object,
)
from captioning.errors import DataError

_YEARS = ("2017", "2014", "")


def read_coco(source: Source) -> CaptionSplit:
    """Read one COCO caption file, or one split of a folder in the official layout.

    In a folder, the captions are ``annotations/captions_{split}2017.json`` and the images in
    ``{split}2017/``, or in ``images/{split}2017/``, or in ``images/``. The 2014 release and names
    without a year are found as well; where both lie there, 2017 is read.

    Raises:
        DataError: A file is missing or malformed.
    """
    path = _annotation_file(source) if source.path.is_dir() else source.path
    coco = _load(path)
    folder = source.image_folder(*_image_folders(path))
    assembler = Assembler(source)
    _note_repeated(coco, assembler)
    for image_id, annotations in coco.imgToAnns.items():
        if image_id not in coco.imgs:
            for annotation in annotations:
                assembler.note(UNKNOWN, f"image {image_id} (caption {annotation['id']})")
    for image_id, image in coco.imgs.items():
        # .get: the class's index is a defaultdict, and asking it would add to it.
        captions = [a["caption"] for a in coco.imgToAnns.get(image_id, [])]
        assembler.add(folder / image["file_name"], captions, image_id)
    return assembler.finish()


def _annotation_file(source: Source) -> Path:
    names = [f"captions_{source.split}{year}.json" for year in _YEARS]
    candidates = [
        folder / name for name in names for folder in (source.path / "annotations", source.path)
    ]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    advice = (
        " COCO publishes no captions of its test images; Karpathy's split has a test part."
        if source.split == "test"
        else " Unpack annotations_trainval2017.zip there, or name one file: coco:FILE@IMAGES"
    )
    raise DataError(
        f"There are no captions of the {source.split} split in {source.path}: looked for "
        f"{', '.join(str(c.relative_to(source.path)) for c in candidates[::2])}.{advice}"
    )


def _image_folders(annotations: Path) -> list[Path]:
    """Return where the images of an annotation file may lie, the likeliest first."""
    part = annotations.stem.removeprefix("captions_")
    base = annotations.parent
    roots = [base.parent, base] if base.name == "annotations" else [base]
    return [root / name for root in roots for name in (part, f"images/{part}", "images")]


def _load(path: Path) -> Any:
    """Return pycocotools' index of a caption file that was checked first."""
    from pycocotools.coco import COCO

    content = read_json_object(path, needed=("images", "annotations"), format_name="COCO caption")
    for place, image in enumerate(content["images"]):
        check_entry(image, {"id": int, "file_name": str}, f"{path}, images[{place}]")
    for place, annotation in enumerate(content["annotations"]):
        check_entry(
            annotation,
            {"id": int, "image_id": int, "caption": str},
            f"{path}, annotations[{place}]",
        )
    coco = COCO()
    coco.dataset = {key: content[key] for key in ("images", "annotations")}
    with contextlib.redirect_stdout(io.StringIO()):  # the class prints what it does
        coco.createIndex()
    return coco


def _note_repeated(coco: Any, assembler: Assembler) -> None:
    for kind, key in ((REPEATED_IMAGES, "images"), (REPEATED_CAPTIONS, "annotations")):
        counts = Counter(entry["id"] for entry in coco.dataset[key])
        for number, count in counts.items():
            if count > 1:
                assembler.note(kind, f"id {number}")
