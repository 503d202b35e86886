"""Caption images and folders of images.

Results go to standard output or to -o, messages to standard error. To resume a run that was stopped
or killed, run the same command again. The results so far are in a journal, a hidden file next to
-o, which remains after the run. Exit code: 0 if every image was captioned, 1 if some images failed
(they are listed) or the command failed, 2 for wrong usage, 130 after Ctrl-C and 143 after SIGTERM.

For example:

    captioning caption photo.jpg
    captioning caption photos --recursive -o captions.jsonl
    captioning caption photos --format txt --n 3
    captioning caption s3://bucket/photos -r --engine ray -o s3://bucket/captions
"""

import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from captioning.bulk.rows import RelativeNames
from captioning.bulk.thumbnails import THUMBNAIL_SIZE, ThumbnailFolder
from captioning.bulk.writers.base import Writer
from captioning.bulk.writers.registry import check_caption_count, open_writer
from captioning.cli.caption_config import CaptionConfig, check_config, describe_unused_flags
from captioning.cli.caption_inputs import find_images_of, require_images
from captioning.cli.caption_report import RunReport, print_plan, show_progress
from captioning.cli.consensus import add_consensus
from captioning.cli.progress import stderr_console
from captioning.cli.search_flags import apply_flags
from captioning.cli.stopping import Stopping
from captioning.files import resolve_link
from captioning.sources.skipped import SkippedCounts

if TYPE_CHECKING:  # importing torch takes seconds, and --help does not need it
    from rich.console import Console

    from captioning.bulk.job import JobCounts, JobOutput
    from captioning.bulk.journal import Journal
    from captioning.decoding import SearchMethod
    from captioning.images.loader import ImageLoader
    from captioning.inference.captioner import Captioner

# Settings that decide which images a partition has and what its rows hold.
_INPUT_FIELDS = (
    *("paths", "recursive", "exclude", "follow_links", "limit"),
    *("prefix", "suffix", "best"),
)


def run(config: CaptionConfig) -> int:
    """Caption the images and return the exit code."""
    started, console = time.monotonic(), stderr_console()
    check_config(config)
    if config.engine == "ray":
        from captioning.cli.caption_ray import run_on_ray

        return run_on_ray(config)
    ignored = SkippedCounts(is_output=config.is_output)
    images = require_images(config, ignored)
    if config.dry_run:
        print_plan(config, images, ignored)
        return 0
    from captioning.bulk.output_checks import check_output

    images = check_output(config.format_name, config.output, images, config.existing)
    from captioning.bulk.job import CaptionJob

    captioner, loader, search = _load_model(config, console)
    captions = 1 if config.best else search.captions_per_image
    check_caption_count(config.format_name, captions)
    journal = _open_journal(config, captioner, loader, search)
    report = RunReport(config, console, ignored, captioner.backend)
    with (
        Stopping() as stopping,
        show_progress(config, console, lambda: find_images_of(config)) as on_progress,
        open_writer(
            config.format_name,
            config.output,
            captions=captions,
            keep_time=config.keep_time,
            on_complete=lambda path: None if journal is None else journal.add_output(path),
        ) as writer,
    ):
        job = CaptionJob(captioner, loader, search, _job_output(config, writer, journal))
        for rows in job.run(images):
            report.failures.add(rows)
            on_progress(job.counts)
            if stopping.signal:
                break
        writer.close(keep_existing_if_longer=bool(stopping.signal))
    if journal is not None:
        stopped = bool(stopping.signal)
        report.missing = _finish_journal(journal, config, job.counts, stopped=stopped)
    return report.print_end(job, stopping.signal, time.monotonic() - started)


def _load_model(
    config: CaptionConfig, console: "Console"
) -> "tuple[Captioner, ImageLoader, SearchMethod]":
    """Load the model, and check the search before any work begins."""
    from captioning.decoding import Sampling
    from captioning.images.loader import ImageLoader
    from captioning.inference.captioner import Captioner

    captioner = Captioner.from_pretrained(
        config.model, device=config.device, seed=config.seed, **asdict(config.backend)
    )
    search = apply_flags(captioner.checkpoint.search, config.search)
    captioner.check_search(search)
    captioner = add_consensus(captioner, config.consensus, config.workers, console)
    captioner.check_search(search)  # again: consensus reranking needs several captions per image
    preprocessing = captioner.checkpoint.model.encoder.preprocessing
    size = THUMBNAIL_SIZE if config.format_name == "html" else 0
    loader = ImageLoader(
        preprocessing,
        config.batch_size,
        config.workers,
        config.allow_truncated,
        config.time_limit,
        size,
    )
    for sentence in describe_unused_flags(config, is_random=isinstance(search, Sampling)):
        console.print(sentence)
    return captioner, loader, search


def _open_journal(
    config: CaptionConfig, captioner: "Captioner", loader: "ImageLoader", search: "SearchMethod"
) -> "Journal | None":
    from captioning.bulk.resume import open_journal, run_settings

    if config.per_image or config.output is None:
        return None  # without a journal, the hash of all weights is not needed
    settings = run_settings(captioner, loader, search, config.share)
    return open_journal(config.output, settings, overwrite=config.overwrite)


def _job_output(config: CaptionConfig, writer: Writer, journal: "Journal | None") -> "JobOutput":
    from captioning.bulk.job import JobOutput

    names = RelativeNames(config.output)
    thumbnails = ThumbnailFolder(config.output) if config.format_name == "html" else None
    return JobOutput(
        writer,
        names,
        journal,
        thumbnails,
        existing=config.existing,
        prefix=config.prefix,
        suffix=config.suffix,
        best=config.best,
    )


def _finish_journal(
    journal: "Journal", config: CaptionConfig, counts: "JobCounts", *, stopped: bool
) -> int:
    """Store what `captioning merge` and the next run check, and close the journal.

    Returns:
        The number of images in the journal that were not among the inputs of a complete run.
    """
    assert config.output is not None
    journal.set_metadata(
        finished=None if stopped else counts.captioned + counts.failed,
        folder=os.path.realpath(resolve_link(config.output).parent),
        inputs={name: getattr(config, name) for name in _INPUT_FIELDS},
    )
    missing = 0 if stopped else max(0, journal.count() - counts.captioned)
    journal.close()
    return missing
