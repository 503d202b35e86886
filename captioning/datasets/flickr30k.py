"""Reader of the official Flickr30k files, ``results_20130124.token`` and ``results.csv``.

Young, Lai, Hodosh and Hockenmaier (2014), From image descriptions to visual denotations, TACL 2.
"""

import re
from collections import defaultdict
from pathlib import Path

from captioning.datasets.flickr8k import read_numbered_captions
from captioning.datasets.source import CaptionSource, Entry
from captioning.datasets.spec import DatasetSpec
from captioning.errors import DataError
from captioning.files import read_lines

_CAPTIONS = ("results_20130124.token", "results.csv")
_TEXT_FOLDERS = (".", "flickr30k", "flickr30k_images")
_IMAGE_FOLDERS = (
    "flickr30k_images",
    "flickr30k_images/flickr30k_images",
    "flickr30k-images",
    "images",
    "Images",
    "",
)
# One line of the published file lacks its second bar: "2199200615.jpg| 4   A dog runs ...".
_CSV_LINE = re.compile(r"([^|]*[^|\s])\s*\|\s*(\d+)\s*\|?\s*(.*)")


def load_flickr30k(spec: DatasetSpec) -> CaptionSource:
    """Load the captions of Flickr30k, from one of its files or from their folder.

    The files have no splits.

    Raises:
        DataError: A file is missing or malformed.
    """
    path = _find_captions(spec.path) if spec.path.is_dir() else spec.path
    first = next(read_lines(path, error=DataError))
    problems: dict[str, list[str]] = {}
    if "|" in first:
        captions = _read_csv(path)
    else:
        numbered, problems = read_numbered_captions(path, "flickr30k.tar.gz")
        captions = {name: list(texts.values()) for name, texts in numbered.items()}
    entries = [Entry(name, texts) for name, texts in captions.items()]
    folder = spec.find_images(*(path.parent / name for name in _IMAGE_FOLDERS))
    return CaptionSource(entries, folder, problems)


def _find_captions(directory: Path) -> Path:
    candidates = [directory / folder / name for folder in _TEXT_FOLDERS for name in _CAPTIONS]
    if found := next((path for path in candidates if path.is_file()), None):
        return found
    raise DataError(
        f"cannot find {' or '.join(_CAPTIONS)} in '{directory}'. Name the folder with one of them: "
        "flickr30k:FOLDER. The file dataset_flickr30k.json is read as karpathy:FILE"
    )


def _read_csv(path: Path) -> dict[str, list[str]]:
    captions: defaultdict[str, list[str]] = defaultdict(list)
    for number, line in enumerate(read_lines(path, error=DataError), 1):
        if found := _CSV_LINE.fullmatch(line.strip()):
            captions[found[1]].append(found[3])
        elif line.strip() and number > 1:  # the first line is the header
            raise DataError(
                f"{path}, line {number}: expected NAME.jpg| NUMBER| caption, found "
                f"{line.strip()!r:.80}. Copy the file again."
            )
    return captions
