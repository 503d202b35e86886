"""Draw where the model looked at each word it said.

    python scripts/draw_attention.py photo.jpg other.jpg -o attention.png

A row for each photo: the photo, then for each word of its caption the photo lit where attention
lay. The brightest place of each word is fully lit; its share of the attention stands below it.
"""

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from captioning import Captioner
from captioning.inference.attention_maps import attention_maps

SIDE = 180  # pixels of a drawn photo
DARK = 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--model", help="a model directory; the default model otherwise")
    parser.add_argument("-o", "--output", type=Path, default=Path("attention.png"))
    arguments = parser.parse_args()
    captioner = Captioner.from_pretrained(arguments.model)
    rows = []
    for path in arguments.photos:
        caption = captioner.caption(path).captions[0]
        maps = attention_maps(captioner, path, caption).numpy()
        seen = Image.fromarray(captioner.pixels(path).permute(1, 2, 0).numpy())
        rows.append((seen.resize((SIDE, SIDE)), caption.words, maps))
        print(f"{path.name}: {caption.text}")
    columns = 1 + max(len(words) for _, words, _ in rows)
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(1.1 * columns, 1.45 * len(rows)), squeeze=False
    )
    for line, (photo, words, maps) in zip(axes, rows, strict=True):
        for axis in line:
            axis.axis("off")
        pixels = np.asarray(photo) / 255
        line[0].imshow(pixels)
        for axis, word, weights in zip(line[1:], words, maps, strict=False):
            axis.imshow(pixels * lit(weights, photo.size)[..., None])
            axis.set_title(word, fontsize=9)
            axis.text(SIDE / 2, SIDE * 1.12, f"{weights.max():.0%}", ha="center", fontsize=7)
    figure.tight_layout(pad=0.3)
    figure.savefig(arguments.output, dpi=110)


def lit(weights: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return how bright each pixel is drawn: the map made as large as the photo, smoothly."""
    small = Image.fromarray((weights / weights.max()).astype(np.float32))
    return DARK + (1 - DARK) * np.clip(np.asarray(small.resize(size, Image.BICUBIC)), 0, 1)


if __name__ == "__main__":
    main()
