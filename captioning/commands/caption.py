"""Caption photos and folders of photos.

Results go to standard output or to -o, everything else to standard error. The exit code is 0 when
every photo was captioned, 1 when some could not be read (they are named), 2 for wrong usage.
"""

import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import Progress

from captioning.captioner import CaptionedPicture, PictureList, find_pictures, open_writer
from captioning.captioner.output import photo_among
from captioning.captioner.results import one_line
from captioning.commands.progress import progress_bar, talk
from captioning.errors import SettingsError, check_least

if TYPE_CHECKING:  # torch takes seconds to import, and --help needs none of it
    import captioning.decoding

_NAMED = 20  # failures that are named one by one at the end


@dataclass(frozen=True)
class CaptionSettings:
    """Caption photos and folders of photos."""

    paths: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="PATH ...", help_behavior_hint=""),
    ] = ()
    """Files, folders, patterns in quotes, or - for a list on standard input."""
    output: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FILE", aliases=["-o"], help_behavior_hint="(default: standard output)"
        ),
    ] = None
    """Where the results go. For txt and caption a folder, by default that of each photo."""
    format: Literal["auto", "text", "jsonl", "csv", "coco", "html", "txt", "caption"] = "auto"
    """auto goes by the ending of -o. txt and caption are small files beside the photos."""
    recursive: Annotated[bool, tyro.conf.arg(aliases=["-r"])] = False
    """Go into folders of folders, but not through links to folders."""
    resume: bool = False
    """Go on with a run that was cut short: leave out photos with a row in -o or a text file."""
    overwrite: bool = False
    """Replace text files beside photos; any other file that -o names is always replaced."""
    model: Annotated[
        str | None,
        tyro.conf.arg(metavar="MODEL", help_behavior_hint="(default: the package's own)"),
    ] = None
    """A model directory or hub id."""
    beam: Annotated[
        int | None,
        tyro.conf.arg(metavar="INT", help_behavior_hint="(default: the model's own search)"),
    ] = None
    """Beam search of this width."""
    captions: int = 1
    """Captions for each photo."""
    sample: bool = False
    """Draw the words at random, as the model thinks them probable."""
    temperature: float = 1.0
    """With --sample: below 1 plays safe, above 1 takes risks."""
    top_k: int = 0
    """With --sample: draw from this many most probable words; 0 for all."""
    top_p: float = 1.0
    """With --sample: draw from the most probable words of this total probability."""
    seed: int = 0
    """With --sample: another seed gives other captions."""
    batch_size: int = 16
    """Photos that go through the network together."""
    workers: int = 2
    """Processes that read photos; 0 for none."""
    allow_truncated: bool = False
    """Caption what is there of a photo that was cut short."""
    time_limit: float = 60.0
    """Seconds after which a photo that cannot be read is given up; needs workers."""
    device: str = "cpu"
    """cpu, cuda or mps."""


def run(settings: CaptionSettings) -> int:
    """Caption, and return the exit code."""
    console = talk()
    _check(settings)
    form = _format(settings)
    from captioning.captioner import Captioner
    from captioning.captioner.resume import NOTHING, finished

    pictures = _find(settings)
    if not pictures.paths:
        raise SettingsError(_nothing_found(settings, pictures))
    _spare_photos(settings.output, pictures.paths)
    done = finished(form, settings.output, pictures.paths) if settings.resume else NOTHING
    remaining = [path for path in pictures.paths if path not in done.sources]
    captioner = Captioner.from_pretrained(
        settings.model, device=settings.device, seed=settings.seed
    )
    results = captioner.stream(
        remaining,
        search=_search(settings, captioner.checkpoint.search),
        batch_size=settings.batch_size,
        workers=settings.workers,
        allow_truncated=settings.allow_truncated,
        time_limit=settings.time_limit,
    )
    failed: list[CaptionedPicture] = []
    with (
        progress_bar(console, unit="photos/s") as progress,
        open_writer(
            form, settings.output, sources=pictures.paths, existing=_existing(settings)
        ) as writer,
    ):
        for result in _watched(results, progress, len(remaining)):
            writer.write(result)
            if not result.ok:
                failed.append(result)
    _report(console, pictures, failed)
    return 1 if failed or done.failed else 0


