"""Caption photos and folders of photos.

Results go to standard output or to -o, everything else to standard error. The exit code is 0 when
every photo was captioned, 1 when some could not be read (they are named), 2 for wrong usage.
"""

import dataclasses
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import Progress

from captioning.captioner import Captioner, PictureList, find_pictures, open_writer
from captioning.captioner.results import CaptionedPicture
from captioning.commands.progress import progress_bar
from captioning.decoding import BeamSearch, Sampling, SearchMethod
from captioning.errors import SettingsError

_NAMED = 20  # failures that are named one by one at the end


@dataclass(frozen=True)
class CaptionSettings:
    """Caption photos and folders of photos."""

    paths: tyro.conf.Positional[tuple[str, ...]]
    """Files, folders, patterns in quotes, or - for a list on standard input, one path a line."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Where the results go: a file, or a folder for txt and caption. Standard output, or beside
    each photo, by default."""
    format: Literal["jsonl", "text", "csv", "coco", "html", "txt", "caption"] | None = None
    """text is for reading, txt and caption are small files beside the photos. Taken from the ending
    of -o; else text on a terminal and jsonl in a pipe."""
    recursive: Annotated[bool, tyro.conf.arg(aliases=["-r"])] = False
    """Go into folders of folders."""
    model: str | None = None
    """A model directory or hub id; the model that comes with the package by default."""
    beam: int | None = None
    """Beam search of this width; the model's own search by default."""
    captions: int = 1
    """Captions for each photo."""
    sample: bool = False
    """Draw the words at random, as the model thinks them probable."""
    temperature: float = 1.0
    """With --sample: below 1 plays safe, above 1 takes risks."""
    top_k: int = 0
    """With --sample: draw from this many most probable words; 0 for all."""
    top_p: float = 1.0
    """With --sample: draw from the most probable words that together have this probability."""
    seed: int = 0
    """With --sample: another seed gives other captions."""
    batch_size: int = 16
    """Photos that go through the network together."""
    workers: int = 2
    """Processes that read photos; 0 for none."""
    device: str = "cpu"
    """cpu, cuda or mps."""


def run(settings: CaptionSettings) -> int:
    """Caption, and return the exit code."""
    console = Console(stderr=True)
    _check(settings)
    pictures = find_pictures(_names(settings.paths), recursive=settings.recursive)
    if not pictures.paths:
        raise SettingsError(_nothing_found(settings, pictures))
    captioner = Captioner.from_pretrained(
        settings.model, device=settings.device, seed=settings.seed
    )
    results = captioner.stream(
        pictures.paths,
        search=_search(settings, captioner.checkpoint.search),
        batch_size=settings.batch_size,
        workers=settings.workers,
    )
    failed: list[CaptionedPicture] = []
    with (
        open_writer(_format(settings), settings.output) as writer,
        progress_bar(console, unit="photos/s") as progress,
    ):
        for result in _watched(results, progress, len(pictures.paths)):
            writer.write(result)
            if not result.ok:
                failed.append(result)
    _report(console, pictures, failed)
    return 1 if failed else 0


def _check(settings: CaptionSettings) -> None:
    if settings.sample and settings.beam is not None:
        raise SettingsError("--beam and --sample are two ways to search. Give one of them.")
    if not settings.sample and (
        settings.temperature != 1.0 or settings.top_k != 0 or settings.top_p != 1.0
    ):
        raise SettingsError("--temperature, --top-k and --top-p belong to --sample. Add --sample.")
    for name in ("batch_size", "captions"):
        if getattr(settings, name) < 1:
            raise SettingsError(f"{name} is {getattr(settings, name)}; it is at least 1.")
    if settings.workers < 0:
        raise SettingsError(f"workers is {settings.workers}; it is at least 0.")


def _names(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        if path == "-":
            for line in sys.stdin:
                if line.rstrip("\n"):
                    yield line.rstrip("\n")
        else:
            yield path


def _nothing_found(settings: CaptionSettings, pictures: PictureList) -> str:
    if not settings.paths:
        return "No photo was named. For example: captioning caption holiday/"
    deeper = "" if settings.recursive else " Add --recursive to look into its folders."
    others = f" ({pictures.skipped} other files)" if pictures.skipped else ""
    return f"There is no photo in {', '.join(settings.paths)}{others}.{deeper}"


def _format(settings: CaptionSettings) -> str:
    if settings.format is not None:
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


def _search(settings: CaptionSettings, own: SearchMethod) -> SearchMethod:
    if settings.sample:
        return Sampling(
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            n=settings.captions,
        )
    beam = own if isinstance(own, BeamSearch) else BeamSearch()
    width = settings.beam if settings.beam is not None else max(beam.width, settings.captions)
    if settings.beam is None and settings.captions == 1:
        return own
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
            f"{pictures.skipped} files that are no pictures by their endings were left out.",
            highlight=False,
        )
    if not failed:
        return
    console.print(
        f"{len(failed)} of {len(pictures.paths)} photos could not be captioned:", highlight=False
    )
    for result in failed[:_NAMED]:
        console.print(f"  {ascii_safe(result.error)}", highlight=False, markup=False)
    if len(failed) > _NAMED:
        console.print(f"  ... and {len(failed) - _NAMED} more (see the output)", highlight=False)


def ascii_safe(text: str) -> str:
    """Return ``text`` without what a terminal cannot show."""
    return text if text.isprintable() else text.encode("utf-8", "backslashreplace").decode()
