"""Reader of the official Flickr8k files.

Hodosh, Young and Hockenmaier (2013), Framing Image Description as a Ranking Task, JAIR 47. The two
archives unpack to ``Flicker8k_Dataset/`` (spelled so) and ``Flickr8k_text/``. The text files may
also be in the folder itself, and the images in ``images/``.
"""

from collections import defaultdict
from pathlib import Path

from captioning.datasets.source import (
    REPEATED_CAPTIONS,
    UNKNOWN_CAPTIONS,
    CaptionSource,
    Entry,
    list_files,
    number_names,
)
from captioning.datasets.spec import DatasetSpec
from captioning.errors import DataError
from captioning.files import read_lines

_CAPTIONS = "Flickr8k.token.txt"
_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
_MISSING_LIST = (
    "Each split has a list, such as Flickr_8k.devImages.txt. Copy it from Flickr8k_text.zip, or "
    "use another split"
)
_TEXT_FOLDERS = (".", "Flickr8k_text")
_IMAGE_FOLDERS = (
    "images",
    "Images",
    "Flicker8k_Dataset",
    "Flickr8k_Dataset",
    "Flickr8k_Dataset/Flicker8k_Dataset",
)


def load_flickr8k(spec: DatasetSpec) -> CaptionSource:
    """Load Flickr8k from its folder, ``spec.path``.

    A caption is reported as a problem if no split lists its image and the image file does not
    exist. The official data has 92 image files that no split lists; they are not reported.

    Raises:
        DataError: A file is missing or malformed.
    """
    text = _find_text_folder(spec.path)
    folder = spec.find_images(*(spec.path / name for name in _IMAGE_FOLDERS))
    captions, problems = read_numbered_captions(text / _CAPTIONS, "Flickr8k_text.zip")
    lists = {split: _read_list(text / name) for split, name in _LISTS.items()}
    listed = {name for names in lists.values() for name in names}
    files = list_files(folder)
    unknown = [name for name in captions if name not in listed and name not in files]
    if labels := [f"{name}#{number}" for name in unknown for number in captions[name]]:
        problems[UNKNOWN_CAPTIONS] = labels
    ids = number_names([*captions, *listed])
    entries = [
        Entry(name, list(captions.get(name, {}).values()), split, ids[name])
        for split, names in lists.items()
        for name in names
    ]
    return CaptionSource(entries, folder, problems, _MISSING_LIST)


def _find_text_folder(directory: Path) -> Path:
    for name in _TEXT_FOLDERS:
        if (directory / name / _CAPTIONS).is_file():
            return directory / name
    raise DataError(
        f"cannot find {_CAPTIONS} in '{directory}' or its folder Flickr8k_text. Unpack "
        "Flickr8k_text.zip and Flickr8k_Dataset.zip there, and name that folder: flickr8k:FOLDER"
    )


def read_numbered_captions(
    path: Path, origin: str
) -> tuple[dict[str, dict[str, str]], dict[str, list[str]]]:
    """Read lines ``NAME#NUMBER<TAB>caption``.

    Args:
        path: The file.
        origin: Where the user finds the file, for messages.

    Returns:
        The captions of each image name, keyed by their number, and the problems by kind.

    Raises:
        DataError: The file is missing or malformed.
    """
    captions: defaultdict[str, dict[str, str]] = defaultdict(dict)
    repeated = []
    for line_number, line in enumerate(read_lines(path, error=DataError), 1):
        if not line.strip():
            continue
        label, tab, caption = line.partition("\t")
        name, sharp, number = label.rpartition("#")
        if not (tab and sharp and name and number.isdecimal()):
            raise DataError(
                f"{path}, line {line_number}: expected NAME.jpg#NUMBER<TAB>caption, found "
                f"{line.strip()!r:.80}. Restore the line from {origin}."
            )
        if number in captions[name]:
            repeated.append(label)
        captions[name].setdefault(number, caption)
    return captions, {REPEATED_CAPTIONS: repeated} if repeated else {}


def _read_list(path: Path) -> list[str]:
    if not path.is_file():
        return []
    return [name for line in read_lines(path, error=DataError) if (name := line.strip())]
