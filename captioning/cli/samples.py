"""Write a few sample photos into a folder, with their sources.

The photos are in the public domain or under a free licence, and travel inside the packages
scikit-image and scikit-learn: pip install "captioning[samples]".
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
    """Write a few sample photos into a folder, with their sources."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Where the photos go."""


@dataclass(frozen=True)
class Sample:
    """A photo inside a package.

    Attributes:
        package: The package that is imported.
        distribution: Its name for pip.
        file: Where the photo lies in it.
        name: What it is called here.
        source: Who made it, and under which terms.
    """

    package: str
    distribution: str
    file: str
    name: str
    source: str


_CC_BY = "CC BY 2.0, https://creativecommons.org/licenses/by/2.0/"
SAMPLES = (
    Sample(
        "skimage",
        "scikit-image",
        "data/astronaut.png",
        "astronaut.png",
        "Eileen Collins, by NASA, in the public domain",
    ),
    Sample(
        "skimage",
        "scikit-image",
        "data/chelsea.png",
        "cat.png",
        "Chelsea the cat, by Stefan van der Walt, CC0",
    ),
    Sample(
        "skimage",
        "scikit-image",
        "data/coffee.png",
        "coffee.png",
        "A cup of coffee, by Rachel Michetti, CC0",
    ),
    Sample(
        "skimage",
        "scikit-image",
        "data/rocket.jpg",
        "rocket.jpg",
        "A launch, by SpaceX, in the public domain",
    ),
    Sample(
        "skimage",
        "scikit-image",
        "data/camera.png",
        "cameraman.png",
        "A cameraman, by Lav Varshney, CC0",
    ),
    Sample(
        "sklearn",
        "scikit-learn",
        "datasets/images/china.jpg",
        "temple.jpg",
        f"A temple in China, by danielbuechele, https://www.flickr.com/photos/danielbuechele/, "
        f"{_CC_BY}",
    ),
    Sample(
        "sklearn",
        "scikit-learn",
        "datasets/images/flower.jpg",
        "flower.jpg",
        f"A flower, by vultilion, https://www.flickr.com/photos/vultilion/, {_CC_BY}",
    ),
)


def run(settings: SamplesConfig) -> int:
    """Copy the photos, and return the exit code."""
    written = write_samples(settings.folder)
    stderr_console().print(f"{len(written)} photos and SOURCES.txt are in {settings.folder}")
    return 0


def write_samples(folder: Path) -> list[Path]:
    """Copy the photos of the packages that are installed into ``folder``.

    Raises:
        DataError: None of the packages is installed.
        OutputError: The folder cannot be written.
    """
    found = [(sample, path) for sample in SAMPLES if (path := _path(sample)) is not None]
    if not found:
        names = sorted({sample.distribution for sample in SAMPLES})
        raise DataError(
            f"The sample photos travel inside {' and '.join(names)}, which are not installed. "
            f"Install them: pip install {' '.join(names)}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for sample, path in found:
            shutil.copyfile(path, folder / sample.name)
        sources = "".join(
            f"{sample.name}: {sample.source}. From the package {sample.distribution}.\n"
            for sample, _ in found
        )
        (folder / "SOURCES.txt").write_text(sources, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error}. Give another folder.") from error
    return [folder / sample.name for sample, _ in found]


def _path(sample: Sample) -> Path | None:
    spec = importlib.util.find_spec(sample.package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / sample.file
    return path if path.is_file() else None
