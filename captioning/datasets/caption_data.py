"""A data set by its name, and the forms of data that are read."""

import gc
import glob
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from captioning.datasets.arrow import load_parquet
from captioning.datasets.coco import find_annotations, list_coco_splits, load_coco
from captioning.datasets.flickr8k import load_flickr8k
from captioning.datasets.flickr30k import load_flickr30k
from captioning.datasets.hold_out import HoldOutConfig
from captioning.datasets.karpathy import load_karpathy
from captioning.datasets.recognition import recognize
from captioning.datasets.source import CaptionSource, select_split
from captioning.datasets.spec import PLACEHOLDER, TRAIN_SPLIT, DatasetSpec, normalize_split
from captioning.datasets.split import CaptionSplit
from captioning.datasets.table import load_csv, load_json_list, load_jsonl, load_tsv
from captioning.datasets.tar_archives import load_tar
from captioning.errors import DataError
from captioning.file_patterns import expand_braces
from captioning.messages import suggest

_ORDER = ("train", "restval", "val", "test")


@dataclass(frozen=True)
class Form:
    """A form of captioned data.

    Attributes:
        load: Loads all splits of a file.
        find_file: Returns the file of a split, if a folder has one for each.
        list_splits: Returns the splits of such a folder; None if one file has all splits.
    """

    load: Callable[[DatasetSpec], CaptionSource]
    find_file: Callable[[DatasetSpec], Path] = lambda spec: spec.path
    list_splits: Callable[[Path], list[str] | None] = lambda path: None


FORMS: dict[str, Form] = {
    "flickr8k": Form(load_flickr8k),
    "flickr30k": Form(load_flickr30k),
    "coco": Form(load_coco, find_annotations, list_coco_splits),
    "karpathy": Form(load_karpathy),
    "json": Form(load_json_list),
    "jsonl": Form(load_jsonl),
    "csv": Form(load_csv),
    "tsv": Form(load_tsv),
    "parquet": Form(load_parquet),
    "tar": Form(load_tar),
    "webdataset": Form(load_tar),
}
"""Form of each name."""

_JSON_FORMS = ("coco", "karpathy", "json")


