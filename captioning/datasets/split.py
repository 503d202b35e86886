"""What every reader gives back, and the checks that all of them share."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from captioning.errors import DataError

MISSING = "images missing on disk"
NO_CAPTIONS = "images without captions"
EMPTY = "empty captions"
UNKNOWN = "captions of unknown images"
REPEATED_IMAGES = "images listed twice"
REPEATED_CAPTIONS = "captions numbered twice"

_ROWS_SHOWN, _TEXT_SHOWN = 5, 200  # images, and characters of a caption, in a notebook

_ALIASES = {"dev": "val", "valid": "val", "validation": "val", "training": "train"}


@dataclass(frozen=True)
class CaptionedImage:
    """One image and what people said about it.

    Attributes:
        path: The image's file.
        captions: Its captions as they were written, without white space around them.
        image_id: COCO's or Karpathy's own number; elsewhere the image's place among the sorted
            file names of the whole data set, so that it is the same whichever split is read.
    """

    path: Path
    captions: tuple[str, ...]
    image_id: int


@dataclass(frozen=True, repr=False)
class Problems:
    """What was left out of a split or looks wrong in it, by kind.

    Attributes:
        found: For each kind the names concerned, in the order in which they were met.
    """

    found: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.found.values()))

    def __repr__(self) -> str:
        counts = ", ".join(f"{kind}: {len(names):,}" for kind, names in self.found.items())
        return f"Problems({counts})"

    def report(self, *, shown: int = 5) -> str:
        """Return one line per kind: how many, and the first ``shown`` of them by name.

        The text is empty when nothing was found.
        """
        lines = []
        for kind, names in self.found.items():
            rest = f" and {len(names) - shown} more" if len(names) > shown else ""
            lines.append(f"{kind} ({len(names):,}): {', '.join(names[:shown])}{rest}")
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class CaptionSplit:
    """The usable images of one split.

    Attributes:
        images: Images that exist, each with one caption or more, in the order of the source.
        problems: What was left out, by name.
        source: What was read, as the user wrote it.
        split: The split's name.
    """

    images: tuple[CaptionedImage, ...]
    problems: Problems
    source: str
    split: str

    def __repr__(self) -> str:
        captions = sum(len(image.captions) for image in self.images)
        return (
            f"CaptionSplit({self.source!r:.100}, {self.split!r:.20}: "
            f"{len(self.images):,} images, {captions:,} captions, {len(self.problems):,} problems)"
        )

    def _repr_html_(self) -> str:
        """Return the counts and the first images as an HTML table for notebooks."""
        rows = "".join(
            f"<tr><td>{escape(image.path.name)}</td>"
            f"<td>{escape(image.captions[0][:_TEXT_SHOWN])}</td></tr>"
            for image in self.images[:_ROWS_SHOWN]
        )
        head = "<tr><th>image</th><th>first caption</th></tr>"
        return f"<table><caption>{escape(repr(self))}</caption>{head}{rows}</table>"


@dataclass(frozen=True)
class Source:
    """What a reader is asked for.

    Attributes:
        spec: The whole string that the user wrote, for messages.
        path: The file or folder it names.
        images: The folder of images it names, if any.
        split: The split's canonical name.
    """

    spec: str
    path: Path
    images: Path | None
    split: str

    @classmethod
    def parse(cls, spec: str, text: str, split: str) -> "Source":
        """Take ``PATH[@IMAGES]`` apart, with ``{split}`` filled in.

        A name with an ``@`` of its own that exists as it stands is taken as it stands.
        """
        text = text.replace("{split}", split)
        path, at, images = text.rpartition("@")
        if not at or Path(text).exists():
            return cls(spec, Path(text).expanduser(), None, split)
        folder = Path(images).expanduser()
        if not folder.is_dir():
            raise DataError(
                f"{images} is no folder, but {spec!r} names it as the folder of the images."
            )
        return cls(spec, Path(path).expanduser(), folder, split)

    def image_folder(self, *candidates: Path) -> Path:
        """Return the folder of images that the user named, or the first candidate that exists."""
        if self.images is not None:
            return self.images
        for folder in candidates:
            if folder.is_dir():
                return folder
        raise DataError(
            f"There is no folder of images for {self.spec!r}: looked for "
            f"{', '.join(map(str, candidates))}. Name it with @: {self.spec}@FOLDER"
        )


class Assembler:
    """Collects the images of one split, and names those that cannot be used.

    Whether a file exists is looked up in a listing of its folder, read once: a question per file
    takes minutes for 100,000 images on a network disk.

    Args:
        source: What the user asked for.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._images: dict[int, CaptionedImage] = {}
        self._problems: defaultdict[str, list[str]] = defaultdict(list)
        self._listings: dict[Path, frozenset[str]] = {}

    def note(self, kind: str, name: str) -> None:
        """Name a problem."""
        self._problems[kind].append(name)

    def exists(self, path: Path) -> bool:
        """Return whether ``path`` is a file, by the listing of its folder."""
        folder = path.parent
        if folder not in self._listings:
            self._listings[folder] = _files(folder)
        return path.name in self._listings[folder]

    def add(self, path: Path, captions: Iterable[str], image_id: int) -> None:
        """Take one image, unless it is missing, has no caption or came before."""
        if image_id in self._images:
            self.note(REPEATED_IMAGES, path.name)
            return
        if not self.exists(path):
            self.note(MISSING, str(path))
            return
        stripped = [caption.strip() for caption in captions]
        kept = tuple(filter(None, stripped))
        for number, caption in enumerate(stripped):
            if not caption:
                self.note(EMPTY, f"{path.name}#{number}")
        if not kept:
            self.note(NO_CAPTIONS, path.name)
            return
        self._images[image_id] = CaptionedImage(path, kept, image_id)

    def finish(self) -> CaptionSplit:
        """Return the split.

        Raises:
            DataError: No image is left.
        """
        problems = Problems({kind: tuple(names) for kind, names in self._problems.items()})
        split, spec = self.source.split, self.source.spec
        if not self._images:
            why = problems.report() or "it lists no image at all"
            raise DataError(
                f"The {split} split of {spec!r} has no usable image:\n{why}\n"
                "Check the split's name and the folder of the images (FORMAT:PATH@FOLDER)."
            )
        return CaptionSplit(tuple(self._images.values()), problems, spec, split)


