"""Caption photos and folders of photos.

Results go to standard output or to -o, everything else to standard error. A run that was stopped
or killed is gone on with by the same command: how far it was stands in its journal, a hidden file
beside -o. The exit code is 0 when every photo was captioned, 1 when some could not be read (they
are named), 2 for wrong usage.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Literal, cast

from rich.console import Console

from captioning.bulk.writers.formats import is_for_each, open_writer, thumbnails_of
from captioning.bulk.writers.html import folder_of_page
from captioning.cli.caption_settings import (
    CaptionConfig,
    check,
    format_of,
    shard_of,
    without_files,
)
from captioning.cli.consensus import add_consensus
from captioning.cli.progress import count_in_background, progress_bar, talk
from captioning.cli.search import chosen_search
from captioning.cli.stopping import Stopping
from captioning.errors import ConfigError
from captioning.files import is_special_file
from captioning.images.worker_pool import ImageRef
from captioning.inference.results import CaptionResult, Counts, one_line
from captioning.messages import format_count
from captioning.sources.find import ReadableBytes, SourceConfig, find_images, read_name_list
from captioning.sources.image_names import SkippedCounts

if TYPE_CHECKING:  # torch takes seconds to import, and --help needs none of it
    import captioning.decoding
    from captioning.bulk.journal import Journal
    from captioning.images.loader import ImageLoader
    from captioning.inference.captioner import Captioner

_NAMED = 20  # failures that are named one by one at the end


def run(settings: CaptionConfig) -> int:
    """Caption, and return the exit code."""
    console, start = talk(), time.monotonic()
    check(settings)
    form = format_of(settings)
    passed, counts = SkippedCounts(), Counts()
    images = _some(_images(settings, passed), settings, passed)
    if settings.dry_run:
        return _tell_plan(settings, form, images, passed)
    from captioning.bulk.job import caption_into, open_journal

    captioner, search, reader = _model(settings, form, console)
    journal = open_journal(
        None if is_for_each(form) else settings.output,
        captioner,
        search,
        reader,
        overwrite=settings.overwrite,
        shard=shard_of(settings),
    )
    failed: list[CaptionResult] = []
    with (
        Stopping() as stopping,
        _progress(console, settings) as told,
        open_writer(form, settings.output, existing=_existing(settings)) as writer,
    ):
        for batch in caption_into(
            writer,
            captioner,
            images,
            reader=reader,
            search=search,
            journal=journal,
            counts=counts,
            around=(settings.prefix, settings.suffix),
        ):
            failed += [each for each in batch if not each.ok][: _NAMED - len(failed)]
            told(counts)
            if stopping.asked:
                writer.stopped = True
                break
    if journal is not None:
        _note_end(journal, settings, counts, finished=not stopping.asked)
        journal.close()
    _report(console, counts, passed, failed)
    if settings.json:
        summary = _summary(settings, counts, passed, time.monotonic() - start, stopping.asked)
        print(summary, file=sys.stdout if settings.output else sys.stderr)
    if stopping.asked:
        goes_on = journal is not None or is_for_each(form)
        how = "The same command, without --overwrite," if settings.overwrite else "The same command"
        advice = f" {how} goes on from there." if goes_on else ""
        console.print(
            f"captioning: interrupted after {format_count(counts.done, 'photo')}.{advice}"
        )
        return 128 + stopping.asked
    _tell_end(console, settings, counts)
    return 1 if counts.failed else 0


def _model(
    settings: CaptionConfig, form: str, console: Console
) -> "tuple[Captioner, captioning.decoding.SearchMethod, ImageLoader]":
    """Return the model, how it searches, and what reads images for it."""
    from captioning.inference.captioner import Captioner

    captioner = add_consensus(
        Captioner.from_pretrained(settings.model, device=settings.device, seed=settings.seed),
        settings.consensus_data,
        cache=settings.cache,
        workers=settings.workers,
        console=console,
    )
    search = chosen_search(
        captioner.checkpoint.search,
        sample=settings.sample,
        beam=settings.beam,
        captions=settings.captions,
        length_penalty=settings.length_penalty,
        no_repeat_ngram=settings.no_repeat_ngram,
        no_double_word=settings.no_double_word,
        rerank_weight=settings.rerank_weight,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
    )
    captioner.check_search(search)  # says what is wrong before anything is begun
    size = settings.batch_size
    if size == "auto":
        size = 16 if captioner.device.type == "cpu" else 64
    reader = captioner.reader(
        size,
        settings.workers,
        settings.allow_truncated,
        settings.time_limit,
        thumbnails_of(form),
    )
    return captioner, search, reader


@contextmanager
def _progress(console: Console, settings: CaptionConfig) -> Iterator[Callable[[Counts], None]]:
    """Show how far a run is, where somebody looks; give what takes the counts."""
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    rows_are_seen = settings.output is None and not is_for_each(format_of(settings)) and on_terminal
    with progress_bar(console, unit="photos/s", wanted=not rows_are_seen) as bar:
        task = bar.add_task("captioning", total=None)
        # Nobody waits for the number of all photos.
        if not bar.disable and _countable(settings):
            count_in_background(
                lambda: _images(settings, SkippedCounts()), lambda n: bar.update(task, total=n)
            )

        def tell(counts: Counts) -> None:
            what = f"captioning ({counts.failed} failed)" if counts.failed else "captioning"
            bar.update(task, completed=counts.done, description=what)

        yield tell


def _note_end(
    journal: "Journal", settings: CaptionConfig, counts: Counts, *, finished: bool
) -> None:
    """Note what merging shares, and the next run, need to know of this one."""
    from captioning.bulk.journal import stamp_of
    from captioning.files import resolve_link

    assert settings.output is not None
    inputs = {
        name: getattr(settings, name)
        for name in ("paths", "recursive", "follow_links", "limit", "prefix", "suffix")
    }
    output = resolve_link(settings.output)
    journal.note(
        finished=counts.captioned + counts.failed if finished else None,
        output=stamp_of(str(output)) if output.exists() else None,
        inputs=inputs,
    )
    if finished:
        counts.absent = max(0, journal.count() - counts.captioned)


def _images(settings: CaptionConfig, passed: SkippedCounts) -> Iterator[ImageRef]:
    """Yield the images of this run's share."""
    from captioning.bulk.partition import share_of

    apart = _written_folders(settings)
    found = (
        # A list holds names as they are: they may well have brackets or stars in them.
        find_images(
            _listed() if name == "-" else [name],
            SourceConfig(
                recursive=settings.recursive,
                patterns=name != "-",
                follow_links=settings.follow_links,
                time_limit=settings.time_limit,
                excluded_folders=apart,
            ),
            passed,
        )
        for name in settings.paths
    )
    return share_of(chain.from_iterable(found), shard=shard_of(settings), limit=settings.limit)


