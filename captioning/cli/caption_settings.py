"""What ``captioning caption`` can be told."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from captioning.bulk.writers.formats import ENDINGS, is_for_each
from captioning.errors import ConfigError
from captioning.messages import check_minimum
from captioning.sources.archives import is_archive

OutputFile = Annotated[
    Path | None,
    tyro.conf.arg(metavar="FILE", aliases=["-o"], help_behavior_hint="(default: standard output)"),
]
"""A flag that names where rows go."""


@dataclass(frozen=True)
class CaptionConfig:
    """Caption photos and folders of photos."""

    paths: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="PATH ...", help_behavior_hint=""),
    ] = ()
    """Files, folders, patterns in quotes, tar shards, URLs, or - for a list on standard input."""
    output: OutputFile = None
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
    consensus_data: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="DATA ...", help_behavior_hint="(default: none)"),
    ] = ()
    """Captioned data sets (``flickr8k:DIR``) for consensus reranking: of the captions found, the
    one closest to the captions of similar training images wins."""
    cache: Path = Path("features")
    """Directory of the feature vectors of ``--consensus-data``, kept for later runs."""
    beam: Annotated[
        int | None,
        tyro.conf.arg(metavar="INT", help_behavior_hint="(default: the model's own search)"),
    ] = None
    """Beam search of this width."""
    captions: Annotated[int, tyro.conf.arg(aliases=["--n"])] = 1
    """Captions for each photo."""
    length_penalty: Annotated[
        float | None,
        tyro.conf.arg(metavar="NUMBER", help_behavior_hint="(default: the model's own)"),
    ] = None
    """Of beam search: 0 prefers short captions, 1 long ones."""
    no_repeat_ngram: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: the model's own)")
    ] = None
    """No sequence of so many words twice in a caption; 0 for no such rule."""
    no_double_word: bool = False
    """No word twice in a row, nor with one other word between; many models have this rule
    already."""
    rerank_weight: Annotated[
        float | None,
        tyro.conf.arg(metavar="NUMBER", help_behavior_hint="(default: the model's own)"),
    ] = None
    """What the phrases that a photo makes likely count in ranking what a beam found; 0 for nothing.
    """
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


def check(settings: CaptionConfig) -> None:
    """Raise a ConfigError where settings make no sense, alone or together."""
    if settings.sample and settings.beam is not None:
        raise ConfigError("--beam and --sample are two ways to search. Give one of them.")
    if settings.sample and settings.length_penalty is not None:
        raise ConfigError("--length-penalty belongs to beam search. Leave --sample out, or it.")
    if settings.sample and settings.rerank_weight is not None:
        raise ConfigError("--rerank-weight belongs to beam search. Leave --sample out, or it.")
    if settings.consensus_data and settings.sample:
        raise ConfigError("--consensus-data needs a beam search. Leave --sample out.")
    if settings.consensus_data and not settings.paths:
        raise ConfigError(
            "No photo was named: everything after --consensus-data is a data set. Name the photos "
            f"first: captioning caption PHOTOS --consensus-data {settings.consensus_data[0]}"
        )
    if not settings.sample and (
        settings.temperature != 1.0 or settings.top_k != 0 or settings.top_p != 1.0
    ):
        raise ConfigError("--temperature, --top-k and --top-p belong to --sample. Add --sample.")
    check_minimum(settings, captions=1, workers=0)
    if settings.batch_size != "auto":
        check_minimum(settings, batch_size=1)
    if settings.limit is not None:
        check_minimum(settings, limit=1)
    if settings.resume + settings.overwrite + settings.append > 1:
        raise ConfigError(
            "--resume keeps what is there, --overwrite replaces it, --append adds to it. Give one "
            "of them."
        )
    if not 0 <= settings.seed < 2**63:
        raise ConfigError(f"seed is {settings.seed}; it lies between 0 and 2**63 - 1.")
    shard_of(settings)
    _check_places(settings)


def _check_places(settings: CaptionConfig) -> None:
    """Refuse files beside, or captions in, images that are no files."""
    form, apart = format_of(settings), without_files(settings)
    if not apart or not is_for_each(form):
        return
    if form == "embed":
        raise ConfigError(
            f"{apart[0]} holds no files that a caption could be embedded in. Unpack or download "
            "the photos first, or give another --format, such as jsonl."
        )
    if settings.output is None:
        raise ConfigError(
            f"No file can be put beside the photos of {apart[0]}. Name a folder for the {form} "
            "files with -o."
        )


def without_files(settings: CaptionConfig) -> list[str]:
    """Return the inputs whose images are no files: archives, and what is behind a URL."""
    return [
        name
        for name in settings.paths
        if "://" in name or (is_archive(name) and not os.path.isdir(name))  # noqa: PTH112
    ]


def shard_of(settings: CaptionConfig) -> tuple[int, int] | None:
    """Return the share that is asked for, as (i, n); None for all."""
    if settings.shard is None:
        return None
    number, _, count = settings.shard.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= 10**6):
        raise ConfigError(f"--shard is {settings.shard!r}; it is like 1/8, from 1/8 to 8/8.")
    return int(number), int(count)


def format_of(settings: CaptionConfig) -> str:
    """Return the format that is asked for, or that the output's name tells."""
    form: str = settings.format
    if form == "auto":
        form = _format_of_output(settings.output)
    if settings.append and not is_for_each(form):
        raise ConfigError(f"--append is for files beside photos, not for {form}.")
    return form


def _format_of_output(output: Path | None) -> str:
    if output is None:
        return "text" if sys.stdout is not None and sys.stdout.isatty() else "jsonl"
    ending = output.suffix.lower()
    if ending in ENDINGS:
        return ENDINGS[ending]
    raise ConfigError(
        f"The format cannot be told from -o {output}. Give --format, or an ending among "
        f"{', '.join(ENDINGS)}."
    )
