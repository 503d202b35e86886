"""Copy a few sample images and a list of their sources into a folder.

The images are free to share. They are part of the packages scikit-image and scikit-learn. To
install these in a clone of the repository: pip install ".[samples]".

For example:

    captioning samples photos
    captioning samples ~/Pictures/samples
    captioning samples photos && captioning caption photos
"""

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from captioning.cli.progress import stderr_console
from captioning.errors import DataError, OutputError
from captioning.messages import explain_error


@dataclass(frozen=True)
class SamplesConfig:
    """Copy a few sample images and a list of their sources into a folder."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Output folder."""


@dataclass(frozen=True)
class Sample:
    """An image that is part of a Python package.

    Attributes:
        package: Import name of the package.
        file: Path of the image in the package.
        name: Name of the copy.
        source: Author and license.
    """

    package: str
    file: str
    name: str
    source: str


_DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
_TEMPLE = "danielbuechele, https://www.flickr.com/photos/danielbuechele/"
_FLOWER = "vultilion, https://www.flickr.com/photos/vultilion/"
_CC_BY = "CC BY 2.0, https://creativecommons.org/licenses/by/2.0/"
SAMPLES = tuple(
    Sample(package, file, name, source)
    for package, file, name, source in (
        (
            "skimage",
            "data/astronaut.png",
            "astronaut.png",
            "Eileen Collins, by NASA, public domain",
        ),
        ("skimage", "data/chelsea.png", "cat.png", "Chelsea the cat, by Stefan van der Walt, CC0"),
        ("skimage", "data/coffee.png", "coffee.png", "A cup of coffee, by Rachel Michetti, CC0"),
        ("skimage", "data/rocket.jpg", "rocket.jpg", "A launch, by SpaceX, public domain"),
        ("skimage", "data/camera.png", "cameraman.png", "A cameraman, by Lav Varshney, CC0"),
        ("sklearn", "datasets/images/china.jpg", "temple.jpg", f"A temple, by {_TEMPLE}, {_CC_BY}"),
        (
            "sklearn",
            "datasets/images/flower.jpg",
            "flower.jpg",
            f"A flower, by {_FLOWER}, {_CC_BY}",
        ),
    )
)


def run(config: SamplesConfig) -> int:
    """Copy the images, and return the exit code."""
    written = write_samples(config.folder)
    stderr_console().print(f"Copied {len(written)} images and SOURCES.txt to {config.folder}.")
    return 0


def write_samples(folder: Path) -> list[Path]:
    """Copy the images of the installed packages, and return the copies.

    Raises:
        DataError: None of the packages is installed.
        OutputError: The folder cannot be written.
    """
    available = [(sample, path) for sample in SAMPLES if (path := _find(sample)) is not None]
    if not available:
        names = " ".join(_DISTRIBUTIONS.values())
        raise DataError(f"the packages with sample images are missing. Run: pip install {names}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "SOURCES.txt").open("w", encoding="utf-8") as sources:
            for sample, path in available:
                shutil.copyfile(path, folder / sample.name)
                package = _DISTRIBUTIONS[sample.package]
                sources.write(f"{sample.name}: {sample.source}. From the package {package}.\n")
    except OSError as error:
        raise OutputError(
            f"cannot write to '{folder}': {explain_error(error)}. Use another folder."
        ) from error
    return [folder / sample.name for sample, _ in available]


def _find(sample: Sample) -> Path | None:
    spec = importlib.util.find_spec(sample.package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / sample.file
    return path if path.is_file() else None
