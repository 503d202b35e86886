"""Where score and compare find what people said, and which caption is of which image."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from captioning.commands.progress import talk
from captioning.data.readers import READERS, read_captions
from captioning.errors import ScoreError, counted
from captioning.metrics.results import read_annotations, read_named_results, read_results


@dataclass(frozen=True)
class References:
    """What people said.

    Attributes:
        name: What they were asked for by.
        captions: Of each image, by its id.
        ids: The id of each image, by the name of its file; without names that several have.
    """

    name: str
    captions: Mapping[int, Sequence[str]]
    ids: Mapping[str, int]


def find_references(name: str, split: str) -> References:
    """Return the references of each image.

    Args:
        name: A COCO annotations file, or a data set as ``captioning evaluate`` names it
            (``flickr8k:DIR``), whose image ids are those of the results that it writes.
        split: Of the data set.

    Raises:
        ScoreError: The file cannot be used.
        DataError: The data set cannot be used.
    """
    captions: Mapping[int, Sequence[str]]
    if name.partition(":")[0] in READERS and not Path(name).exists():
        images = read_captions(name, split=split).images
        captions = {image.image_id: image.captions for image in images}
        files = [(image.path.name, image.image_id) for image in images]
        name = f"{name}, {split}"
    else:
        captions, files = read_annotations(name)
    count = Counter(file for file, _ in files)
    return References(name, captions, {file: key for file, key in files if count[file] == 1})


def find_candidates(path: Path, references: References) -> dict[int, str]:
    """Return the caption of each image that is in results.

    Results that name the pictures' files, as ``captioning caption`` writes them, are matched by
    these names, and captions of other files are left out; all others by their ids.

    Raises:
        ScoreError: The results cannot be used, or are of none of the references' images.
    """
    named = read_named_results(path) or {}
    found = {references.ids[name]: text for name, text in named.items() if name in references.ids}
    if not found:
        strange = bool(named and references.ids)
        by_id = {} if strange and path.suffix == ".jsonl" else read_results(path)
        if strange and not by_id.keys() & references.captions.keys():
            raise ScoreError(
                f"None of the {counted(len(named), 'file')} that {path} names, such as "
                f"{next(iter(named))}, is among the images of {references.name}. Is it another "
                "split?"
            )
        return by_id
    if others := len(named) - len(found):
        talk().print(f"Left out of {path}, as not in {references.name}: {counted(others, 'file')}")
    return found
