"""Copy a few sample images and a list of their sources into a folder.

The images are free to share. They are part of the packages scikit-image and scikit-learn:
pip install "captioning[samples]".
"""

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from captioning.cli.progress import stderr_console
from captioning.errors import DataError, OutputError


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
        source: Author and licence.
    """

    package: str
    file: str
    name: str
    source: str


_DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
_FLICKR = "https://www.flickr.com/photos"
_CC_BY = "CC BY 2.0, https://creativecommons.org/licenses/by/2.0/"
_SKIMAGE = (
    ("astronaut.png", "astronaut.png", "Eileen Collins, by NASA, in the public domain"),
    ("chelsea.png", "cat.png", "Chelsea the cat, by Stefan van der Walt, CC0"),
    ("coffee.png", "coffee.png", "A cup of coffee, by Rachel Michetti, CC0"),
    ("rocket.jpg", "rocket.jpg", "A launch, by SpaceX, in the public domain"),
    ("camera.png", "cameraman.png", "A cameraman, by Lav Varshney, CC0"),
)
_SKLEARN = (
    (
        "china.jpg",
        "temple.jpg",
        f"A temple in China, by danielbuechele, {_FLICKR}/danielbuechele/, {_CC_BY}",
    ),
    ("flower.jpg", "flower.jpg", f"A flower, by vultilion, {_FLICKR}/vultilion/, {_CC_BY}"),
)
SAMPLES = (
    *(Sample("skimage", f"data/{file}", name, source) for file, name, source in _SKIMAGE),
    *(
        Sample("sklearn", f"datasets/images/{file}", name, source)
        for file, name, source in _SKLEARN
    ),
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
        names = list(_DISTRIBUTIONS.values())
        raise DataError(
            f"The sample images are part of {' and '.join(names)}, which are not installed. "
            f"Install them: pip install {' '.join(names)}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for sample, path in available:
            shutil.copyfile(path, folder / sample.name)
        sources = "".join(
            f"{sample.name}: {sample.source}. From the package {_DISTRIBUTIONS[sample.package]}.\n"
            for sample, _ in available
        )
        (folder / "SOURCES.txt").write_text(sources, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error}. Give another folder.") from error
    return [folder / sample.name for sample, _ in available]


def _find(sample: Sample) -> Path | None:
    spec = importlib.util.find_spec(sample.package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / sample.file
    return path if path.is_file() else None