def canonical_split(split: str) -> str:
    """Return ``val`` for ``dev`` and the like, and any other name as it is."""
    return _ALIASES.get(split, split)


def numbered(names: Iterable[str]) -> dict[str, int]:
    """Return each name's place among all of them in sorted order."""
    return {name: place for place, name in enumerate(sorted(set(names)))}


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, with or without a byte order mark.

    Raises:
        DataError: It is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: not UTF-8 text ({error.reason}). Convert it, for example with "
            "iconv -f latin1 -t utf-8."
        ) from error


def read_json_object(path: Path, *, needed: Sequence[str], format_name: str) -> dict[str, Any]:
    """Return a JSON object that has a list under each needed key.

    Raises:
        DataError: The file is no JSON, or not of this form.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is no JSON: {error}. Was it downloaded or unpacked only in part?"
        ) from error
    wanted = " and ".join(f'"{key}"' for key in needed)
    if not isinstance(content, dict):
        raise DataError(
            f"{path} is no {format_name}: an object with {wanted} was expected, "
            f"a {type(content).__name__} was found."
        )
    if not all(isinstance(content.get(key), list) for key in needed):
        raise DataError(
            f"{path} is no {format_name}: lists {wanted} were expected, the keys found are "
            f"{sorted(content)[:8]}."
        )
    return content


def check_entry(entry: Any, fields: Mapping[str, type], where: str) -> None:
    """Refuse an entry of a JSON list that lacks a field or has one of another type.

    Raises:
        DataError: Says where, what was found and what was expected.
    """
    if not isinstance(entry, dict):
        raise DataError(f"{where}: an object was expected, {entry!r:.80} was found.")
    for name, kind in fields.items():
        value = entry.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            found = f"{value!r:.80}" if name in entry else f"only {sorted(entry)[:8]}"
            raise DataError(
                f'{where}: "{name}" of type {kind.__name__} was expected, {found} was found.'
            )


def _files(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except (OSError, ValueError):  # the latter where a name holds a zero byte
        return frozenset()  # each image in it is then named as missing
