"""Draw docs/captions.png: the sample photos with captions of the default model.

python scripts/make_readme_image.py
"""

import argparse
import tempfile
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from captioning import Captioner, read_image
from captioning.cli.samples import write_samples

WIDTH, HEIGHT, TEXT_HEIGHT, GAP = 300, 225, 62, 14  # pixels
COLUMNS = 3
OUTPUT = Path(__file__).parents[1] / "docs" / "captions.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT, help="PNG file")
    output: Path = parser.parse_args().output
    captioner = Captioner.from_pretrained()
    with tempfile.TemporaryDirectory() as folder:
        photos = write_samples(Path(folder))[:6]
        captions = [result.text for result in captioner.caption_files(photos)]
        images = [ImageOps.fit(read_image(photo), (WIDTH, HEIGHT)) for photo in photos]
    rows = -(-len(photos) // COLUMNS)
    size = (COLUMNS * (WIDTH + GAP) + GAP, rows * (HEIGHT + TEXT_HEIGHT + GAP) + GAP)
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=18)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left = GAP + number % COLUMNS * (WIDTH + GAP)
        top = GAP + number // COLUMNS * (HEIGHT + TEXT_HEIGHT + GAP)
        page.paste(image, (left, top))
        lines = textwrap.wrap(caption, 34)[:2]
        draw.multiline_text((left, top + HEIGHT + 8), "\n".join(lines), fill="#222", font=font)
        print(f"{photos[number].name}: {caption}")
    page.quantize(256).save(output, optimize=True)


if __name__ == "__main__":
    main()
