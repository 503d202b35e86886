"""Public archives of captioned data sets: where they are, their sizes, checksums and content."""

from collections.abc import Mapping
from dataclasses import dataclass

_COCO = "http://images.cocodataset.org"
_FLICKR8K = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"


@dataclass(frozen=True)
class PublicArchive:
    """A zip archive.

    Attributes:
        url: Its address.
        content: Number of files in each folder that it unpacks to, and 1 for single files. The
            archive is not needed if all of them exist.
        size: Bytes; None if the publisher does not state them.
        md5: Checksum; None if the publisher does not state one. The checksums inside the archive
            are compared in any case.
        growth: Bytes on disk after unpacking, as a multiple of the archive.
    """

    url: str
    content: Mapping[str, int]
    size: int | None = None
    md5: str | None = None
    growth: float = 1.0

    @property
    def name(self) -> str:
        """File name of the archive."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class PublicData:
    """A data set.

    Attributes:
        title: What it is.
        terms: Terms of use, in one sentence.
        archives: Its archives, small ones first.
        spec: Name for ``--data``, where ``{}`` is the folder.
    """

    title: str
    terms: str
    archives: tuple[PublicArchive, ...]
    spec: str


_COCO_TERMS = (
    "Captions: CC BY 4.0. Each photo has the license that its owner chose (the annotation files "
    "name it); see https://cocodataset.org/#termsofuse."
)
# The checksums of COCO are the ETags of its server, which are MD5 sums of the files.
_COCO_2014 = (
    PublicArchive(
        f"{_COCO}/annotations/annotations_trainval2014.zip",
        {"annotations/captions_train2014.json": 1, "annotations/captions_val2014.json": 1},
        size=252_872_794,
        md5="0a379cfc70b0e71301e0f377548639bd",
        growth=4.0,
    ),
    PublicArchive(
        f"{_COCO}/zips/val2014.zip",
        {"val2014": 40_504},
        size=6_645_013_297,
        md5="a3d79f5ed8d289b7a7554ce06a5782b3",
    ),
    PublicArchive(
        f"{_COCO}/zips/train2014.zip",
        {"train2014": 82_783},
        size=13_510_573_713,
        md5="0da8c0bd3d6becc4dcb32757491aca88",
    ),
)
_COCO_2017 = (
    PublicArchive(
        f"{_COCO}/annotations/annotations_trainval2017.zip",
        {"annotations/captions_train2017.json": 1, "annotations/captions_val2017.json": 1},
        size=252_907_541,
        md5="f4bbac642086de4f52a3fdda2de5fa2c",
        growth=4.0,
    ),
    PublicArchive(
        f"{_COCO}/zips/val2017.zip",
        {"val2017": 5_000},
        size=815_585_330,
        md5="442b8da7639aecaf257c1dceb8ba8c80",
    ),
    PublicArchive(
        f"{_COCO}/zips/train2017.zip",
        {"train2017": 118_287},
        size=19_336_861_798,
        md5="cced6f7f71b7629ddf16f17bbcfab6b2",
    ),
)
_KARPATHY = PublicArchive(
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
    {"dataset_coco.json": 1},
    growth=6.0,
)

PUBLIC_DATA: Mapping[str, PublicData] = {
    "coco": PublicData(
        "COCO 2014 with Karpathy's split",
        _COCO_TERMS,
        (_KARPATHY, *_COCO_2014),
        "karpathy:{}/dataset_coco.json@{}",
    ),
    "coco2017": PublicData("COCO 2017 with the official split", _COCO_TERMS, _COCO_2017, "coco:{}"),
    # The page of the authors at the University of Illinois is gone; this is the usual copy.
    "flickr8k": PublicData(
        "Flickr8k",
        "For research and education only; do not publish the photos (Hodosh et al. 2013).",
        (
            PublicArchive(
                f"{_FLICKR8K}/Flickr8k_text.zip",
                {
                    "Flickr8k.token.txt": 1,
                    "Flickr_8k.trainImages.txt": 1,
                    "Flickr_8k.devImages.txt": 1,
                    "Flickr_8k.testImages.txt": 1,
                },
                growth=5.0,
            ),
            PublicArchive(f"{_FLICKR8K}/Flickr8k_Dataset.zip", {"Flicker8k_Dataset": 8_091}),
        ),
        "flickr8k:{}",
    ),
}
"""Data sets by their name in ``captioning data download``."""
