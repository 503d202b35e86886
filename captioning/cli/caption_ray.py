"""``captioning caption --engine ray``: plan, actors, progress, and the end of the run."""

import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioning.cli.caption_config import CaptionConfig, describe_unused_flags
from captioning.cli.caption_inputs import require_images
from captioning.cli.cluster_report import ClusterCounts, ClusterReport
from captioning.cli.progress import stderr_console
from captioning.cli.search_flags import apply_flags
from captioning.cli.stopping import Stopping
from captioning.messages import format_count
from captioning.sources.find import SourceConfig
from captioning.sources.given_names import absolute_name, resolve_name
from captioning.sources.skipped import SkippedCounts

if TYPE_CHECKING:  # importing torch takes seconds, and --help does not need it
    from captioning.bulk.cluster.actors import ModelSpec, RunSpec
    from captioning.bulk.cluster.entries import Entry
    from captioning.bulk.cluster.tables import KeptTypes

# Settings that decide which images the run has and what its rows hold.
_INPUT_FIELDS = ("recursive", "exclude", "follow_links", "limit", "allow_truncated")
_ROW_FIELDS = ("format_name", "prefix", "suffix", "best")


def run_on_ray(config: CaptionConfig) -> int:
    """Caption the images on a cluster and return the exit code."""
    started, console = time.monotonic(), stderr_console()
    ignored = SkippedCounts(is_output=config.is_output)
    if config.dry_run:
        return _print_plan(config, ignored)
    from captioning.bulk.cluster.connection import import_ray
    from captioning.bulk.cluster.run import open_run, write_plan

    import_ray()  # before the inputs are listed, which may take long
    spec = _describe_run(config)
    settings = _describe_settings(config, spec)
    plan = open_run(spec.folder, settings, overwrite=config.overwrite)
    if plan is not None:
        stdin = ", and standard input is not read" if "-" in config.paths else ""
        console.print(f"Resuming the run in {spec.folder.url}. Its inputs stay the same{stdin}.")
    else:
        kept = _collect_types(config)
        entries = _list_entries(config, ignored, kept)
        plan = write_plan(spec.folder, settings, entries, config.cluster.partition_size, kept)
    earlier, done = ClusterCounts(), set()
    for number, counts in spec.folder.read_counts():
        earlier.add(counts)
        done.add(number)
    report = ClusterReport(config, console, ignored, earlier, plan.partitions)
    todo = [number for number in range(plan.partitions) if number not in done]
    signal = _caption(config, spec, report, todo, sorted(done)) if todo else 0
    return report.print_end(spec, signal, time.monotonic() - started)


def _caption(
    config: CaptionConfig,
    spec: "RunSpec",
    report: ClusterReport,
    todo: Sequence[int],
    done: Sequence[int],
) -> int:
    """Caption partitions until a signal arrives; return it, or 0 if there was none."""
    from captioning.bulk.cluster.connection import connect_to_ray
    from captioning.bulk.cluster.run import caption_partitions

    # Ray forks while it starts. A KeyboardInterrupt in Python's callbacks of a fork would be lost,
    # and the lock of logging would never be released.
    starting = Stopping("waiting for Ray")
    # Ray sets handlers of signals, too, and these are set again when it has started.
    stopping = Stopping("waiting for the next complete partition")
    with starting, connect_to_ray(config.cluster) as ray:
        if starting.signal:
            return starting.signal
        with stopping:
            for _ in report.track(caption_partitions(ray, spec, config.cluster, todo, done)):
                if stopping.signal:
                    break
        starting.signal = stopping.signal  # the next signal also interrupts Ray's end
    return stopping.signal


def _describe_run(config: CaptionConfig) -> "RunSpec":
    """Load the model, check the search, and describe the run for the actors."""
    from captioning.bulk.cluster.actors import RunSpec
    from captioning.bulk.cluster.rows import RowFormat
    from captioning.bulk.cluster.run import describe_maker
    from captioning.bulk.cluster.storage import OutputFolder

    model = _describe_model(config)
    captions = 1 if config.best else model.search.captions_per_image
    rows = RowFormat(
        config.format_name,
        lists=captions > 1,
        digests=config.cluster.skip_duplicates,
        kept=config.cluster.keep_columns,
        made_by=describe_maker(model),
    )
    return RunSpec(
        model,
        OutputFolder(_output_url(config), config.format_name),
        rows,
        _source_config(config),
        config.cluster.image_column,
        prefix=config.prefix,
        suffix=config.suffix,
        best=config.best,
    )


