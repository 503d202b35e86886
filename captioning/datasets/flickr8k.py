"""Reader of the official Flickr8k files.

Hodosh, Young and Hockenmaier (2013), Framing Image Description as a Ranking Task, JAIR 47. The two
archives unpack to ``Flicker8k_Dataset/`` (spelled so) and ``Flickr8k_text/``. The text files may
also be in the folder itself, and the images in ``images/``.
"""

from collections import defaultdict
from pathlib import Path

from captioning.datasets.reading import (
    REPEATED_CAPTIONS,
    UNKNOWN_CAPTIONS,
    DatasetSpec,
    SplitBuilder,
    number_names,
)
from captioning.datasets.split import CaptionSplit
from captioning.errors import DataError
from captioning.files import read_text
from captioning.messages import suggest

_CAPTIONS = "Flickr8k.token.txt"
_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
_TEXT_FOLDERS = (".", "Flickr8k_text")
_IMAGE_FOLDERS = (
    "images",
    "Images",
    "Flicker8k_Dataset",
    "Flickr8k_Dataset",
    "Flickr8k_Dataset/Flicker8k_Dataset",
)


def read_flickr8k(spec: DatasetSpec) -> CaptionSplit:
    """Read one split of Flickr8k from its folder, ``spec.path``.

    A caption is reported as a problem if no split lists its image and the image file does not
    exist. The official data has 92 image files that no split lists; they are not reported.

    Raises:
        DataError: A file is missing or malformed, or the split does not exist.
    """
    if spec.split not in _LISTS:
        raise DataError(
            f"Flickr8k has no split {spec.split!r}; available: train, val (or dev) and test."
            f"{suggest(spec.split, _LISTS)}"
        )
    text = _find_text_folder(spec.path)
    folder = spec.find_images(*(spec.path / name for name in _IMAGE_FOLDERS))
    builder = SplitBuilder(spec)
    captions = _read_captions(text / _CAPTIONS, builder)
    lists = {
        split: _read_list(text / name, required=split == spec.split)
        for split, name in _LISTS.items()
    }
    listed = {name for names in lists.values() for name in names}
    for name, numbered_captions in captions.items():
        if name not in listed and not builder.exists(folder / name):
            for number in numbered_captions:
                builder.report(UNKNOWN_CAPTIONS, f"{name}#{number}")
    ids = number_names([*captions, *listed])
    for name in lists[spec.split]:
        builder.add(folder / name, captions.get(name, {}).values(), ids[name])
    return builder.build()


def find_splits(path: Path) -> list[str]:
    """Return the splits whose list of images exists."""
    folder = _find_text_folder(path)
    return [split for split, name in _LISTS.items() if (folder / name).is_file()]


def _find_text_folder(directory: Path) -> Path:
    for name in _TEXT_FOLDERS:
        if (directory / name / _CAPTIONS).is_file():
            return directory / name
    raise DataError(
        f"cannot find {_CAPTIONS} in '{directory}' or its folder Flickr8k_text. Unpack "
        "Flickr8k_text.zip and Flickr8k_Dataset.zip there, and name that folder: flickr8k:FOLDER"
    )


def _read_captions(path: Path, builder: SplitBuilder) -> dict[str, dict[str, str]]:
    """Return the captions of each image name, keyed by their number."""
    captions: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for line_number, line in enumerate(read_text(path, error=DataError).split("\n"), 1):
        if not line.strip():
            continue
        label, tab, caption = line.partition("\t")
        name, sharp, number = label.rpartition("#")
        if not (tab and sharp and name and number.isdecimal()):
            raise DataError(
                f"{path}, line {line_number}: expected NAME.jpg#NUMBER<TAB>caption, found "
                f"{line.strip()!r:.80}. Restore the line from Flickr8k_text.zip."
            )
        if number in captions[name]:
            builder.report(REPEATED_CAPTIONS, label)
        captions[name].setdefault(number, caption)
    return captions


def _read_list(path: Path, *, required: bool) -> list[str]:
    if not path.is_file():
        if not required:
            return []
        raise DataError(
            f"cannot find {path.name} in {path.parent}, which lists the images of this split. "
            "Copy it from Flickr8k_text.zip, or use another split."
        )
    return [
        name for line in read_text(path, error=DataError).splitlines() if (name := line.strip())
    ]