def _listed() -> Iterator[str]:
    if sys.stdin is None:
        raise ConfigError("- stands for a list on standard input, and that is closed.")
    return read_name_list(cast(ReadableBytes, sys.stdin.buffer))


def _written_folders(settings: CaptionConfig) -> frozenset[str]:
    """Return the folders into which this command writes images: they are none of its inputs."""
    form = format_of(settings)
    if settings.output is None or not settings.output.name or form not in ("embed", "html"):
        return frozenset()
    folder = settings.output if form == "embed" else folder_of_page(settings.output)
    return frozenset([os.path.realpath(folder)])


def _countable(settings: CaptionConfig) -> bool:
    """Whether the photos can be counted without reading what they are in."""
    return "-" not in settings.paths and not without_files(settings)


def _some(
    images: Iterator[ImageRef], settings: CaptionConfig, passed: SkippedCounts
) -> Iterator[ImageRef]:
    """Return the images, of which there is at least one, if not in this share of them."""
    first = next(images, None)
    if first is not None:
        return chain([first], images)
    others = replace(settings, shard=None)
    if shard_of(settings) and next(_images(others, SkippedCounts()), None) is not None:
        return iter(())
    raise ConfigError(_nothing_found(settings, passed))


def _existing(settings: CaptionConfig) -> Literal["keep", "replace", "append"]:
    if settings.append:
        return "append"
    return "replace" if settings.overwrite else "keep"


