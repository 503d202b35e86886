"""Caption photos and folders of photos.

Results go to standard output or to -o, everything else to standard error. A run that is stopped or
killed is gone on with by the same command: a hidden file beside -o, its journal, knows how far.
The exit code is 0 when every photo was captioned, 1 when some could not be read (they are named), 2
for wrong usage.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from captioning.captioner.inputs import InputOptions, Passed, find_pictures, names_of
from captioning.captioner.page import folder_of_page
from captioning.captioner.results import CaptionedPicture, one_line
from captioning.captioner.shards import is_shard
from captioning.captioner.writers import ENDINGS, is_for_each, open_writer, thumbnails_of
from captioning.commands.progress import count_in_background, progress_bar, talk
from captioning.commands.search import chosen_search
from captioning.commands.stopping import Stopping
from captioning.data.pool import Picture
from captioning.errors import SettingsError, check_least

if TYPE_CHECKING:  # torch takes seconds to import, and --help needs none of it
    from captioning.captioner.journal import Journal
    from captioning.captioner.runs import Counts

_NAMED = 20  # failures that are named one by one at the end


@dataclass(frozen=True)
class CaptionSettings:
    """Caption photos and folders of photos."""

    paths: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="PATH ...", help_behavior_hint=""),
    ] = ()
    """Files, folders, patterns in quotes, tar shards, URLs, or - for a list on standard input."""
    output: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FILE", aliases=["-o"], help_behavior_hint="(default: standard output)"
        ),
    ] = None
    """Where the results go. For txt, caption, xmp, embed a folder, by default each photo's own."""
    format: Literal[
        "auto",
        "text",
        "jsonl",
        "csv",
        "coco",
        "parquet",
        "html",
        "txt",
        "caption",
        "xmp",
        "embed",
    ] = "auto"
    """auto goes by the ending of -o. txt, caption and xmp are small files beside the photos; embed
    writes into the photos' own metadata, or with -o into copies of them."""
    recursive: Annotated[bool, tyro.conf.arg(aliases=["-r"])] = False
    """Go into folders of folders."""
    follow_links: bool = False
    """Take links that lead out of a folder, and go through links to folders."""
    resume: bool = False
    """Go on with an earlier run, which is what happens anyway where it left a journal or files."""
    overwrite: bool = False
    """Begin anew: replace -o, or the small files beside photos."""
    append: bool = False
    """Add the caption to the small files that are there; otherwise their photos are left out."""
    limit: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: all)")
    ] = None
    """Caption the first so many photos only."""
    shard: Annotated[
        str | None, tyro.conf.arg(metavar="I/N", help_behavior_hint="(default: all)")
    ] = None
    """Caption the I-th of N shares of the photos; `captioning merge` puts the shares together."""
    dry_run: bool = False
    """Say what would be captioned, and do nothing."""
    json: bool = False
    """End with a summary in JSON: on standard output where there is -o, else on standard error."""
    prefix: str = ""
    """What stands before each caption; a space between is yours to give."""
    suffix: str = ""
    """What stands after each caption."""
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
    captions: Annotated[int, tyro.conf.arg(aliases=["--n"])] = 1
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
    batch_size: Literal["auto"] | int = "auto"
    """Photos that go through the network together; fewer where the device's memory runs out."""
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
    passed = Passed()
    pictures = _some(_pictures(settings, passed), settings, passed)
    from captioning.captioner import Captioner
    from captioning.captioner.runs import Counts, caption_into, open_journal

    captioner = Captioner.from_pretrained(
        settings.model, device=settings.device, seed=settings.seed
    )
    search = chosen_search(
        captioner.checkpoint.search,
        sample=settings.sample,
        beam=settings.beam,
        captions=settings.captions,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
    )
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
    file = None if is_for_each(form) or settings.dry_run else settings.output
    journal = open_journal(
        file, captioner, search, reader, overwrite=settings.overwrite, shard=_shard(settings)
    )
    counts = Counts()
    if settings.dry_run:
        return _tell_plan(settings, form, pictures, passed)
    failed: list[CaptionedPicture] = []
    start = time.monotonic()
    with (
        Stopping() as stopping,
        progress_bar(console, unit="photos/s") as progress,
        open_writer(form, settings.output, existing=_existing(settings)) as writer,
    ):
        task = progress.add_task("captioning", total=None)
        if console.is_terminal and _countable(settings):
            count_in_background(
                lambda: _pictures(settings, Passed()), lambda n: progress.update(task, total=n)
            )
        if journal is not None:
            journal.note(finished=None, output=None)
        for batch in caption_into(
            writer,
            captioner,
            pictures,
            reader=reader,
            search=search,
            journal=journal,
            counts=counts,
            around=(settings.prefix, settings.suffix),
        ):
            failed += [each for each in batch if not each.ok][: _NAMED - len(failed)]
            told = f"captioning ({counts.failed} failed)" if counts.failed else "captioning"
            progress.update(task, completed=counts.done, description=told)
            if stopping.asked:
                writer.stopped = True
                break
    if journal is not None:
        if not stopping.asked:
            _note_end(journal, settings, counts)
        journal.close()
    _report(console, counts, passed, failed)
    if settings.json:
        summary = _summary(settings, counts, passed, time.monotonic() - start, stopping.asked)
        print(summary, file=sys.stdout if settings.output else sys.stderr)
    if stopping.asked:
        goes_on = journal is not None or is_for_each(form)
        advice = " The same command goes on from there." if goes_on else ""
        console.print(f"captioning: interrupted after {counts.done:,} photos.{advice}")
        return 128 + stopping.asked
    return 1 if counts.failed else 0


