"""Images drawn by number."""

import numpy as np
from PIL import Image


def draw(number, size=(96, 72)):
    """An image unlike those of other numbers: coarse noise in its own colours."""
    chance = np.random.default_rng(number)
    coarse = chance.integers(0, 256, (3, 4, 3)) * chance.random(3)
    return Image.fromarray(coarse.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