def _nothing_found(settings: CaptionConfig, passed: SkippedCounts) -> str:
    if not settings.paths:
        return "No photo was named. For example: captioning caption holiday/"
    if set(settings.paths) == {"-"}:
        return (
            "Standard input named no photo. Give it one path in a line, for example: "
            "find holiday -name '*.jpg' | captioning caption -"
        )
    places = ", ".join("standard input" if name == "-" else name for name in settings.paths)
    others = f" ({format_count(passed.files, 'other file')})" if passed.files else ""
    deeper = "Add --recursive to look into its folders." if passed.folders else "Check the path."
    return f"There is no photo in {places}{others}. {deeper}"


def _tell_plan(
    settings: CaptionConfig, form: str, images: Iterator[ImageRef], passed: SkippedCounts
) -> int:
    """Say what would be done; nothing is written."""
    total = sum(1 for _ in images)
    where = settings.output or ("files beside them" if is_for_each(form) else "standard output")
    print(f"{format_count(total, 'photo')} would be captioned, as {form}, into {where}.")  # noqa: T201
    if passed.files:
        print(f"{format_count(passed.files, 'other file')} would be passed over.")  # noqa: T201
    return 0


def _tell_end(console: Console, settings: CaptionConfig, counts: Counts) -> None:
    """Say where the captions are to somebody who looks; a script reads the exit code."""
    form = format_of(settings)
    where = ""
    if settings.output is not None and not is_special_file(settings.output):
        where = f"in {settings.output}"
    elif settings.output is None and is_for_each(form):
        where = "in them" if form == "embed" else "beside them"
    if not (console.is_terminal and where and counts.captioned) or settings.json:
        return
    known = f" ({counts.known:,} looked at by earlier runs)" if counts.known else ""
    console.print(f"{format_count(counts.captioned, 'photo')} captioned, {where}{known}.")


def _summary(
    settings: CaptionConfig, counts: Counts, passed: SkippedCounts, seconds: float, stopped: int
) -> str:
    fresh = counts.captioned + counts.failed - counts.known
    return json.dumps(
        {
            "captioned": counts.captioned,
            "failed": counts.failed,
            "of_earlier_runs": counts.known,
            "left_out_as_captioned": counts.present,
            "passed_over": passed.files,
            "interrupted": bool(stopped),
            "seconds": round(seconds, 3),
            "photos_per_second": round(fresh / seconds, 3) if seconds else None,
            "output": None if settings.output is None else str(settings.output),
        }
    )


def _report(
    console: Console, counts: Counts, passed: SkippedCounts, failed: list[CaptionResult]
) -> None:
    if passed.files:
        files = format_count(passed.files, "file")
        console.print(f"Left out, as hidden or no images by their endings: {files}.")
    if counts.present:
        console.print(
            f"Left out, as there is a caption under their name already: "
            f"{format_count(counts.present, 'photo')}. --overwrite replaces it, "
            "--append adds another."
        )
    if counts.absent:
        console.print(
            f"Captioned by earlier runs into this file and not named this time: "
            f"{format_count(counts.absent, 'photo')}. It has no rows of them; name "
            "them too to have "
            "them back."
        )
    if not counts.failed:
        return
    total = counts.captioned + counts.failed
    console.print(f"{counts.failed:,} of {format_count(total, 'photo')} could not be captioned:")
    for result in failed:
        console.print(f"  {one_line(result.error)}")
    if counts.failed > len(failed):
        console.print(f"  ... and {counts.failed - len(failed)} more (see the output)")
