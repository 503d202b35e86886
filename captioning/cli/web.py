"""Show images, captions, attention and next words in a web browser, and correct the captions.

Images are dropped, pasted or chosen on the page. With a folder, the page also captions its images
and lets you correct the captions. The corrections are in the file corrections.jsonl of that folder,
or of --output; `captioning train --data jsonl:FOLDER/corrections.jsonl` reads it. The page needs no
network connection. Without --host, only this computer reaches it. With another host, a token is
needed: see `captioning serve --help`.

For example:

    captioning web
    captioning web holiday --recursive
    captioning web holiday --output captions --model runs/first/model --open
"""

import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from captioning.cli.progress import stderr_console
from captioning.cli.serve import ServeConfig, run_server
from captioning.errors import ConfigError
from captioning.sources.find import SourceConfig, find_images
from captioning.sources.skipped import SkippedCounts

if TYPE_CHECKING:  # starlette and torch are slow to import, and --help does not need them
    from captioning.images.image_ref import ImageRef
    from captioning.web.pages import Page
    from captioning.web.service import CaptionService


@dataclass(frozen=True)
class WebConfig(ServeConfig):
    """A page of captions."""

    SECTIONS: ClassVar = {**ServeConfig.SECTIONS, "folder": "folder", "open": "server"}

    folder: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER]")] = None
    """Folder of images to caption. The page lets you correct the captions."""
    recursive: Annotated[bool, tyro.conf.arg(aliases=["-r"])] = False
    """Include the images in subfolders."""
    output: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="OUTPUT", aliases=["-o"], help_behavior_hint="(default: the folder of images)"
        ),
    ] = None
    """Folder in which the corrections and the captions are saved."""
    open: bool = False
    """Open the page in the web browser."""


def run(config: WebConfig) -> int:
    """Serve the page and return the exit code."""
    images = _find_images(config)

    def make_page(service: "CaptionService") -> "Page":
        from captioning.web.folder import FolderSession
        from captioning.web.pages import Page

        if config.folder is None:
            return Page(service)
        output = config.output or config.folder
        output.mkdir(parents=True, exist_ok=True)
        return Page(service, FolderSession(service, images, output))

    def on_ready(url: str) -> None:
        if config.open:
            webbrowser.open(url)

    return run_server(config, "the page", make_page, on_ready)


def _find_images(config: WebConfig) -> "list[ImageRef]":
    """Return the images of the folder.

    Raises:
        ConfigError: It is not a folder, or it has no images.
    """
    folder = config.folder
    if folder is None:
        if config.output is not None or config.recursive:
            raise ConfigError("--output and --recursive need a folder. Name one.")
        return []
    if not folder.is_dir():
        raise ConfigError(f"'{folder}' is not a folder. Check the path.")
    skipped = SkippedCounts(is_output=_is_output)
    images = list(find_images([str(folder)], SourceConfig(recursive=config.recursive), skipped))
    skipped.without_images.clear()
    if not images:
        notices = "".join(f"\n{notice}" for notice in skipped.notices())
        raise ConfigError(f"no images found in '{folder}'.{notices or ' Check the path.'}")
    for notice in skipped.notices():
        stderr_console().print(notice)
    return images


def _is_output(name: str) -> bool:
    """Return whether a file name is that of an output of the page."""
    return name.removeprefix(".").startswith(("captions.", "corrections.jsonl", "captioning-web."))
