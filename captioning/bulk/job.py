"""A run over images that can be stopped at any moment and gone on with."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from captioning.bulk.journal import Done, Journal, journal_of, stamp_of
from captioning.bulk.writers.base import Writer, refuse_foreign
from captioning.checkpoint.checkpoint import Checkpoint
from captioning.decoding import SearchMethod, search_to_json
from captioning.errors import ConfigError, OutputError
from captioning.files import is_special_file, resolve_link
from captioning.images.loader import ImageLoader
from captioning.images.worker_pool import ImageRef
from captioning.inference.captioner import Captioner
from captioning.inference.results import CaptionResult, Counts


def open_journal(
    output: Path | None,
    captioner: Captioner,
    search: SearchMethod,
    reader: ImageLoader,
    *,
    overwrite: bool,
    shard: tuple[int, int] | None = None,
) -> Journal | None:
    """Return the journal of an output; None where there can be none: of a pipe, or no file at all.

    Raises:
        ConfigError: The output exists and has no journal; or its journal was begun with other
            settings.
        OutputError: The journal cannot be opened.
    """
    if output is None or is_special_file(output) or str(output).startswith(("/dev/", "/proc/")):
        return None
    output = resolve_link(output)
    if output.is_dir() or not output.name:
        raise OutputError(f"{output} cannot be written: it is a folder. Give another -o.")
    refuse_foreign(output)
    if output.exists() and not overwrite and not journal_of(output).exists():
        raise ConfigError(
            f"{output} exists, and there is no journal of the run that wrote it, so it cannot "
            "be gone on with. Give --overwrite to replace it, or another -o."
        )
    settings: dict[str, Any] = {
        "model": fingerprint([captioner.checkpoint, *captioner.others]),
        "search": search_to_json(search),
        "seed": captioner.seed,
        "allow_truncated": reader.allow_truncated,
        "shard": None if shard is None else f"{shard[0]}/{shard[1]}",
    }
    if captioner.consensus is not None:
        settings["neighbours"] = captioner.consensus.fingerprint
    journal = Journal(journal_of(output), settings, anew=overwrite)
    written = journal.facts().get("output")
    if written is not None and output.exists() and written != stamp_of(str(output)):
        journal.close()
        raise ConfigError(
            f"{output} was changed by somebody since it was written. Save it under another name; "
            "or give --overwrite to replace it, or another -o."
        )
    return journal


def fingerprint(checkpoints: Iterable[Checkpoint]) -> str:
    """Return a name for models: equal only where words, phrases, pixels and every weight are."""
    digest = hashlib.sha256()
    for checkpoint in checkpoints:
        digest.update(repr(checkpoint.model.encoder.preprocessing).encode())
        digest.update("\n".join(checkpoint.vocabulary.words).encode("utf-8", "surrogatepass"))
        for name, weight in checkpoint.model.state_dict().items():
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
        if checkpoint.phrases is not None:
            digest.update(checkpoint.phrases.digest())
    return digest.hexdigest()[:16]


def caption_into(
    writer: Writer,
    captioner: Captioner,
    images: Iterable[ImageRef],
    *,
    reader: ImageLoader,
    search: SearchMethod,
    journal: Journal | None,
    counts: Counts,
    around: tuple[str, str] = ("", ""),
) -> Iterator[Sequence[CaptionResult]]:
    """Caption images and write the results, a batch at a time.

    Args:
        writer: Where they go, in the order of the images.
        captioner: The model.
        images: What is to be captioned.
        reader: What reads them.
        search: How to search.
        journal: What earlier runs have done, and where each batch is noted before it is written.
        counts: Kept up to date.
        around: What stands before and after each caption.

    Yields:
        Each batch, once it is in the journal and written.

    Raises:
        OutputError: The results cannot be written.
    """
    stamps: dict[str, str] = {}
    lacking = _looked_up(images, writer, journal, counts, stamps)
    for batch in captioner.batches(reader, lacking, search=search):
        for each in batch:
            writer.keep(each)
        if journal is not None:
            fresh = {each.source for each in batch} & stamps.keys()
            journal.add(Done(each, stamps[each.source]) for each in batch if each.source in fresh)
            for source in fresh:
                del stamps[source]
        written = [_written(writer, _within(each, around)) for each in batch]
        writer.flush()
        counts.failed += sum(not each.ok for each in written)
        counts.captioned += sum(each.ok for each in written)
        yield written


def _looked_up(
    images: Iterable[ImageRef],
    writer: Writer,
    journal: Journal | None,
    counts: Counts,
    stamps: dict[str, str],
) -> Iterator[ImageRef]:
    for image in images:
        if not writer.wants(image.name):
            counts.present += 1
            continue
        if journal is None:
            yield image
            continue
        stamp = stamp_of(image.name)
        known = None if writer.lacks(image.name) else journal.find(image.name, stamp)
        if known is None:
            stamps[image.name] = stamp
            yield image
        else:
            counts.known += 1
            yield replace(image, known=known)


def _within(result: CaptionResult, around: tuple[str, str]) -> CaptionResult:
    before, after = around
    if not before and not after:
        return result
    captions = (replace(each, text=f"{before}{each.text}{after}") for each in result.captions)
    return replace(result, captions=tuple(captions))


def _written(writer: Writer, result: CaptionResult) -> CaptionResult:
    """Write one result; where each image has a file of its own, only it can fail."""
    try:
        writer.write(result)
    except OutputError as error:
        if not writer.for_each:
            raise
        return replace(result, captions=(), error=str(error))
    return result
