"""Load references and results, and match results to the images of the references."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from captioning.cli.progress import stderr_console
from captioning.datasets import FORMS, read_captions
from captioning.datasets.coco_results import ImageId, read_annotations
from captioning.datasets.result_files import ResultRow, read_result_rows, refuse_repeats
from captioning.errors import ScoreError
from captioning.messages import format_count

_HEAD_BYTES = 65536
# What the files of captioning caption begin with.
_RESULTS = re.compile(
    rb'^PAR1|"log_prob"|^file_name,.*log_prob|^\[\n\{"image_id": \d+,.*"file_name"'
)
# How the head of a file shows that it is part of a data set, and the name of this data set.
_DATASETS = (
    (re.compile(rb'"sentences"\s*:'), "karpathy:{path}"),
    (re.compile(rb"^\S+#\d\t"), "flickr8k:{path.parent}"),
)
_ENDINGS = {".jsonl": "jsonl:{path}", ".csv": "csv:{path}"}


@dataclass(frozen=True)
class References:
    """References of images that are identified by id or by file name.

    Attributes:
        name: Name for messages.
        captions: References of each image id.
        files: Path of each image id; empty if the references have no file names.
    """

    name: str
    captions: Mapping[ImageId, Sequence[str]]
    files: Mapping[ImageId, PurePosixPath]

    def show(self, image: ImageId) -> str:
        """Return the name of an image for messages."""
        return self.files[image].name if image in self.files else repr(image)


def load_references(name: str, split: str | None = None) -> References:
    """Load the references of each image.

    Args:
        name: COCO annotations file, a data set such as ``flickr8k:DIR``, or a file of a data set.
            The ids of a data set are those in the results of ``captioning evaluate``. The images
            need not exist.
        split: Split of the data set; val if None. COCO annotations have no splits.

    Raises:
        ScoreError: The file cannot be used.
        DataError: The data set cannot be used.
    """
    name = _find_dataset(Path(name)) or name
    if name.partition(":")[0] not in FORMS or Path(name).exists():
        if split is not None:
            stderr_console().print(f"--split has no effect on the COCO annotations '{name}'.")
        annotations = read_annotations(name)
        return References(name, annotations.captions, _parse_paths(annotations.files))
    split = split or "val"
    images = read_captions(name, split=split, require_images=False).images
    captions: dict[ImageId, Sequence[str]] = {image.image_id: image.captions for image in images}
    files = [(image.path.as_posix(), image.image_id) for image in images]
    return References(f"{name}, {split}", captions, _parse_paths(files))


def _find_dataset(path: Path) -> str | None:
    """Return the data set that a file belongs to, or None for a COCO annotations file.

    Raises:
        ScoreError: The path is a folder, or the file holds results.
    """
    if path.is_dir():
        raise ScoreError(f"'{path}' is a folder. Name its format: flickr8k:{path} or coco:{path}")
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if _RESULTS.search(head):
        raise ScoreError(f"{path} holds results, not references. Pass the references last.")
    for pattern, name in _DATASETS:
        if pattern.search(head):
            return name.format(path=path)
    ending = _ENDINGS.get(path.suffix.lower())
    return None if ending is None else ending.format(path=path)


def load_candidates(path: Path, references: References) -> dict[ImageId, str]:
    """Load one caption for each image from a results file.

    Images are matched by id or by file name, by whichever finds more of them. The caption of an
    image without references keeps its own id or file name as key.

    Raises:
        ScoreError: The results cannot be used, match none of the references, or have ids and file
            names that contradict each other.
    """
    if str(path).partition(":")[0] in FORMS and not path.exists():
        raise ScoreError(f"'{path}' is a data set, not results. Pass the references last.")
    rows = [row for row in read_result_rows(path) if row.captions]
    by_id = _match_ids(rows, references)
    by_file, ambiguous = _match_files(rows, references)
    found_by_id, found_by_file = (len(rows) - of.count(None) for of in (by_id, by_file))
    use_files = found_by_file > found_by_id
    if ambiguous and (use_files or not found_by_id):
        raise ScoreError(ambiguous)
    if not found_by_id and not found_by_file:
        raise ScoreError(_describe_no_match(path, rows, references))
    if not use_files:
        _refuse_contradictions(path, rows, by_id, by_file, references)
    matches = by_file if use_files else by_id
    own = [row.file_name if use_files or row.image_id is None else row.image_id for row in rows]
    keys = [key if match is None else match for key, match in zip(own, matches, strict=True)]
    refuse_repeats(keys, str(path), show=references.show)
    _report_match(path, rows, matches, use_files=use_files)
    return {key: row.captions[0] for key, row in zip(keys, rows, strict=True) if key is not None}


def require_same_images(
    path: Path, candidates: Mapping[ImageId, str], references: References
) -> None:
    """Check that candidates and references have the same images.

    Raises:
        ScoreError: They do not.
    """
    missing = [image for image in references.captions if image not in candidates]
    extra = [image for image in candidates if image not in references.captions]
    if not missing and not extra:
        return
    differences = [
        f"{format_count(len(images), 'image')} without {lack}, such as {references.show(images[0])}"
        for images, lack in ((missing, "a caption"), (extra, "references"))
        if images
    ]
    common = len(candidates) - len(extra)
    raise ScoreError(
        f"'{path}' has captions for {format_count(len(candidates), 'image')}, and "
        f"'{references.name}' has references for {len(references.captions):,}: "
        f"{'; '.join(differences)}. Use --subset to score the {format_count(common, 'image')} "
        "that have both."
    )


def _match_ids(rows: Sequence[ResultRow], references: References) -> list[ImageId | None]:
    """Return the image of the references with the id of each row, or None.

    A number and its text are the same id, with or without leading zeros.
    """
    known: dict[ImageId, ImageId] = {_normalize_id(image): image for image in references.captions}
    known |= {image: image for image in references.captions}  # the same text comes first
    ids = [row.image_id for row in rows]
    return [None if i is None else known.get(i, known.get(_normalize_id(i))) for i in ids]


def _match_files(
    rows: Sequence[ResultRow], references: References
) -> tuple[list[ImageId | None], str]:
    """Return the image of the references with the file name of each row, or None.

    If no name occurs in the references, names are compared without their endings. Of several
    images with one name, the path with most folders in common is chosen.

    Returns:
        The images, and an error message if several images fit a row equally well.
    """
    files = references.files or _parse_paths((str(image), image) for image in references.captions)
    matches: list[ImageId | None] = []
    ambiguous = ""
    for suffixed in (True, False):
        owners: defaultdict[tuple[str, ...], list[ImageId]] = defaultdict(list)
        for image, path in files.items():
            for end in _list_ends(path, suffixed=suffixed):
                owners[end].append(image)
        matches = []
        for row in rows:
            path = _parse_path(row.file_name or "")
            ends = _list_ends(path, suffixed=suffixed)
            best = next((owners[end] for end in ends if end in owners), [])
            matches.append(best[0] if len(best) == 1 else None)
            if len(best) > 1 and not ambiguous:
                ambiguous = (
                    f"{path} may be {files[best[0]]} or {files[best[1]]} of {references.name}. "
                    "Caption the images with their folders in the path."
                )
        if ambiguous or any(match is not None for match in matches):
            break
    return matches, ambiguous


def _list_ends(path: PurePosixPath, *, suffixed: bool) -> Iterator[tuple[str, ...]]:
    """Yield all ends of a path, the longest first, with or without the file extension."""
    parts = (*path.parts[:-1], path.name if suffixed else path.stem)
    return (parts[start:] for start in range(len(path.parts)))


def _refuse_contradictions(
    path: Path,
    rows: Sequence[ResultRow],
    by_id: Sequence[ImageId | None],
    by_file: Sequence[ImageId | None],
    references: References,
) -> None:
    for row, a, b in zip(rows, by_id, by_file, strict=True):
        if a is not None and b is not None and a != b:
            raise ScoreError(
                f"the ids and file names of '{path}' disagree: image_id {a!r} is "
                f"{references.show(a)} in {references.name}, but has the file name "
                f"{row.file_name}. Remove the wrong ones from the results."
            )


def _report_match(
    path: Path, rows: Sequence[ResultRow], matches: Sequence[ImageId | None], *, use_files: bool
) -> None:
    console = stderr_console()
    row, match = next((r, m) for r, m in zip(rows, matches, strict=True) if m is not None)
    if use_files:
        console.print(f"{path}: matched by file name, such as {row.file_name}")
    elif row.image_id != match:
        console.print(f"{path}: matched by id, such as {row.image_id!r} to {match!r}")
    if several := sum(len(row.captions) > 1 for row in rows):
        count = format_count(several, "image")
        console.print(f"{path}: {count} with several captions; only the first caption is scored")


def _describe_no_match(path: Path, rows: Sequence[ResultRow], references: References) -> str:
    row, name = rows[0], references.name
    if row.image_id is None and not references.files:
        return (
            f"'{path}' identifies images by file name, such as {row.file_name}, but '{name}' has "
            "no file names. Give the data set (coco:DIR), or results with image_id."
        )
    found = row.file_name if row.image_id is None else repr(row.image_id)
    image = references.show(next(iter(references.captions)))
    return (
        f"'{name}' contains none of the images of '{path}': the references have images such as "
        f"{image}, and the results images such as {found}. Check the files and the split."
    )


def _normalize_id(image: ImageId) -> str:
    text = str(image)
    return text.lstrip("0") or "0" if text.isdecimal() else text


def _parse_paths(files: Iterable[tuple[str, ImageId]]) -> dict[ImageId, PurePosixPath]:
    return {image: _parse_path(file) for file, image in files}


def _parse_path(file: str) -> PurePosixPath:
    """Return a path in the form in which paths of all systems are compared."""
    return PurePosixPath(unicodedata.normalize("NFC", file.replace("\\", "/")))
