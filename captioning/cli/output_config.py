"""The output flags that commands share."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from captioning.bulk.rows import Existing
from captioning.bulk.writers.registry import FORMAT_BY_SUFFIX, writes_per_image
from captioning.cli.progress import stderr_console
from captioning.errors import ConfigError

OutputFile = Annotated[
    Path | None,
    tyro.conf.arg(metavar="FILE", aliases=["-o"]),
]
"""A flag that names the output of a command."""
FileFormat = Literal["text", "jsonl", "csv", "coco", "parquet", "html"]
ImageFormat = Literal["txt", "caption", "xmp", "embed"]
_IMAGE_FORMAT_SUFFIXES = (".txt", ".caption", ".xmp")


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """The output of ``captioning caption`` and ``captioning convert``."""

    output: OutputFile = None
    """Output file, or output folder for txt, caption, xmp, and embed. In the folder, the files have
    the paths of the images: with -o out, photos/a/1.jpg gets out/photos/a/1.txt (default: standard
    output, or next to each image)."""
    format: Literal["auto", FileFormat, ImageFormat] = "auto"
    """Output format. auto: from the file extension of -o; without -o, text in a terminal and jsonl
    otherwise. One output for all images: text (lines to read in a terminal; txt, below, writes
    files), jsonl, csv, coco, parquet, html. One file per image: txt (photo.txt), caption
    (photo.caption, with the same content as photo.txt), xmp (photo.xmp). Inside each image file:
    embed."""
    best: bool = False
    """Keep only the best caption of each image."""
    overwrite: bool = False
    """Replace an existing output."""
    append: bool = False
    """For txt, caption, xmp and embed: add to the captions that an image has. Without --append and
    --overwrite, images with captions are skipped."""
    keep_time: bool = False
    """Keep the modification time of the images, with --format embed."""

    @property
    def format_name(self) -> str:
        """The output format, derived from -o if it is ``auto``.

        Raises:
            ConfigError: The file extension of -o is unknown.
        """
        if self.format != "auto":
            return self.format
        if self.output is None:
            return "text" if sys.stdout is not None and sys.stdout.isatty() else "jsonl"
        return _format_of(self.output)

    @property
    def per_image(self) -> bool:
        """Whether each image gets an output of its own."""
        return writes_per_image(self.format_name)

    @property
    def existing(self) -> Existing:
        """What happens to images that have captions already."""
        if self.append:
            return "append"
        return "replace" if self.overwrite else "keep"

    def check_output(self) -> None:
        """Check the output flags in combination.

        Raises:
            ConfigError: Two flags cannot be used together, or the format does not have one of them.
        """
        output = self.output
        if output is not None and self.per_image and not output.is_dir():  # it would be created
            _check_folder_name(output, self.format_name)
        if self.overwrite and self.append:
            raise ConfigError(
                "--overwrite and --append cannot be used together. Use only one of them."
            )
        if self.append and not self.per_image:
            raise ConfigError(
                "--append needs one output per image (txt, caption, xmp, embed), not "
                f"{self.format_name}."
            )
        if self.keep_time and self.format_name != "embed":
            raise ConfigError("--keep-time needs --format embed. Add it, or remove --keep-time.")


def report_unused_overwrite(output: Path | None, *, overwrite: bool) -> None:
    """Print that --overwrite has no effect on standard output, if it was given for that."""
    if overwrite and output is None:
        stderr_console().print("--overwrite has no effect on standard output.")


def _format_of(output: Path) -> str:
    """Return the format of an output file by its extension.

    Raises:
        ConfigError: The extension is unknown, or the path is a folder.
    """
    suffix = output.suffix.lower()
    if suffix in FORMAT_BY_SUFFIX:
        return FORMAT_BY_SUFFIX[suffix]
    if output.is_dir():
        raise ConfigError(
            f"-o {output} is a folder. Use a file, such as {output / 'captions.jsonl'}, or a "
            f"--format that writes one file per image: {', '.join(get_args(ImageFormat))}."
        )
    if suffix in _IMAGE_FORMAT_SUFFIXES:
        _check_folder_name(output, suffix[1:])
    raise ConfigError(
        f"cannot derive the format of '{output}' from its file extension. Use --format, or use "
        f"one of {', '.join(FORMAT_BY_SUFFIX)}."
    )


def _check_folder_name(output: Path, format_name: str) -> None:
    if output.suffix.lower() not in (*_IMAGE_FORMAT_SUFFIXES, *FORMAT_BY_SUFFIX):
        return
    file = output if output.suffix.lower() in FORMAT_BY_SUFFIX else output.with_suffix(".jsonl")
    raise ConfigError(
        f"-o {output} is named like a file, but --format {format_name} writes one file per image "
        f"into a folder. Use a folder. To write all captions into one file, use -o {file} without "
        "--format."
    )
