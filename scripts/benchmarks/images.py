"""Folders of images to caption."""

import os
import shutil
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
_DRAWN = 20


def list_images(folder: Path | None, workspace: Path) -> list[Path]:
    """Return the images of a folder, or drawn JPEGs of 640 x 480 pixels if there is no folder."""
    if folder is None:
        return draw_images(workspace / "drawn")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
    if not found:
        raise SystemExit(f"benchmark: '{folder}' has no images. Use another --images.")
    return found


def draw_images(folder: Path) -> list[Path]:
    """Draw a few JPEGs."""
    folder.mkdir()
    paths = [folder / f"{number}.jpg" for number in range(_DRAWN)]
    for number, path in enumerate(paths):
        rng = np.random.default_rng(number)
        coarse = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
        image.save(path, quality=90)
    return paths


def make_folder(folder: Path, images: list[Path], count: int) -> list[Path]:
    """Fill a folder with ``count`` images: hard links to copies, each as often as necessary."""
    originals = folder.with_name(f"{folder.name} originals")
    folder.mkdir()
    originals.mkdir()
    copies = [Path(shutil.copy(path, originals / path.name)) for path in images[:count]]
    paths = []
    for number, copy in enumerate(islice(cycle(copies), count)):
        paths.append(folder / f"{number:06}{copy.suffix}")
        os.link(copy, paths[-1])
    return paths
