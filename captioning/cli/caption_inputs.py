"""The images that ``captioning caption`` is given."""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import cast

from captioning.bulk.thumbnails import thumbnail_folder
from captioning.cli.caption_config import CaptionConfig
from captioning.errors import ConfigError
from captioning.images.image_ref import ImageRef
from captioning.sources.find import STDIN_PREFIX, SourceConfig, find_images, find_stream_images
from captioning.sources.given_names import ReadableBytes
from captioning.sources.skipped import SkippedCounts


def require_images(config: CaptionConfig, ignored: SkippedCounts) -> Iterator[ImageRef]:
    """Return the images to caption.

    Args:
        config: Names the images.
        ignored: Counts what the search for images skips; updated while the images are read.

    Raises:
        ConfigError: There are no images. A partition may be empty if others are not.
    """
    images = find_images_of(config, ignored)
    first = next(images, None)
    if first is not None:
        return chain([first], images)
    if config.partition is not None:
        all_images = find_images_of(replace(config, partition=None))
        if next(all_images, None) is not None:
            return iter(())
    raise ConfigError(_explain_no_images(config, ignored))


def find_images_of(
    config: CaptionConfig, ignored: SkippedCounts | None = None
) -> Iterator[ImageRef]:
    """Yield the images of the run's partition, up to the limit."""
    ignored = ignored or SkippedCounts()
    options = SourceConfig(
        recursive=config.recursive,
        follow_links=config.follow_links,
        time_limit=config.time_limit,
        excluded_folders=_written_folders(config),
        exclude=config.exclude,
        ordered=config.engine == "local",
        open_archives=config.engine == "local",
    )
    found = (
        _find_stdin_images(config, options, ignored)
        if name == "-"
        else find_images([name], options, ignored)
        for name in config.paths
    )
    images = chain.from_iterable(found)
    return islice(config.share.select(images) if config.share else images, config.limit)


def _find_stdin_images(
    config: CaptionConfig, options: SourceConfig, ignored: SkippedCounts
) -> Iterator[ImageRef]:
    if sys.stdin is None:
        raise ConfigError("- stands for standard input, which is closed. Give files or folders.")
    stream = cast(ReadableBytes, sys.stdin.buffer)
    needs_file = config.format_name == "embed" or (config.per_image and config.output is None)
    for image in find_stream_images(stream, options, ignored):
        if needs_file and image.content is not None and image.name.startswith(STDIN_PREFIX):
            problem = f"--format {config.format_name} needs a file, and standard input is an image"
            yield ImageRef(image.name, error=f"{problem}. Save it to a file first.")
        else:
            yield image


def _written_folders(config: CaptionConfig) -> frozenset[str]:
    """Return the folders into which the command itself writes images; they are not inputs."""
    format_name = config.format_name
    if config.output is None or not config.output.name or format_name not in ("embed", "html"):
        return frozenset()
    folder = config.output if format_name == "embed" else thumbnail_folder(config.output)
    return frozenset([os.path.realpath(folder)])


def _explain_no_images(config: CaptionConfig, ignored: SkippedCounts) -> str:
    if not config.paths:
        return "no images given. For example: captioning caption holiday/"
    if set(config.paths) == {"-"}:
        return (
            "no images given on standard input. Write one path per line, for example: "
            "find holiday -name '*.jpg' | captioning caption -"
        )
    places = ", ".join("standard input" if name == "-" else f"'{name}'" for name in config.paths)
    ignored.without_images.clear()
    notices = [f"\n{notice}" for notice in ignored.notices()]
    return f"no images found in {places}.{''.join(notices) or ' Check the path.'}"