def _check(settings: CaptionSettings) -> None:
    if settings.sample and settings.beam is not None:
        raise SettingsError("--beam and --sample are two ways to search. Give one of them.")
    if not settings.sample and (
        settings.temperature != 1.0 or settings.top_k != 0 or settings.top_p != 1.0
    ):
        raise SettingsError("--temperature, --top-k and --top-p belong to --sample. Add --sample.")
    check_least(settings, batch_size=1, captions=1, workers=0)
    if settings.resume and settings.overwrite:
        raise SettingsError("--resume keeps what --overwrite replaces. Give one of them.")
    if not settings.time_limit > 0:
        raise SettingsError(f"time_limit is {settings.time_limit}; it is above 0.")


def _find(settings: CaptionSettings) -> PictureList:
    paths: dict[str, None] = {}
    skipped = 0
    for name in settings.paths:
        # A list holds names as they are: they may well have brackets or stars in them.
        found = find_pictures(
            _listed() if name == "-" else [name],
            recursive=settings.recursive,
            patterns=name != "-",
        )
        paths |= dict.fromkeys(found.paths)
        skipped += found.skipped
    return PictureList(tuple(paths), skipped)


def _spare_photos(output: Path | None, photos: Sequence[str]) -> None:
    """Refuse to write over one of the photos."""
    if output is None or not output.is_file():
        return
    if photo_among([output], photos):
        raise SettingsError(f"-o {output} is one of the photos. Give another -o.")


def _existing(settings: CaptionSettings) -> Literal["refuse", "replace", "keep"]:
    if settings.resume:
        return "keep"
    return "replace" if settings.overwrite else "refuse"


def _listed() -> Sequence[str]:
    """Return the names on standard input, whose bytes need be no UTF-8."""
    content = sys.stdin.buffer.read()
    names = content.split(b"\0") if b"\0" in content else content.splitlines()
    return [os.fsdecode(name) for name in names if name]


def _nothing_found(settings: CaptionSettings, pictures: PictureList) -> str:
    if not settings.paths:
        return "No photo was named. For example: captioning caption holiday/"
    deeper = "" if settings.recursive else " Add --recursive to look into its folders."
    others = f" ({pictures.skipped} other files)" if pictures.skipped else ""
    return f"There is no photo in {', '.join(settings.paths)}{others}.{deeper}"


def _format(settings: CaptionSettings) -> str:
    if settings.format != "auto":
        return settings.format
    if settings.output is None:
        return "text" if sys.stdout.isatty() else "jsonl"
    endings = {".jsonl": "jsonl", ".csv": "csv", ".html": "html", ".htm": "html", ".json": "coco"}
    ending = settings.output.suffix.lower()
    if ending in endings:
        return endings[ending]
    raise SettingsError(
        f"The format cannot be told from -o {settings.output}. Give --format, or an ending among "
        f"{', '.join(endings)}."
    )


def _search(
    settings: CaptionSettings, own: "captioning.decoding.SearchMethod"
) -> "captioning.decoding.SearchMethod":
    from captioning.decoding import BeamSearch, Sampling

    if settings.sample:
        return Sampling(
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            n=settings.captions,
        )
    if settings.beam is None and settings.captions == 1:
        return own
    beam = own if isinstance(own, BeamSearch) else BeamSearch()
    width = settings.beam if settings.beam is not None else max(beam.width, settings.captions)
    return dataclasses.replace(beam, width=width, n=settings.captions)


def _watched(
    results: Iterable[CaptionedPicture], progress: Progress, total: int
) -> Iterator[CaptionedPicture]:
    task = progress.add_task("captioning", total=total)
    for result in results:
        yield result
        progress.advance(task)


def _report(console: Console, pictures: PictureList, failed: list[CaptionedPicture]) -> None:
    if pictures.skipped:
        console.print(
            f"Left out, as hidden or no pictures by their endings: {pictures.skipped} files."
        )
    if not failed:
        return
    console.print(f"{len(failed)} of {len(pictures.paths)} photos could not be captioned:")
    for result in failed[:_NAMED]:
        console.print(f"  {one_line(result.error)}")
    if len(failed) > _NAMED:
        console.print(f"  ... and {len(failed) - _NAMED} more (see the output)")
