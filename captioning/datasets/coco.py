"""Reader of COCO caption files.

Chen et al. (2015), Microsoft COCO Captions: Data Collection and Evaluation Server,
https://arxiv.org/abs/1504.00325.
"""

import contextlib
import io
from collections import Counter
from pathlib import Path
from typing import Any

from captioning.datasets.reading import (
    REPEATED_CAPTIONS,
    REPEATED_IMAGES,
    UNKNOWN_CAPTIONS,
    DatasetSpec,
    SplitBuilder,
    read_json_object,
    require_fields,
)
from captioning.datasets.split import CaptionSplit
from captioning.errors import DataError

_YEARS = ("2017", "2014", "")


def read_coco(spec: DatasetSpec) -> CaptionSplit:
    """Read a COCO caption file, or one split of a folder in the official layout.

    In a folder, the captions are ``annotations/captions_{split}2017.json`` and the images are in
    ``{split}2017/``, ``images/{split}2017/`` or ``images/``. The year may also be 2014 or missing;
    2017 is preferred.

    Raises:
        DataError: A file is missing or malformed.
    """
    path = _find_annotations(spec) if spec.path.is_dir() else spec.path
    coco = _load_index(path)
    folder = spec.find_images(*_image_folders(path))
    builder = SplitBuilder(spec)
    _report_repeated(coco, builder)
    for image_id, annotations in coco.imgToAnns.items():
        if image_id not in coco.imgs:
            for annotation in annotations:
                builder.report(UNKNOWN_CAPTIONS, f"image {image_id} (caption {annotation['id']})")
    for image_id, image in coco.imgs.items():
        # The index is a defaultdict: a lookup with [] would add an entry.
        captions = [a["caption"] for a in coco.imgToAnns.get(image_id, [])]
        builder.add(folder / image["file_name"], captions, image_id)
    return builder.build()


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
        f"cannot find the captions of the {spec.split} split in {spec.path}. Searched: "
        f"{', '.join(str(c.relative_to(spec.path)) for c in candidates[::2])}. {advice}"
    )


def _image_folders(annotations: Path) -> list[Path]:
    """Return the possible folders of the images of an annotation file, most likely first."""
    part = annotations.stem.removeprefix("captions_")
    base = annotations.parent
    roots = [base.parent, base] if base.name == "annotations" else [base]
    return [root / name for root in roots for name in (part, f"images/{part}", "images")]


def _load_index(path: Path) -> Any:
    """Return the pycocotools index of a caption file, after checking the file."""
    from pycocotools.coco import COCO

    lists = ("images", "annotations")
    content = read_json_object(path, lists=lists, format_name="COCO caption file")
    for i, image in enumerate(content["images"]):
        require_fields(image, {"id": int, "file_name": str}, f"{path}, images[{i}]")
    fields = {"id": int, "image_id": int, "caption": str}
    for i, annotation in enumerate(content["annotations"]):
        require_fields(annotation, fields, f"{path}, annotations[{i}]")
    coco = COCO()
    coco.dataset = {key: content[key] for key in lists}
    with contextlib.redirect_stdout(io.StringIO()):  # createIndex prints its progress
        coco.createIndex()
    return coco


def _report_repeated(coco: Any, builder: SplitBuilder) -> None:
    for kind, key in ((REPEATED_IMAGES, "images"), (REPEATED_CAPTIONS, "annotations")):
        counts = Counter(entry["id"] for entry in coco.dataset[key])
        for number, count in counts.items():
            if count > 1:
                builder.report(kind, f"id {number}")
