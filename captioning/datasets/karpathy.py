"""Reader of Karpathy's split files, such as ``dataset_flickr8k.json`` and ``dataset_coco.json``.

Karpathy and Fei-Fei (2015), Deep Visual-Semantic Alignments for Generating Image Descriptions,
https://cs.stanford.edu/people/karpathy/deepimagesent/.
"""

import msgspec

from captioning.datasets.reading import read_json_fields
from captioning.datasets.source import CaptionSource, Entry
from captioning.datasets.spec import DatasetSpec, normalize_split


class _Sentence(msgspec.Struct, gc=False):
    raw: str


class _Image(msgspec.Struct):
    filename: str
    imgid: int
    split: str
    sentences: list[_Sentence]
    cocoid: int | None = None
    filepath: str = ""  # subfolder of the COCO release


class _SplitFile(msgspec.Struct):
    images: list[_Image]


def load_karpathy(spec: DatasetSpec) -> CaptionSource:
    """Load a Karpathy split file.

    ``train+restval`` is the usual COCO training set of 113,287 images. The id of an image is its
    COCO id if the file has one, else its ``imgid``.

    Raises:
        DataError: The file is missing or malformed.
    """
    images = read_json_fields(spec.path, _SplitFile).images
    entries = [
        Entry(
            image.filename,
            [sentence.raw for sentence in image.sentences],
            normalize_split(image.split),
            image.imgid if image.cocoid is None else image.cocoid,
            subfolder=image.filepath,
        )
        for image in images
    ]
    base = spec.path.parent
    return CaptionSource(entries, spec.find_images(base / "images", base))
