"""Reader of Karpathy's split files, such as ``dataset_flickr8k.json`` and ``dataset_coco.json``.

Karpathy and Fei-Fei (2015), Deep Visual-Semantic Alignments for Generating Image Descriptions,
https://cs.stanford.edu/people/karpathy/deepimagesent/.
"""

from collections import Counter
from dataclasses import dataclass

from captioning.datasets.reading import (
    DatasetSpec,
    SplitBuilder,
    describe_split,
    normalize_split,
    read_json_fields,
)
from captioning.datasets.split import CaptionSplit
from captioning.errors import DataError
from captioning.messages import format_count


@dataclass(frozen=True)
class _Sentence:
    raw: str


@dataclass(frozen=True)
class _Image:
    filename: str
    imgid: int
    split: str
    sentences: tuple[_Sentence, ...]
    cocoid: int | None = None
    filepath: str = ""  # subfolder of the COCO release


@dataclass(frozen=True)
class _SplitFile:
    images: tuple[_Image, ...]


def read_karpathy(spec: DatasetSpec) -> CaptionSplit:
    """Read one split of a Karpathy split file, or several splits joined by ``+``.

    ``train+restval`` is the usual COCO training set of 113,287 images. The id of an image is its
    COCO id if the file has one, else its ``imgid``.

    Raises:
        DataError: The file is missing or malformed, or the split does not exist.
    """
    path = spec.path
    images = read_json_fields(path, _SplitFile).images
    selected = {normalize_split(part) for part in spec.split.split("+")}
    counts = Counter(normalize_split(image.split) for image in images)
    if unknown := sorted(selected - set(counts)):
        known = ", ".join(f"{name} ({format_count(n, 'image')})" for name, n in counts.items())
        raise DataError(
            f"'{path}' has no split {', '.join(map(describe_split, unknown))}; available: {known}."
        )
    folder = spec.find_images(path.parent / "images", path.parent)
    builder = SplitBuilder(spec)
    for image in images:
        if normalize_split(image.split) in selected:
            flat = folder / image.filename
            file = flat if builder.exists(flat) else folder / image.filepath / image.filename
            image_id = image.imgid if image.cocoid is None else image.cocoid
            builder.add(file, [sentence.raw for sentence in image.sentences], image_id)
    return builder.build()
