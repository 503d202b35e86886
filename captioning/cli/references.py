"""Load references and results, and match results to the images of the references."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from captioning.cli.progress import stderr_console
from captioning.datasets import READERS, read_captions, read_results
from captioning.datasets.coco_results import FileResult, read_annotations, read_file_results
from captioning.errors import ScoreError
from captioning.messages import format_count


@dataclass(frozen=True)
class References:
    """References of images that are identified by id or by file name.

    Attributes:
        name: Name for messages.
        captions: References of each image id.
        files: For each file name, the ids and paths of the images with this name.
    """

    name: str
    captions: Mapping[int, Sequence[str]]
    files: Mapping[str, Mapping[int, PurePosixPath]]

    def find_image(self, file: str) -> int | None:
        """Return the id of the image with the given file name, or None.

        If several images have this name, the path with most folders in common is chosen.

        Raises:
            ScoreError: Several images fit equally well.
        """
        path = PurePosixPath(file)
        owners = self.files.get(path.name, {})
        if len(owners) < 2:
            return next(iter(owners), None)
        shared = {key: _count_shared_parts(path, other) for key, other in owners.items()}
        best = [key for key in owners if shared[key] == max(shared.values())]
        if len(best) > 1:
            problem = f"{file} may be {owners[best[0]]} or {owners[best[1]]} of {self.name}"
            raise ScoreError(f"{problem}. Caption the images with their folders in the path.")
        return best[0]


def load_references(name: str, split: str) -> References:
    """Load the references of each image.

    Args:
        name: COCO annotations file, or a data set such as ``flickr8k:DIR``. The ids of a data set
            are those in the results of ``captioning evaluate``.
        split: Split of the data set.

    Raises:
        ScoreError: The file cannot be used.
        DataError: The data set cannot be used.
    """
    if name.partition(":")[0] in READERS and not Path(name).exists():
        images = read_captions(name, split=split).images
        captions = {image.image_id: image.captions for image in images}
        files = [(image.path.as_posix(), image.image_id) for image in images]
        return References(f"{name}, {split}", captions, _group_by_name(files))
    annotations = read_annotations(name)
    return References(name, annotations.captions, _group_by_name(annotations.files))


def load_candidates(path: Path, references: References) -> dict[int, str]:
    """Load one caption for each image id from a results file.

    The ids in the file are used if all of them occur in the references. Otherwise, results that
    name files, such as those of ``captioning caption``, are matched by file name. Captions of
    other files are then ignored, with a message.

    Raises:
        ScoreError: The results cannot be used, or match none of the references.
    """
    results = read_file_results(path)
    if results is None or _are_ids_valid(results, references):
        return read_results(path)
    captions = {result.file: result.caption for result in results if result.caption is not None}
    if not captions:
        raise ScoreError(f"{path} has no captions for {format_count(len(results), 'image')}.")
    candidates: dict[int, str] = {}
    first = None
    for file, caption in captions.items():
        image = references.find_image(file)
        if image is None:
            continue
        if image in candidates:
            problem = f"{path} has more than one caption for an image of {references.name}"
            raise ScoreError(f"{problem}, such as {file}. Keep one caption per image.")
        candidates[image] = caption
        first = first or file
    if not candidates:
        raise ScoreError(_describe_no_match(path, list(captions), references))
    console = stderr_console()
    console.print(f"{path}: matched by file name, such as {first}")
    if ignored := len(captions) - len(candidates):
        files = f"{format_count(ignored, 'file')} of {path}"
        console.print(f"Ignored {files} that {references.name} does not contain.")
    return candidates


def require_complete(
    path: Path, candidates: Mapping[int, str], references: References, advice: str
) -> None:
    """Check that either all images of the references have a candidate, or none.

    Args:
        path: File of the candidates, for messages.
        candidates: Captions by image id.
        references: References of the same images.
        advice: What to do about missing captions, for messages.

    Raises:
        ScoreError: Only some of the images have a caption.
    """
    missing = [image for image in references.captions if image not in candidates]
    if not missing or len(missing) == len(references.captions):
        return
    names = {key: path for owners in references.files.values() for key, path in owners.items()}
    first = names[missing[0]].name if missing[0] in names else missing[0]
    raise ScoreError(
        f"{path} has no caption for {format_count(len(missing), 'image')} of the "
        f"{len(references.captions):,} of {references.name} (such as {first}). {advice}"
    )


def _are_ids_valid(results: Sequence[FileResult], references: References) -> bool:
    """Return whether the ids identify the images.

    That is the case if all ids are known. If only some are known, but one of these contradicts the
    file name, matching by file name would be wrong too.
    """
    ids = [result.image_id for result in results if result.image_id is not None]
    if not ids:
        return False
    if all(image in references.captions for image in ids):
        return True
    return any(
        result.image_id in references.captions
        and references.find_image(result.file) not in (None, result.image_id)
        for result in results
    )


def _describe_no_match(path: Path, files: Sequence[str], references: References) -> str:
    if not references.files:
        problem = f"{path} identifies images by file name, such as {files[0]}"
        advice = "Give the data set (coco:DIR), or results with image_id"
        return f"{problem}, but {references.name} has no file names. {advice}."
    count = f"{format_count(len(files), 'file')} of {path}"
    return f"{references.name} contains none of the {count}, such as {files[0]}. Check the split."


def _group_by_name(files: Iterable[tuple[str, int]]) -> dict[str, dict[int, PurePosixPath]]:
    groups: dict[str, dict[int, PurePosixPath]] = {}
    for file, image in files:
        path = PurePosixPath(file)
        groups.setdefault(path.name, {})[image] = path
    return groups


def _count_shared_parts(one: PurePosixPath, other: PurePosixPath) -> int:
    """Return the number of parts that are equal at the ends of two paths."""
    count = 0
    for a, b in zip(reversed(one.parts), reversed(other.parts), strict=False):
        if a != b:
            break
        count += 1
    return count
