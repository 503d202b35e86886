"""Reader of tar archives in the layout of webdataset, without copying their images."""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from captioning.datasets.rows import CAPTION_FIELDS, SPLIT_FIELD, RowCollector
from captioning.datasets.source import UNKNOWN_CAPTIONS, CaptionSource
from captioning.datasets.spec import DatasetSpec
from captioning.errors import DataError
from captioning.file_patterns import require_matches
from captioning.images.image_ref import IMAGE_EXTENSIONS, FileRange
from captioning.images.tar_member import CheckedMember
from captioning.messages import explain_error

_TEXTS = {"txt", "text", "caption", "cap"}
_SHOWN = 80  # characters of damaged JSON in an error


@dataclass
class _Sample:
    """The members of an archive with the same key."""

    images: list[tuple[str, FileRange]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    fields: dict[str, object] = field(default_factory=dict)

    @property
    def captions(self) -> object:
        """The captions of the JSON member, or those of the text member if it has more."""
        found = next((self.fields[name] for name in CAPTION_FIELDS if name in self.fields), None)
        count = len(found) if isinstance(found, list) else found is not None
        return found if count >= len(self.texts) else self.texts


def load_tar(spec: DatasetSpec) -> CaptionSource:
    """Load one or several tar archives: images, with captions in members of the same key.

    The key of a member is its name up to the first dot of its last part. ``KEY.txt`` has one
    caption per line; ``KEY.json`` has one or several, named as in :mod:`captioning.datasets.rows`.
    The ids of images are their ``image_id`` in the JSON members if these are different integers.
    Only the headers and captions are read; an image is read later, at its place in the archive.

    Raises:
        DataError: There is no archive, or one is compressed or damaged.
    """
    paths = require_matches(spec.path, ".tar")
    collector = RowCollector(spec.path)
    unknown: list[str] = []
    ids: list[object] = []
    for path in paths:
        for key, sample in _read_samples(path).items():
            split = sample.fields.get(SPLIT_FIELD)
            ids += [sample.fields.get("image_id")] * len(sample.images)
            for name, content in sample.images:
                where = f"'{key}'"
                collector.add(where, f"{path}/{name}", sample.captions, split, content=content)
            if not sample.images:
                unknown.append(f"{path.name}/{key}")
    entries = collector.entries
    distinct = {number for number in ids if isinstance(number, int)}
    if len(distinct) == len(ids) == len(entries):
        for entry, number in zip(entries, ids, strict=True):
            entry.image_id = cast(int, number)
    return CaptionSource(entries, problems={UNKNOWN_CAPTIONS: unknown})


def _read_samples(path: Path) -> dict[str, _Sample]:
    samples: dict[str, _Sample] = {}
    try:
        with tarfile.open(path, "r:", tarinfo=CheckedMember) as archive:
            for member in _iterate_members(archive):
                folder, slash, base = member.name.rpartition("/")
                stem, _, extension = base.partition(".")
                kind = extension.rpartition(".")[2].lower()
                if not member.isfile() or not stem:
                    continue
                sample = samples.setdefault(f"{folder}{slash}{stem}", _Sample())
                if f".{kind}" in IMAGE_EXTENSIONS:
                    place = FileRange(str(path), member.offset_data, member.size)
                    sample.images.append((member.name, place))
                elif kind in _TEXTS:
                    sample.texts += _read_member(archive, member).decode("utf-8-sig").splitlines()
                elif kind == "json":
                    fields = json.loads(_read_member(archive, member))
                    sample.fields |= fields if isinstance(fields, dict) else {"captions": fields}
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"cannot read '{path}': {explain_error(error)}. Copy it again.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: the captions of {member.name!r} are not UTF-8 text or JSON "
            f"({str(error)[:_SHOWN]}). Write the archive again."
        ) from error
    return samples


def _iterate_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # the module would keep every member
        yield member


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    return cast(tarfile.ExFileObject, archive.extractfile(member)).read()