def _describe_model(config: CaptionConfig) -> "ModelSpec":
    from captioning.bulk.cluster.actors import ModelSpec
    from captioning.bulk.resume import fingerprint
    from captioning.decoding import Sampling
    from captioning.inference.captioner import Captioner

    model = config.model
    if model is not None and Path(model).exists():
        model = os.path.abspath(model)  # noqa: PTH100  (actors have another folder)
    backend = config.backend
    if backend.precision == "auto":  # machines differ in what is fastest, and captions would too
        backend = replace(backend, precision="float32")
    captioner = Captioner.from_pretrained(
        model, device="cpu", seed=config.seed, **asdict(replace(backend, backend="auto"))
    )
    search = apply_flags(captioner.checkpoint.search, config.search)
    captioner.check_search(search)
    for sentence in describe_unused_flags(config, is_random=isinstance(search, Sampling)):
        stderr_console().print(sentence)
    device = config.device
    if device == "auto":
        device = "cuda" if config.cluster.gpus_per_actor else "cpu"
    return ModelSpec(
        model,
        fingerprint([captioner.checkpoint], captioner.backend),
        search,
        backend,
        captioner.checkpoint.info.name,
        device=device,
        seed=config.seed,
        threads=config.cluster.threads,
        batch_size=config.batch_size,
        workers=config.workers,
        allow_truncated=config.allow_truncated,
        time_limit=config.time_limit,
        min_side=config.cluster.min_side,
    )


def _describe_settings(config: CaptionConfig, spec: "RunSpec") -> dict[str, Any]:
    """Return everything that decides the rows of a run."""
    rows = {name: getattr(config, name) for name in _ROW_FIELDS}
    paths = [name if name == "-" else absolute_name(resolve_name(name)) for name in config.paths]
    return {
        "made_by": dict(spec.rows.made_by),
        "inputs": {name: getattr(config, name) for name in _INPUT_FIELDS} | {"paths": paths},
        "rows": rows | config.cluster.row_settings(),
    }


def _source_config(config: CaptionConfig) -> SourceConfig:
    return SourceConfig(
        recursive=config.recursive,
        follow_links=config.follow_links,
        time_limit=config.time_limit,
        exclude=config.exclude,
    )


def _collect_types(config: CaptionConfig) -> "KeptTypes":
    from captioning.bulk.cluster.tables import KeptTypes

    return KeptTypes(config.cluster.keep_columns, must_agree=config.format_name == "parquet")


def _list_entries(
    config: CaptionConfig, ignored: SkippedCounts, kept: "KeptTypes"
) -> "Iterator[Entry]":
    """Return the inputs of the run, and collect the types of the kept columns.

    Raises:
        ConfigError: There are none, or types of kept columns differ.
    """
    from captioning.bulk.cluster.entries import limit_entries, list_entries

    images = require_images(replace(config, limit=None), ignored)
    cluster = config.cluster
    entries = list_entries(images, cluster.image_column, kept, cluster.partition_size)
    return limit_entries(entries, config.limit, _source_config(config))


def _output_url(config: CaptionConfig) -> str:
    """Return the output folder as an absolute path, or as a URL, whose ``//`` a Path loses."""
    output = str(config.output)
    if output.lower().startswith("file:/"):
        return resolve_name(output)
    if found := re.fullmatch(r"([a-z][a-z0-9+.-]+):/([^/].*)", output):
        return f"{found[1]}://{found[2]}"
    return os.path.abspath(output)  # noqa: PTH100


def _print_plan(config: CaptionConfig, ignored: SkippedCounts) -> int:
    """Print what the run would do, and return the exit code."""
    from captioning.bulk.cluster.entries import count_images, divide

    entries = _list_entries(config, ignored, _collect_types(config))
    counts = [*map(count_images, divide(entries, config.cluster.partition_size))]
    images = sum(count or 0 for count in counts)
    more = "more than " if None in counts else ""
    total = f"{more}{format_count(images, 'image')}" if images else "the images of archives"
    files = format_count(len(counts), f"{config.format_name} file")
    print(f"Would write captions of {total} into {files} in {_output_url(config)}.")  # noqa: T201
    for notice in ignored.notices(complete=config.limit is None):
        print(notice)  # noqa: T201
    return 0
