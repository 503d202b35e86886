"""Actors that caption: each is a process with the model and with workers that decode images."""

import json
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from captioning import errors
from captioning.bulk.cluster.entries import Entry
from captioning.bulk.cluster.rows import RowFormat, is_duplicate, kept_name, make_record
from captioning.bulk.cluster.selection import Claim, InputImage, mark_duplicates, skip_captioned
from captioning.bulk.cluster.storage import OutputFolder
from captioning.bulk.cluster.tables import image_of_value, read_kept_types, read_table_rows
from captioning.bulk.resume import fingerprint
from captioning.bulk.rows import RelativeNames, keep_best, row_of_result
from captioning.decoding import SearchMethod
from captioning.errors import CaptioningError, ConfigError, DataError
from captioning.images.decode import is_too_small
from captioning.images.image_ref import ImageRef
from captioning.images.loader import ImageLoader
from captioning.inference.backend_config import BackendConfig
from captioning.inference.captioner import Captioner
from captioning.inference.results import CaptionResult
from captioning.sources.find import SourceConfig, find_images
from captioning.sources.given_names import is_url
from captioning.sources.urls import fetch_url

_LISTED_FAILURES = 20


@dataclass(frozen=True)
class ModelSpec:
    """The model of the actors, and how they read images."""

    model: str | None
    """Model directory or id on the hub; None for the packaged model."""
    fingerprint: str
    """Hash of the weights; each actor checks it."""
    search: SearchMethod
    backend: BackendConfig
    name: str = ""
    """Name of the model for the output."""
    device: str = "cpu"
    seed: int = 0
    threads: int = 1
    """Threads of the model on a CPU."""
    batch_size: int = 64
    workers: int = 2
    allow_truncated: bool = False
    time_limit: float = 60.0
    min_side: int = 0


class LoadedModel:
    """A model and open readers of images, which serve many calls.

    Raises:
        ConfigError: The model differs from that of the run.
        CheckpointError: It cannot be loaded on this machine.
    """

    def __init__(self, spec: ModelSpec) -> None:
        import torch

        torch.set_num_threads(spec.threads)
        self.spec = spec
        self.captioner = Captioner.from_pretrained(
            spec.model, device=spec.device, seed=spec.seed, **asdict(spec.backend)
        )
        found = fingerprint([self.captioner.checkpoint], self.captioner.backend)
        if found != spec.fingerprint:
            raise ConfigError(
                f"the model {spec.model or 'of the package'} on {socket.gethostname()} differs "
                "from that of the run. Install the same version and model on all machines."
            )
        loader = ImageLoader(
            self.captioner.checkpoint.model.encoder.preprocessing,
            spec.batch_size,
            spec.workers,
            spec.allow_truncated,
            spec.time_limit,
            min_side=spec.min_side,
        )
        self._loader = replace(loader, pool=loader.open_pool()) if spec.workers else loader

    def caption(self, images: Iterable[InputImage]) -> Iterator[tuple[InputImage, CaptionResult]]:
        """Yield the images with their results, in order."""
        pending: deque[InputImage] = deque()

        def queue_images() -> Iterator[ImageRef]:
            for each in images:
                pending.append(replace(each, image=ImageRef(each.image.name)))  # without content
                yield each.image

        batches = self.captioner.caption_batches(
            queue_images(), self._loader, search=self.spec.search
        )
        for batch in batches:
            for result in batch:
                yield pending.popleft(), result


@dataclass(frozen=True)
class RunSpec:
    """Everything that an actor needs to caption a partition."""

    model: ModelSpec
    folder: OutputFolder
    rows: RowFormat
    sources: SourceConfig
    """How archives are read."""
    image_column: str | None = None
    prefix: str = ""
    suffix: str = ""
    best: bool = False


@dataclass
class PartitionCounts:
    """Counts of the images of a partition."""

    captioned: int = 0
    failed: int = 0
    skipped: int = 0
    """Images that are left out, because they are too small or duplicates."""
    reasons: list[str] = field(default_factory=list)
    """Reasons of the first failures."""

    def add(self, error: str) -> None:
        """Count an image, given the reason why it has no caption."""
        if is_duplicate(error) or is_too_small(error):
            self.skipped += 1
        elif error:
            self.failed += 1
            if len(self.reasons) < _LISTED_FAILURES:
                self.reasons.append(error)
        else:
            self.captioned += 1