class CaptionData:
    """A captioned data set. Each of its files is read once, when a split first needs it.

    Args:
        data: ``FORMAT:PATH`` or ``FORMAT:PATH@IMAGES``, see :mod:`captioning.datasets`; or
            captioned images in memory, see :class:`captioning.datasets.memory.InMemoryData`.
        hold_out: Images to hold out if the data set has no split ``val``.
        require_images: Leave out images whose files do not exist.

    Raises:
        DataError: The name has no known format.
    """

    def __init__(
        self,
        data: Any,
        hold_out: HoldOutConfig | None = None,
        *,
        require_images: bool = True,
    ) -> None:
        self.name = name = name_data(data)
        form, _, self._location = name.partition(":")
        if type(name) is not str:
            source: CaptionSource = name.source  # type: ignore[attr-defined]
            self._form = Form(lambda spec: source)
        elif self._location and form in FORMS:
            self._form = FORMS[form]
        else:
            raise _unknown_form(name)
        self.hold_out = hold_out
        self.require_images = require_images
        self._sources: dict[tuple[Path, Path | None], CaptionSource] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits: train, restval, val, test, then others.

        Empty for a data set without splits, which is used as a whole.

        Raises:
            DataError: A file is missing or malformed.
        """
        files = self._file_splits()
        names = self._load(self._parse("train")).splits if files is None else files
        found = dict.fromkeys(map(normalize_split, names))
        return tuple(sorted(found, key=lambda name: (*_ORDER, name).index(name)))

    def read(self, split: str) -> CaptionSplit:
        """Read a split. Arguments and errors are those of :func:`captioning.read_captions`."""
        hold_out = self.hold_out if self.hold_out and self.hold_out.val_fraction else None
        file_split = split
        if hold_out and (files := self._file_splits()) is not None:
            own = normalize_split(split)
            if "val" in map(normalize_split, files) or own not in ("val", "train", TRAIN_SPLIT):
                hold_out = None
            elif own == "val":
                file_split = "train"
        spec = self._parse(file_split)
        with _pause_collection():
            return select_split(self._load(spec), replace(spec, split=split), hold_out)

    def _parse(self, split: str) -> DatasetSpec:
        return DatasetSpec.parse(self.name, self._location, split, self.require_images)

    def _file_splits(self) -> list[str] | None:
        """Return the names of the splits that have a file each; None if one file has all."""
        if PLACEHOLDER in self._location:
            captions = self._location.rpartition("@")[0]
            return _match_placeholder(self._location) or _match_placeholder(captions)
        return self._form.list_splits(self._parse("train").path)

    def _load(self, spec: DatasetSpec) -> CaptionSource:
        spec = replace(spec, path=self._form.find_file(spec))
        key = spec.path, spec.image_folder
        if key not in self._sources:
            try:
                self._sources[key] = self._form.load(spec)
            except DataError as error:
                raise self._explain(error, spec.path) from error
        return self._sources[key]

    def _explain(self, error: DataError, path: Path) -> DataError:
        """Return an error that names the form of the data, if it is not the given one."""
        likeness = recognize(path)
        form = self.name.partition(":")[0]
        # Another format of whole JSON files would fail in the same way; JSON lines would not.
        if likeness and likeness.form in _JSON_FORMS and "not valid JSON" in str(error):
            return error
        # A folder may hold a file of the right form, which is then named.
        if likeness is None or (
            FORMS.get(likeness.form) == self._form
            and likeness.spelling == f"{likeness.form}:{path}"
        ):
            return error
        return DataError(
            f"'{path}' cannot be read as {form}: it looks like {likeness.what}. {likeness.advice}"
        )


def name_data(data: Any) -> str:
    """Return the name of a data set; of images in memory, a name that holds them.

    Raises:
        DataError: ``data`` is neither a name nor captioned images.
    """
    if isinstance(data, str):
        return data
    from captioning.datasets.memory import InMemoryData  # imports Pillow and NumPy

    return InMemoryData(data)


@contextmanager
def _pause_collection() -> Iterator[None]:
    """Pause the garbage collector, which visits millions of new objects again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _match_placeholder(location: str) -> list[str]:
    """Return the names for which a path or pattern with ``{split}`` names existing files."""
    path = str(Path(location).expanduser())
    names: dict[str, None] = {}
    for pattern in expand_braces(path):
        parts = pattern.split(PLACEHOLDER)
        first, *rest = (re.escape(part).replace(r"\*", r"[^/\\]*") for part in parts)
        name = re.compile(first + r"([^/\\]+?)" + r"\1".join(rest))
        escaped = "*".join(map(glob.escape, parts))  # a folder may have brackets in its name
        found = glob.glob(escaped) or glob.glob("*".join(parts))  # noqa: PTH207
        names |= {match[1]: None for match in map(name.fullmatch, sorted(found)) if match}
    return list(names)


def _unknown_form(name: str) -> DataError:
    form = name.partition(":")[0]
    # A format without a path may be meant as the name of a folder.
    hint = f" Did you mean {f'{form}:{form}'!r}?" if form in FORMS else suggest(form, FORMS)
    path = Path(name.partition("@")[0]).expanduser()
    if name and form not in FORMS and path.exists():
        likeness = recognize(path)
        hint = f" It looks like {likeness.what}. {likeness.advice}" if likeness else ""
    forms = ", ".join(form for form in FORMS if form != "webdataset")  # the same as tar
    return DataError(
        f"{name!r} does not name a data set: expected FORMAT:PATH, where FORMAT is one of "
        f"{forms}.{hint or ' Example: coco:data/tiny'}"
    )
