"""Draw docs/examples.jpg and docs/captions.png: free photos with captions of the default model.

python scripts/make_readme_image.py PHOTO...

examples.jpg shows the sample photos and the given ones, captions.png, for the README, six of them.
docs/examples.md names their sources.
"""

import argparse
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from captioning import Captioner, read_image
from captioning.cli.samples import write_samples

WIDTH, HEIGHT, TEXT_HEIGHT, GAP = 300, 225, 62, 14  # pixels
COLUMNS, EXAMPLE_COLUMNS = 3, 4
README_PHOTOS = ("scissors", "cat", "cameraman", "louvre", "coffee", "rocket")
DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=DOCS, help="directory of the images")
    parser.add_argument("photos", type=Path, nargs="*", help="more photos for examples.jpg")
    arguments = parser.parse_args()
    output: Path = arguments.output
    captioner = Captioner.from_pretrained()
    with tempfile.TemporaryDirectory() as folder:
        photos = [*write_samples(Path(folder)), *arguments.photos]
        texts = [result.text for result in captioner.caption_files(photos)]
        captions = dict(zip(photos, texts, strict=True))
        page = draw_page(captions, EXAMPLE_COLUMNS)
        named = {photo.stem: photo for photo in photos}
        chosen = [named[name] for name in README_PHOTOS]
        first = draw_page({photo: captions[photo] for photo in chosen}, COLUMNS)
    for photo, caption in captions.items():
        print(f"{photo.name}: {caption}")
    first.quantize(256).save(output / "captions.png", optimize=True)
    page.save(output / "examples.jpg", quality=85, optimize=True)


def draw_page(captions: Mapping[Path, str], columns: int) -> Image.Image:
    """Draw photos in rows, each with its caption."""
    rows = -(-len(captions) // columns)
    size = (columns * (WIDTH + GAP) + GAP, rows * (HEIGHT + TEXT_HEIGHT + GAP) + GAP)
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=18)
    for number, (photo, caption) in enumerate(captions.items()):
        left = GAP + number % columns * (WIDTH + GAP)
        top = GAP + number // columns * (HEIGHT + TEXT_HEIGHT + GAP)
        page.paste(ImageOps.fit(read_image(photo), (WIDTH, HEIGHT)), (left, top))
        lines = textwrap.wrap(caption, 34)[:2]
        draw.multiline_text((left, top + HEIGHT + 8), "\n".join(lines), fill="#222", font=font)
    return page


if __name__ == "__main__":
    main()