def _note_end(journal: "Journal", settings: CaptionSettings, counts: "Counts") -> None:
    """Note what merging shares, and the next run, need to know of one that came to its end."""
    from captioning.captioner.journal import stamp_of
    from captioning.files import target_of

    assert settings.output is not None
    inputs = {
        name: getattr(settings, name)
        for name in ("paths", "recursive", "follow_links", "limit", "prefix", "suffix")
    }
    journal.note(
        finished=counts.captioned + counts.failed,
        output=stamp_of(str(target_of(settings.output))),
        inputs=inputs,
    )
    counts.absent = max(0, journal.count() - counts.captioned)


def _check(settings: CaptionSettings) -> None:
    if settings.sample and settings.beam is not None:
        raise SettingsError("--beam and --sample are two ways to search. Give one of them.")
    if not settings.sample and (
        settings.temperature != 1.0 or settings.top_k != 0 or settings.top_p != 1.0
    ):
        raise SettingsError("--temperature, --top-k and --top-p belong to --sample. Add --sample.")
    check_least(settings, captions=1, workers=0)
    if settings.batch_size != "auto":
        check_least(settings, batch_size=1)
    if settings.limit is not None:
        check_least(settings, limit=1)
    if settings.resume + settings.overwrite + settings.append > 1:
        raise SettingsError(
            "--resume keeps what is there, --overwrite replaces it, --append adds to it. Give one "
            "of them."
        )
    if not 0 <= settings.seed < 2**63:
        raise SettingsError(f"seed is {settings.seed}; it lies between 0 and 2**63 - 1.")
    _shard(settings)


def _shard(settings: CaptionSettings) -> tuple[int, int] | None:
    if settings.shard is None:
        return None
    number, _, count = settings.shard.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= 10**6):
        raise SettingsError(f"--shard is {settings.shard!r}; it is like 1/8, from 1/8 to 8/8.")
    return int(number), int(count)


def _pictures(settings: CaptionSettings, passed: Passed) -> Iterator[Picture]:
    """Yield the pictures of this run's share."""
    from captioning.captioner.shares import share_of

    apart = _written_folders(settings)
    found = (
        # A list holds names as they are: they may well have brackets or stars in them.
        find_pictures(
            _listed() if name == "-" else [name],
            InputOptions(
                recursive=settings.recursive,
                patterns=name != "-",
                follow_links=settings.follow_links,
                time_limit=settings.time_limit,
                apart=apart,
            ),
            passed,
        )
        for name in settings.paths
    )
    return share_of(chain.from_iterable(found), shard=_shard(settings), limit=settings.limit)


