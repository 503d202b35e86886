"""Load captioned image folders with several versions of Hugging Face `datasets`.

The script captions folders into metadata.jsonl, metadata.csv and metadata.parquet. Each version
loads them as an `imagefolder`, in an environment of its own. It needs a network.

    python scripts/check_datasets_versions.py --versions 2.21 3.6 4.8 5.2
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image

FORMATS = ("jsonl", "csv", "parquet")
IMAGE_NAMES = (
    *("a b.jpg", "日本.png", "x#1.webp", "50%25.jpg", "-o.jpg", "=1.jpg", "'q'.gif", "@.bmp"),
    *("new\nline.jpg", "sub/deep/c.tif"),
)
OLDER_PACKAGES = {
    "2.21": ["pyarrow<21", "pandas<3"],
    "3.3": ["pandas<3"],
    "3.6": ["pandas<3"],
}
"""Packages whose later versions do not work with a version of `datasets`."""
LOAD = """
import json, sys
from datasets import Image, load_dataset
for folder in sys.argv[1:]:
    try:
        data = load_dataset("imagefolder", data_dir=folder, split="train")
        assert isinstance(data.features["image"], Image), data.features
        rows = [{**row, "image": row["image"].width} for row in data]
        print(json.dumps(rows))
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error.__cause__ or error}"))
"""
"""Program that prints the rows of each folder, with the width of the image, or an error."""


def draw_images(folder: Path) -> dict[int, Path]:
    """Draw an image under each name, each of its own width, and return them by width."""
    images = {}
    for number, name in enumerate(IMAGE_NAMES):
        width = 40 + number
        images[width] = folder / name
        images[width].parent.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").rotate(30 * number).resize((width, 40)).save(images[width])
    return images


def caption_folders(home: Path, caption: Callable[..., object]) -> dict[str, Path]:
    """Caption a folder into each format, with and without a failed image and with three captions.

    Args:
        home: Directory for the folders.
        caption: Runs `captioning caption` with its arguments.

    Returns:
        The folders by what is in them.
    """
    folders = {}
    for format_name in FORMATS:
        for kind, flags in {"plain": [], "failed image": [], "--n 3": ["--n", "3"]}.items():
            folder = home / f"{format_name} {kind}"
            draw_images(folder)
            if kind == "failed image":
                (folder / "broken.jpg").write_bytes(b"")
            output = folder / f"metadata.{format_name}"
            caption(folder, "--recursive", "-o", output, *flags)
            assert output.is_file(), f"captioning {folder} failed"
            folders[f"{format_name}, {kind}"] = folder
    return folders


def load_folders(python: str, folders: Iterable[Path], cache: Path) -> list[list[dict] | str]:
    """Return the rows of each folder as an interpreter with `datasets` loads them, or its error."""
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [python, "-c", LOAD, *map(str, folders)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def make_environment(home: Path, version: str) -> str:
    """Install a version of `datasets` and return the interpreter of its environment."""
    packages = [f"datasets=={version}.*", "pillow", *OLDER_PACKAGES.get(version, [])]
    python = str(home / "bin" / "python")
    if shutil.which("uv"):
        subprocess.run(["uv", "venv", "-q", str(home)], check=True)
        install = ["uv", "pip", "install", "-q", "--python", python]
    else:
        venv.create(home, with_pip=True)
        install = [python, "-m", "pip", "install", "-q"]
    subprocess.run([*install, *packages], check=True)
    return python


def describe(rows: list[dict] | str) -> str:
    """Return "ok" if all images are there with a caption, or the problem."""
    if isinstance(rows, str):
        return rows.splitlines()[0][:100]
    widths = sorted(row["image"] for row in rows)
    complete = widths == list(range(40, 40 + len(IMAGE_NAMES)))
    return "ok" if complete and all(row.get("text") for row in rows) else f"{len(rows)} rows"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="model directory (default: the packaged model)")
    parser.add_argument("--versions", nargs="+", default=["2.21", "3.6", "4.8", "5.2"])
    options = parser.parse_args()

    def caption(*words: object) -> None:
        model = ["--model", options.model] if options.model else []
        command = [sys.executable, "-m", "captioning", "caption", *map(str, words), *model]
        subprocess.run(command, stderr=subprocess.DEVNULL, check=False)  # failed images: code 1

    failed = 0
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        folders = caption_folders(home / "folders", caption)
        for version in options.versions:
            python = make_environment(home / version, version)
            for kind, rows in zip(
                folders,
                load_folders(python, folders.values(), home / f"cache {version}"),
                strict=True,
            ):
                print(f"datasets {version}, {kind}: {describe(rows)}", flush=True)
                failed += describe(rows) != "ok"
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
