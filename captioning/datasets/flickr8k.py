"""The official Flickr8k files.

Hodosh, Young and Hockenmaier (2013), Framing Image Description as a Ranking Task, JAIR 47. The two
archives unpack to ``Flicker8k_Dataset/`` (so spelt) and ``Flickr8k_text/``; the texts may also lie
in the folder itself, and the photos in ``images/``.
"""

from collections import defaultdict
from pathlib import Path

from captioning.datasets.split import (
    REPEATED_CAPTIONS,
    UNKNOWN,
    Assembler,
    CaptionSplit,
    Source,
    numbered,
    read_text,
)
from captioning.errors import DataError
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


def read_flickr8k(source: Source) -> CaptionSplit:
    """Read one split of Flickr8k; ``source.path`` is the folder that holds it.

    A caption is of an unknown image when no split list names the image and the disk does not hold
    it. (92 photos of the official data stand in no list; that is as published, and no problem.)

    Raises:
        DataError: A file is missing or malformed, or there is no such split.
    """
    if source.split not in _LISTS:
        raise DataError(
            f"Flickr8k has no split {source.split!r}; it has train, val (or dev) and test."
            f"{suggest(source.split, _LISTS)}"
        )
    text = _text_folder(source.path)
    folder = source.image_folder(*(source.path / name for name in _IMAGE_FOLDERS))
    assembler = Assembler(source)
    captions = _read_captions(text / _CAPTIONS, assembler)
    lists = {
        split: _read_list(text / name, needed=split == source.split)
        for split, name in _LISTS.items()
    }
    listed = {name for names in lists.values() for name in names}
    for name, lines in captions.items():
        if name not in listed and not assembler.exists(folder / name):
            for number in lines:
                assembler.note(UNKNOWN, f"{name}#{number}")
    ids = numbered([*captions, *listed])
    for name in lists[source.split]:
        assembler.add(folder / name, captions.get(name, {}).values(), ids[name])
    return assembler.finish()


def _text_folder(directory: Path) -> Path:
    for name in _TEXT_FOLDERS:
        if (directory / name / _CAPTIONS).is_file():
            return directory / name
    raise DataError(
        f"There is no {_CAPTIONS} in {directory} or its Flickr8k_text. Unpack Flickr8k_text.zip "
        "and Flickr8k_Dataset.zip there, and name that folder: flickr8k:FOLDER"
    )


def _read_captions(path: Path, assembler: Assembler) -> dict[str, dict[str, str]]:
    """Return for each image name its captions by their numbers."""
    captions: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for place, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        label, tab, caption = line.partition("\t")
        name, sharp, number = label.rpartition("#")
        if not (tab and sharp and name and number.isdecimal()):
            raise DataError(
                f"{path}, line {place}: NAME.jpg#NUMBER<TAB>caption was expected, "
                f"{line.strip()!r:.80} was found. Restore that line from Flickr8k_text.zip."
            )
        if number in captions[name]:
            assembler.note(REPEATED_CAPTIONS, label)
        captions[name].setdefault(number, caption)
    return captions


def _read_list(path: Path, *, needed: bool) -> list[str]:
    if not needed and not path.is_file():
        return []
    if not path.is_file():
        raise DataError(
            f"There is no {path.name} in {path.parent}, so this split is not known. Take it from "
            "Flickr8k_text.zip, or ask for another split."
        )
    return [name for line in read_text(path).splitlines() if (name := line.strip())]
