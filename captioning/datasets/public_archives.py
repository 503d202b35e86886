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
        checksum: Name of the hash function and the sum, such as ``md5:0a37...``.
        size: Bytes; None to use the size that the server states.
        growth: Bytes on disk after unpacking, as a multiple of the archive.
    """

    url: str
    content: Mapping[str, int]
    checksum: str
    size: int | None = None
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
# Size and checksum of the archives of COCO and of Karpathy's captions are those of TensorFlow
# Datasets (coco_captions.txt), and those of Flickr8k are those of torchvision for R
# (flickr8k_caption_dataset). Unrelated programs check the same sums.
_COCO_2014 = (
    PublicArchive(
        f"{_COCO}/annotations/annotations_trainval2014.zip",
        {"annotations/captions_train2014.json": 1, "annotations/captions_val2014.json": 1},
        size=252_872_794,
        checksum="sha256:031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
        growth=4.0,
    ),
    PublicArchive(
        f"{_COCO}/zips/val2014.zip",
        {"val2014": 40_504},
        size=6_645_013_297,
        checksum="sha256:fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
    ),
    PublicArchive(
        f"{_COCO}/zips/train2014.zip",
        {"train2014": 82_783},
        size=13_510_573_713,
        checksum="sha256:ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
    ),
)
_COCO_2017 = (
    PublicArchive(
        f"{_COCO}/annotations/annotations_trainval2017.zip",
        {"annotations/captions_train2017.json": 1, "annotations/captions_val2017.json": 1},
        size=252_907_541,
        checksum="sha256:113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
        growth=4.0,
    ),
    PublicArchive(
        f"{_COCO}/zips/val2017.zip",
        {"val2017": 5_000},
        size=815_585_330,
        checksum="sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    ),
    PublicArchive(
        f"{_COCO}/zips/train2017.zip",
        {"train2017": 118_287},
        size=19_336_861_798,
        checksum="sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    ),
)
_KARPATHY = PublicArchive(
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
    {"dataset_coco.json": 1},
    size=36_745_453,
    checksum="sha256:4cfd70132527b80933105e5829dc9034eaab9573482e2e680abbab6130244817",
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
                checksum="md5:bf6c1abcb8e4a833b7f922104de18627",
                growth=5.0,
            ),
            PublicArchive(
                f"{_FLICKR8K}/Flickr8k_Dataset.zip",
                {"Flicker8k_Dataset": 8_091},
                checksum="md5:f18a1e2920de5bd84dae7cf08ec78978",
            ),
        ),
        "flickr8k:{}",
    ),
}
"""Data sets by their name in ``captioning data download``."""
