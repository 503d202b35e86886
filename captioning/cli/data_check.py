"""Find problems in captioned data, and show what training will get from it.

All splits are read. The report has their sizes, entries that cannot be used, suspicious captions,
images in two splits, the vocabulary for several values of --min-count, and the bytes that cached
features need. Every image is decoded, which takes about three minutes per 100,000 images of COCO on
two cores.

Exit code: 0 if training can use all entries, even if some captions are suspicious; 1 if entries
are lost (missing or damaged images, empty captions, ...), training refuses the data (an image in
two splits), or the command failed; 2 for wrong usage.

For example:

    captioning data check --data flickr8k:Flickr8k
    captioning data check --data karpathy:dataset_coco.json@COCO --no-images
    captioning data check --data coco:COCO jsonl:more.jsonl --show 20 --json
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated

import tyro

from captioning.cli.progress import PhaseProgress, stderr_console
from captioning.errors import DataError
from captioning.messages import check_minimum, escape_unprintable, format_count
from captioning.nn.encoder_config import EncoderConfig
from captioning.text.tokenizers import TokenizerName

if TYPE_CHECKING:  # slow to import, and --help does not need it
    from rich.console import Console

    from captioning.datasets import CaptionData, CaptionSplit
    from captioning.datasets.caption_check import Coverage, Distribution, SplitCounts
    from captioning.datasets.findings import Finding, Findings

_TRAINING = ("train", "restval")
_VALIDATION = "val"
_WHOLE = "all"  # shown for a data set without splits


@dataclass(frozen=True)
class DataCheckConfig:
    """Find problems in captioned data."""

    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FORMAT:PATH[@IMAGES] ...")]
    """Data sets, named as for ``captioning train``."""
    no_images: bool = False
    """Do not decode the images; only check that their files exist."""
    show: int = 5
    """Number of examples per problem (0 or more)."""
    json: bool = False
    """Print JSON instead of tables."""
    tokenizer: TokenizerName = "ptb"
    """Splits captions into words, as in ``captioning train``."""
    encoder: str = EncoderConfig.name
    """Encoder for the estimate of disk space: ``timm:<model>`` or ``torchvision:<model>``."""
    image_size: int | None = None
    """Input height and width of the encoder in pixels (default: the size used in pretraining)."""
    workers: int = 2
    """Number of processes that decode images (0: decode in the main process)."""

    def __post_init__(self) -> None:
        check_minimum(self, show=0, workers=0)
        self.encoder_config  # noqa: B018  (raises ConfigError)

    @property
    def encoder_config(self) -> EncoderConfig:
        """The encoder, with random weights: only the shape of its features is needed."""
        return EncoderConfig(self.encoder, weights=None, image_size=self.image_size)


@dataclass(frozen=True)
class FeatureBytes:
    """Disk space of the cached features of all images, for one view of each image."""

    images: int
    v_float16: int
    grid_float16: int
    grid_int8: int


@dataclass(frozen=True)
class DataReport:
    """Everything that the command reports."""

    splits: "tuple[SplitCounts, ...]"
    findings: "tuple[Finding, ...]"
    vocabulary: "tuple[Coverage, ...]"
    features: FeatureBytes

    @property
    def loses_data(self) -> bool:
        """Whether entries cannot be used for training."""
        return any(finding.loses_data for finding in self.findings)


def run(config: DataCheckConfig) -> int:
    """Check the data sets, print the report, and return the exit code."""
    report = check_data(config)
    if config.json:
        print(json.dumps(asdict(report), indent=2, ensure_ascii=False))  # noqa: T201
    else:
        _print_report(report, config)
    return 1 if report.loses_data else 0


def check_data(config: DataCheckConfig) -> DataReport:
    """Return the report on the data sets of a config.

    Raises:
        DataError: No split of the data sets can be read.
    """
    from captioning.datasets.caption_check import CaptionCheck
    from captioning.datasets.findings import Findings
    from captioning.datasets.image_check import check_images, check_overlap
    from captioning.text.tokenizers import get_tokenizer

    findings = Findings(config.show)
    with PhaseProgress(stderr_console()) as progress:
        splits = _read_splits(config.data, findings, progress)
        captions = CaptionCheck(findings, get_tokenizer(config.tokenizer))
        counts = []
        for name, split in splits:
            progress.print(f"Checking {format_count(len(split.images), 'image')} of {name} ...")
            progress.start(f"Checking captions of {name}")
            counts.append(captions.check(split, name, progress.update))
        progress.start("Comparing splits")
        check_overlap(splits, findings)
        if not config.no_images:
            progress.start("Decoding images")
            check_images(splits, findings, workers=config.workers, on_progress=progress.update)
    shared = captions.find_shared()
    names = {split.split for _, split in splits}
    training = [name for name in (*_TRAINING, _WHOLE) if name in names] or sorted(
        names - {_VALIDATION}
    )
    return DataReport(
        tuple(counts),
        (*findings.list(), *([shared] if shared else [])),
        captions.measure_coverage(training, _VALIDATION),
        _measure_features(config.encoder_config, sum(each.images for each in counts)),
    )


def _read_splits(
    data: Sequence[str], findings: "Findings", progress: PhaseProgress
) -> "list[tuple[str, CaptionSplit]]":
    """Return all splits with their names, and report what the readers could not use."""
    from captioning.datasets import CaptionData, shorten_spec

    splits, seen, errors = [], set(), []
    for spec in data:
        prefix = f"{shorten_spec(spec)} " if len(data) > 1 else ""
        progress.start(f"Reading {shorten_spec(spec)}")
        data_set = CaptionData(spec)
        names = data_set.splits
        for split in names or (_WHOLE,):
            name = f"{prefix}{split}"
            try:
                read = data_set.read(split) if names else _read_whole(data_set)
            except DataError as error:
                errors.append(error)
                findings.add("splits that cannot be read", f"{name}: {error}", loses_data=True)
                continue
            splits.append((name, read))
            for kind, items in read.problems.found.items():
                for item in items:
                    if (spec, kind, item) not in seen:  # a file-wide problem is in every split
                        seen.add((spec, kind, item))
                        findings.add(kind, f"{name}: {item}", loses_data=True)
    if not splits:
        raise errors[0]
    return splits


def _read_whole(data: "CaptionData") -> "CaptionSplit":
    """Return all images of a data set without splits."""
    return replace(data.read("train"), split=_WHOLE)


def _measure_features(encoder: EncoderConfig, images: int) -> FeatureBytes:
    from captioning.features.feature_dtype import FeatureDtype
    from captioning.features.row_format import RowFormat
    from captioning.nn.encoder import Encoder

    shape = Encoder(encoder)

    def measure(positions: int, dtype: FeatureDtype) -> int:
        return images * RowFormat(1, positions, shape.feature_size, dtype).image_bytes

    return FeatureBytes(
        images,
        v_float16=measure(1, "float16"),
        grid_float16=measure(shape.positions, "float16"),
        grid_int8=measure(shape.positions, "int8"),
    )


def _print_report(report: DataReport, config: DataCheckConfig) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    _print_splits(console, report.splits, named=len(config.data) > 1)
    _print_vocabulary(console, report.vocabulary)
    _print_features(console, report.features, config.encoder)
    titles = {
        True: "Problems: training loses these entries, or refuses the data",
        False: "Suspicious: training uses these entries as they are",
    }
    for loses_data, title in titles.items():
        if found := [each for each in report.findings if each.loses_data == loses_data]:
            console.print(f"\n{title}", style="bold")
            for finding in found:
                console.print(f"  {finding.kind}: {finding.count:,}")
                for example in finding.examples:
                    console.print(f"    {escape_unprintable(example)}", soft_wrap=True)
                if (more := finding.count - len(finding.examples)) and finding.examples:
                    console.print(f"    and {more:,} more", style="dim")
    if config.no_images:
        console.print("\nThe images were not decoded (--no-images).")
    console.print(f"\n{_summarize(report)}", soft_wrap=True)


def _summarize(report: DataReport) -> str:
    lost = [finding for finding in report.findings if finding.loses_data]
    if not lost:
        return "Training can use all entries."
    count = format_count(len(lost), "kind")
    return f"Found {count} of problems that lose data. --show 100 lists more examples."


def _print_splits(console: "Console", splits: "Sequence[SplitCounts]", *, named: bool) -> None:
    from captioning.datasets import shorten_spec

    rows = []
    for each in splits:
        label = f"{shorten_spec(each.data)} {each.split}" if named else each.split
        counts = (each.captions_per_image, each.words)
        rows.append(
            (label, f"{each.images:,}", f"{each.captions:,}", *map(_show_distribution, counts))
        )
    titles = ("split", "images", "captions", "per image", "words")
    _print_table(console, "Splits (min/median/95 %/max)", titles, rows)
    if _VALIDATION not in {each.split for each in splits}:
        console.print(
            "There is no validation split. To hold images out: captioning train --val-fraction 0.1",
            soft_wrap=True,  # the command stays on one line
        )


def _show_distribution(values: "Distribution") -> str:
    return "/".join(map(str, (values.min, values.median, values.p95, values.max)))


def _print_vocabulary(console: "Console", rows: "Sequence[Coverage]") -> None:
    titles = ("minimum count", "words", "training", "validation")
    shown = []
    for row in rows:
        validation = "" if row.validation is None else f"{row.validation:.2%}"
        shown.append((str(row.min_count), f"{row.words:,}", f"{row.training:.2%}", validation))
    _print_table(console, "Vocabulary, and the share of words that it covers", titles, shown)


def _print_features(console: "Console", features: FeatureBytes, encoder: str) -> None:
    from rich.filesize import decimal

    rows = [
        ("v, float16", decimal(features.v_float16)),
        ("grid, float16", decimal(features.grid_float16)),
        ("grid, int8", decimal(features.grid_int8)),
    ]
    _print_table(
        console,
        f"Cached features of {encoder}, per view (training adds flipped ones)",
        ("", ""),
        rows,
    )


def _print_table(
    console: "Console", title: str, titles: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    from rich.table import Table

    console.print(f"\n{title}", style="bold")
    table = Table(box=None, padding=(0, 0, 0, 2), show_header=any(titles))
    for number, name in enumerate(titles):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