class PartitionActor:
    """Captions partitions and writes their rows. Ray creates it in a process of its own.

    Args:
        spec: The run.
        earlier: Returns the array of :func:`hash_captioned_names`; None to skip no names.
        claim: :meth:`DigestRegistry.claim`; None to caption duplicates too.
    """

    def __init__(
        self,
        spec: RunSpec,
        earlier: Callable[[], "np.ndarray[Any, Any]"] | None = None,
        claim: Claim | None = None,
    ) -> None:
        self._spec, self._earlier, self._claim = spec, earlier, claim
        local = spec.folder.is_local
        self._names = RelativeNames(Path(spec.folder.url) / "rows" if local else None)

    @cached_property
    def _model(self) -> LoadedModel:
        # Not in __init__: Ray passes on errors of calls, but only texts of those in __init__.
        return LoadedModel(self._spec.model)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Caption the partitions of a batch; return the counts of each for :func:`parse_counts`."""
        numbers = map(int, batch["partition"])
        return {"counts": [json.dumps(self._try_partition(number)) for number in numbers]}

    def _try_partition(self, partition: int) -> dict[str, Any]:
        try:
            return self._caption_partition(partition)
        except CaptioningError as error:
            return {"error_type": type(error).__name__, "error": str(error)}

    def _caption_partition(self, partition: int) -> dict[str, Any]:
        spec = self._spec
        entries = [Entry.from_json(line) for line in spec.folder.read_inputs(partition)]
        model = self._model
        started = time.monotonic()  # the rate of a run does not include the start of its actors
        counts, records = PartitionCounts(), []
        for each, result in model.caption(self._select(entries, partition)):
            counts.add(result.error)
            records.append(self._make_record(each, result))
        content = spec.rows.encode(records, self._kept_types)
        spec.folder.write_part(partition, content, asdict(counts))
        return {
            "partition": partition,
            "seconds": time.monotonic() - started,
            "actor": f"{socket.gethostname()}:{os.getpid()}",
            **asdict(counts),
        }

    def _select(self, entries: Iterable[Entry], partition: int) -> Iterator[InputImage]:
        """Yield the images that get a row."""
        images: Iterator[InputImage] = (
            each for entry in entries for each in read_entry(entry, self._spec)
        )
        if self._earlier is not None:
            images = skip_captioned(images, self._earlier())
        if self._claim is not None:
            name_of, readers = self._names.name_of, self._spec.model.workers
            images = mark_duplicates(images, self._claim, partition, name_of, readers)
        return images

    def _make_record(self, each: InputImage, result: CaptionResult) -> dict[str, Any]:
        spec = self._spec
        row = row_of_result(result, self._names, prefix=spec.prefix, suffix=spec.suffix)
        row = keep_best(row) if spec.best else row
        return make_record(row, each.kept, lists=spec.rows.lists, digest=each.digest)

    @cached_property
    def _kept_types(self) -> dict[str, Any]:
        """Arrow types of the kept columns, by their names in the output."""
        types = read_kept_types(self._spec.folder.plan.kept_types)
        return {kept_name(name): kind for name, kind in types.items()}


def parse_counts(result: str) -> dict[str, Any]:
    """Return the counts of a partition from the result of :class:`PartitionActor`.

    Raises:
        CaptioningError: The actor met it. Results hold errors because Ray does not always pass on
            an error itself.
    """
    counts: dict[str, Any] = json.loads(result)
    if "error" in counts:
        raise getattr(errors, counts["error_type"], CaptioningError)(counts["error"])
    return counts


def read_entry(entry: Entry, spec: RunSpec) -> Iterator[InputImage]:
    """Yield the images of an entry. One that cannot be read has an error."""
    time_limit = spec.sources.time_limit
    if entry.kind == "table":
        yield from _read_table(entry, spec)
    elif entry.kind == "archive":
        options = replace(spec.sources, open_archives=True, patterns=False)
        for image in islice(find_images([entry.name], options), entry.count):
            yield InputImage(image, {})
    else:
        fetch = partial(fetch_url, entry.name, time_limit) if is_url(entry.name) else None
        yield InputImage(ImageRef(entry.name, None if entry.error else fetch, entry.error), {})


def _read_table(entry: Entry, spec: RunSpec) -> Iterator[InputImage]:
    """Yield rows of a table; if it cannot be read, the remaining rows have the reason."""
    rows, folder = entry.rows, spec.folder.plan.working_folder
    names = (f"{entry.name}/{rows.number + number}" for number in range(rows.count))
    reason = f"'{entry.name}' has fewer rows than at the start of the run. Caption it again."
    try:
        for value, kept in read_table_rows(
            entry.name, rows, image_column=spec.image_column, keep=spec.rows.kept
        ):
            image = image_of_value(value, next(names), folder, spec.sources.time_limit)
            yield InputImage(image, kept)
    except DataError as error:
        reason = str(error)
    for name in names:
        yield InputImage(ImageRef(name, error=reason), {})