def _listed() -> Iterator[str]:
    if sys.stdin is None:
        raise SettingsError("- stands for a list on standard input, and that is closed.")
    return names_of(sys.stdin.buffer)


def _written_folders(settings: CaptionSettings) -> frozenset[str]:
    """Return the folders into which this command writes pictures: they are none of its inputs."""
    form = _format(settings)
    if settings.output is None or not settings.output.name or form not in ("embed", "html"):
        return frozenset()
    folder = settings.output if form == "embed" else folder_of_page(settings.output)
    return frozenset([os.path.realpath(folder)])


def _countable(settings: CaptionSettings) -> bool:
    """Whether the photos can be counted without reading what they are in."""
    return not any(name == "-" or "://" in name or is_shard(name) for name in settings.paths)


def _some(
    pictures: Iterator[Picture], settings: CaptionSettings, passed: Passed
) -> Iterator[Picture]:
    """Return the pictures, of which there is at least one."""
    first = next(pictures, None)
    if first is None:
        raise SettingsError(_nothing_found(settings, passed))
    return chain([first], pictures)


def _existing(settings: CaptionSettings) -> Literal["keep", "replace", "append"]:
    if settings.append:
        return "append"
    return "replace" if settings.overwrite else "keep"


def _nothing_found(settings: CaptionSettings, passed: Passed) -> str:
    if not settings.paths:
        return "No photo was named. For example: captioning caption holiday/"
    deeper = "" if settings.recursive else " Add --recursive to look into its folders."
    others = f" ({passed.files} other files)" if passed.files else ""
    return f"There is no photo in {', '.join(settings.paths)}{others}.{deeper}"


def _format(settings: CaptionSettings) -> str:
    form: str = settings.format
    if form == "auto":
        form = _format_of_output(settings.output)
    if settings.append and not is_for_each(form):
        raise SettingsError(f"--append is for files beside photos, not for {form}.")
    return form


def _format_of_output(output: Path | None) -> str:
    if output is None:
        return "text" if sys.stdout is not None and sys.stdout.isatty() else "jsonl"
    ending = output.suffix.lower()
    if ending in ENDINGS:
        return ENDINGS[ending]
    raise SettingsError(
        f"The format cannot be told from -o {output}. Give --format, or an ending among "
        f"{', '.join(ENDINGS)}."
    )


def _tell_plan(
    settings: CaptionSettings, form: str, pictures: Iterator[Picture], passed: Passed
) -> int:
    """Say what would be done; nothing is written."""
    total = sum(1 for _ in pictures)
    where = settings.output or ("files beside them" if is_for_each(form) else "standard output")
    print(f"{total:,} photos would be captioned, as {form}, into {where}.")  # noqa: T201
    if passed.files:
        print(f"{passed.files:,} other files would be passed over.")  # noqa: T201
    return 0


def _summary(
    settings: CaptionSettings, counts: "Counts", passed: Passed, seconds: float, stopped: int
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
    console: Console, counts: "Counts", passed: Passed, failed: list[CaptionedPicture]
) -> None:
    if passed.files:
        console.print(f"Left out, as hidden or no pictures by their endings: {passed.files} files.")
    if counts.present:
        console.print(
            f"{counts.present} photos have a caption beside them already and were left out. "
            "--overwrite replaces it, --append adds another."
        )
    if counts.absent:
        console.print(
            f"{counts.absent} photos that earlier runs into this file captioned were not named "
            "this time, so it has no rows of them. Name them too to have them back."
        )
    if not counts.failed:
        return
    total = counts.captioned + counts.failed
    console.print(f"{counts.failed} of {total} photos could not be captioned:")
    for result in failed:
        console.print(f"  {one_line(result.error)}")
    if counts.failed > len(failed):
        console.print(f"  ... and {counts.failed - len(failed)} more (see the output)")
