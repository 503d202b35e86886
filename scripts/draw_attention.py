"""Draw the attention of the model at each word of a caption.

    python scripts/draw_attention.py photo.jpg other.jpg -o attention.png

One row per image: the image, then for each word of its caption the image with the attention as
brightness. The cell with the most attention is at full brightness; its weight is printed below.
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

SIDE = 180  # pixels
MIN_BRIGHTNESS = 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path, help="image files")
    parser.add_argument("--model", help="model directory; without it, the default model")
    parser.add_argument("-o", "--output", type=Path, default=Path("attention.png"), help="PNG file")
    arguments = parser.parse_args()
    captioner = Captioner.from_pretrained(arguments.model)
    rows = []
    for path in arguments.images:
        caption = captioner.caption(path).captions[0]
        maps = attention_maps(captioner, path, caption).numpy()
        input_image = Image.fromarray(captioner.read_pixels(path).permute(1, 2, 0).numpy())
        rows.append((input_image.resize((SIDE, SIDE)), caption.words, maps))
        print(f"{path.name}: {caption.text}")
    columns = 1 + max(len(words) for _, words, _ in rows)
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(1.1 * columns, 1.45 * len(rows)), squeeze=False
    )
    for row_axes, (image, words, maps) in zip(axes, rows, strict=True):
        for axis in row_axes:
            axis.axis("off")
        pixels = np.asarray(image) / 255
        row_axes[0].imshow(pixels)
        for axis, word, weights in zip(row_axes[1:], words, maps, strict=False):
            axis.imshow(pixels * brightness(weights, image.size)[..., None])
            axis.set_title(word, fontsize=9)
            axis.text(SIDE / 2, SIDE * 1.12, f"{weights.max():.0%}", ha="center", fontsize=7)
    figure.tight_layout(pad=0.3)
    figure.savefig(arguments.output, dpi=110)


def brightness(weights: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the attention weights as a brightness per pixel, interpolated to the image size."""
    small = Image.fromarray((weights / weights.max()).astype(np.float32))
    return MIN_BRIGHTNESS + (1 - MIN_BRIGHTNESS) * np.clip(
        np.asarray(small.resize(size, Image.BICUBIC)), 0, 1
    )


if __name__ == "__main__":
    main()
