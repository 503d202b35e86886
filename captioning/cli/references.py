"""Where score and compare find what people said, and which caption is of which image."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from captioning.cli.progress import stderr_console
from captioning.datasets import READERS, read_captions
from captioning.datasets.coco_results import (
    FileResult,
    read_annotations,
    read_file_results,
    read_results,
)
from captioning.errors import ScoreError
from captioning.messages import format_count


@dataclass(frozen=True)
class References:
    """What people said.

    Attributes:
        name: What they were asked for by.
        captions: Of each image, by its id.
        files: For each name of a file, the ids and whole paths of the images that have it.
    """

    name: str
    captions: Mapping[int, Sequence[str]]
    files: Mapping[str, Mapping[int, PurePosixPath]]

    def image_of(self, file: str) -> int | None:
        """Return the id of the image that a file is of; None for none.

        Where several have its name, it is the one with most of the same folders before it.

        Raises:
            ScoreError: It may be of several.
        """
        path = PurePosixPath(file)
        owners = self.files.get(path.name, {})
        if len(owners) < 2:
            return next(iter(owners), None)
        alike = {key: _same_end(path, other) for key, other in owners.items()}
        most = max(alike.values())
        best = [key for key in owners if alike[key] == most]
        if len(best) > 1:
            raise ScoreError(
                f"{file} may be {owners[best[0]]} or {owners[best[1]]} of {self.name}. Name the "
                "photos with their folders when you have them captioned, or give results with the "
                "images' ids."
            )
        return best[0]


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
        files = [(image.path.as_posix(), image.image_id) for image in images]
        return References(f"{name}, {split}", captions, _by_name(files))
    captions, files = read_annotations(name)
    return References(name, captions, _by_name(files))


def find_candidates(path: Path, references: References) -> dict[int, str]:
    """Return the caption of each image that is in results.

    Ids count where every one is of the references. Results with other ids or none, as ``captioning
    caption`` writes them of files that are not called by COCO's ids, are matched by the files'
    names; captions of other files are left out then, which is told.

    Raises:
        ScoreError: The results cannot be used, or are of none of the references' images.
    """
    named = read_file_results(path)
    if named is None or _go_by_id(named, references):
        return read_results(path)
    spoken = {each.file: each.caption for each in named if each.caption is not None}
    if not spoken:
        raise ScoreError(
            f"None of the {format_count(len(named), 'photo')} in {path} has a caption."
        )
    owners = {file: references.image_of(file) for file in spoken}
    found: dict[int, str] = {}
    for file, image in owners.items():
        if image in found:
            raise ScoreError(
                f"{path} has more than one caption for one image of {references.name}, {file} the "
                "last of them. Keep one caption for each image."
            )
        if image is not None:
            found[image] = spoken[file]
    if not found:
        raise ScoreError(_nothing_matches(path, spoken, references))
    first = next(file for file, image in owners.items() if image is not None)
    console = stderr_console()
    console.print(f"{path}: matched by the names of files, such as {first}")
    if others := len(spoken) - len(found):
        console.print(
            f"Left out of {path}, as not in {references.name}: {format_count(others, 'file')}"
        )
    return found


def refuse_partial(
    path: Path, candidates: Mapping[int, str], references: References, advice: str
) -> None:
    """Say which images have no caption.

    Args:
        path: The results.
        candidates: Their captions.
        references: What people said.
        advice: What can be done about it.

    Raises:
        ScoreError: Some images have one and others none.
    """
    lacking = [image for image in references.captions if image not in candidates]
    if not lacking or len(lacking) == len(references.captions):
        return
    names = {key: path for owners in references.files.values() for key, path in owners.items()}
    first = names[lacking[0]].name if lacking[0] in names else lacking[0]
    raise ScoreError(
        f"{path} has no caption for {format_count(len(lacking), 'image')} of the "
        f"{len(references.captions):,} of {references.name} (such as {first}). {advice}"
    )


def _go_by_id(named: Sequence[FileResult], references: References) -> bool:
    """Whether the ids say which images these are; where they contradict the names, too."""
    ids = [each.image_id for each in named if each.image_id is not None]
    if not ids:
        return False
    if all(image in references.captions for image in ids):
        return True
    return any(
        each.image_id in references.captions
        and references.image_of(each.file) not in (None, each.image_id)
        for each in named
    )


def _nothing_matches(path: Path, spoken: Mapping[str, str], references: References) -> str:
    first = next(iter(spoken))
    if not references.files:
        return (
            f"{path} says by the files' names what its captions are of, such as {first}, and "
            f"{references.name} names no files. Give the data set (coco:DIR), or results with the "
            'images\' ids: [{"image_id": 1, "caption": "a dog"}, ...].'
        )
    return (
        f"None of the {format_count(len(spoken), 'file')} that {path} names, such as "
        f"{first}, is among "
        f"the images of {references.name}. Is it another split?"
    )


def _by_name(files: Iterable[tuple[str, int]]) -> dict[str, dict[int, PurePosixPath]]:
    found: dict[str, dict[int, PurePosixPath]] = {}
    for file, image in files:
        path = PurePosixPath(file)
        found.setdefault(path.name, {})[image] = path
    return found


def _same_end(one: PurePosixPath, other: PurePosixPath) -> int:
    """Return how many parts at their ends are the same."""
    count = 0
    for mine, theirs in zip(reversed(one.parts), reversed(other.parts), strict=False):
        if mine != theirs:
            break
        count += 1
    return count
