"""Put the shares of a run together: what `captioning caption --shard 1/8` to `8/8` have written.

The rows come in the order in which one run without shares would have written them. Every share has
to be there and complete; its journal, the hidden file beside it, says so.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from captioning.bulk.journal import as_written_now, journal_of, read_facts
from captioning.bulk.partition import merge_shares
from captioning.bulk.writers.base import part_of, refuse_foreign
from captioning.bulk.writers.formats import ENDINGS, open_writer
from captioning.cli.caption_settings import OutputFile
from captioning.cli.progress import talk
from captioning.errors import ConfigError, OutputError
from captioning.files import resolve_link
from captioning.messages import format_count


@dataclass(frozen=True)
class MergeConfig:
    """Put the shares of a run together."""

    shares: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="SHARE ...", help_behavior_hint=""),
    ] = ()
    """The JSON lines of all shares, in any order."""
    output: OutputFile = None
    """Where the rows go."""
    overwrite: bool = False
    """Replace -o if it is there."""
    format: Literal["auto", "jsonl", "csv", "coco", "parquet"] = "auto"
    """auto goes by the ending of -o."""


def run(settings: MergeConfig) -> int:
    """Merge, and return the exit code."""
    shares = _in_order(settings.shares)
    if settings.output is not None and settings.output.resolve() in {
        path.resolve() for path in shares
    }:
        raise ConfigError(f"-o {settings.output} is one of the shares. Give another -o.")
    if settings.output is not None and settings.output.is_file():
        refuse_foreign(settings.output)
        if not settings.overwrite:
            raise ConfigError(
                f"{settings.output} exists. Give --overwrite to replace it, or another -o."
            )
    output = None if settings.output is None else resolve_link(settings.output)
    places = [] if output is None else [output, part_of(output)]
    fresh = [path for path in places if not path.exists()]
    try:
        with open_writer(_format(settings), settings.output) as writer:
            count = merge_shares(shares, writer)
    except BaseException:
        for path in fresh:  # a part would pass for the whole
            with suppress(OSError):
                path.unlink()
        raise
    talk().print(f"{format_count(count, 'row')} of {format_count(len(shares), 'share')}.")
    return 0


def _format(settings: MergeConfig) -> str:
    if settings.format != "auto":
        return settings.format
    if settings.output is None:
        return "jsonl"
    found = ENDINGS.get(settings.output.suffix.lower(), "jsonl")
    if found == "html":
        raise ConfigError(
            f"-o {settings.output} asks for a page, and shares hold rows without images. Give an "
            "-o that ends in .jsonl, .csv, .json or .parquet; or `captioning caption` all images "
            "in one run for a page."
        )
    return found


def _in_order(paths: tuple[Path, ...]) -> list[Path]:
    """Return the shares from the first to the last, all of one run and each of them complete."""
    if not paths:
        raise ConfigError(
            "No share was named. For example: captioning merge part-*.jsonl -o all.csv"
        )
    found: dict[int, Path] = {}
    runs: dict[str, Path] = {}
    for path in map(resolve_link, paths):  # where a link leads, the journal and the images are
        if not path.exists():
            raise ConfigError(f"{path} does not exist. Check the path.")
        facts = read_facts(journal_of(path))
        number, count = _place(path, facts)
        if not _is_json_lines(path):
            raise ConfigError(
                f"{path} holds no JSON lines, and shares are merged from JSON lines. Run the "
                "command of each share again with an -o that ends in .jsonl; merging makes the "
                "CSV or another table of them."
            )
        if count != len(paths):
            raise ConfigError(
                f"{path} is share {number} of {count}, and the command names "
                f"{format_count(len(paths), 'share')}. Name each of them once."
            )
        if number in found:
            raise ConfigError(f"{path} and {found[number]} are both share {number} of {count}.")
        if facts.get("finished") is None:
            raise OutputError(f"{path} is not complete. Run its command again to go on with it.")
        found[number] = path
        runs.setdefault(
            str([{**as_written_now(facts["settings"]), "shard": None}, facts.get("inputs")]), path
        )
    if len(runs) > 1:
        one, other = list(runs.values())[:2]
        raise ConfigError(
            f"{one} and {other} were made with different models, settings or inputs. Give all "
            "shares the same command but for --shard and -o."
        )
    return [found[number] for number in sorted(found)]


def _is_json_lines(path: Path) -> bool:
    """Return whether a file begins with an object, or is empty, as a share without photos is."""
    try:
        with path.open("rb") as file:
            return file.read(1) in (b"", b"{")
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error}. Check the path.") from error


def _place(path: Path, facts: dict[str, Any]) -> tuple[int, int]:
    shard = facts.get("settings", {}).get("shard")
    if not shard:
        raise ConfigError(
            f"{path} is no share of a run: it has no journal of `captioning caption --shard`."
        )
    number, count = str(shard).split("/")
    return int(number), int(count)
