"""Occlusion maps: what hiding a part of the image changes for each word of a caption."""

from itertools import pairwise

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from captioning.errors import ConfigError
from captioning.images.image_inputs import ImageSource
from captioning.inference.captioner import Captioner
from captioning.inference.results import Caption
from captioning.inference.word_steps import check_words
from captioning.nn.model import CaptionModel

_BATCH_SIZE = 16


@torch.inference_mode()
def occlusion_maps(
    captioner: Captioner, image: ImageSource, caption: Caption, *, side: int = 7
) -> Float[Tensor, "T S S"]:
    """Return how much less probable each word is without a part of the image.

    Zeiler & Fergus (2014), Visualizing and understanding convolutional networks, section 4.2. A
    gray square covers one cell of a grid and half of each neighbor. The value of the cell for the
    word w_t is::

        log p(w_t | image, w_1 ... w_{t-1}) - log p(w_t | covered image, w_1 ... w_{t-1})

    The grid covers the image as the encoder receives it.

    Args:
        captioner: The captioner, with or without attention; of an ensemble, its first model.
        image: The image.
        caption: A caption in words of the model.
        side: S, cells per side of the grid (2 to 64).

    Returns:
        A square map for each word, top row first, in nats. A value below 0 means that the word is
        more probable without the cell.

    Raises:
        ConfigError: The caption has no words or unknown words, or ``side`` is out of range.
        ImageError: The image cannot be read.
    """
    if not 2 <= side <= 64:
        raise ConfigError(f"side is {side}; it must be from 2 to 64.")
    model, vocabulary = captioner.checkpoint.model, captioner.checkpoint.vocabulary
    check_words(caption.words, vocabulary)
    if not caption.words:
        raise ConfigError("the caption has no words, so there are no maps. Use another caption.")
    pixels = captioner.read_pixels(image)
    covered = _cover_cells(pixels, side, captioner.checkpoint.model.encoder.preprocessing.mean)
    images = torch.cat([pixels.unsqueeze(0), covered])
    tokens = torch.tensor([vocabulary.bos, *map(vocabulary.id, caption.words)])
    log_probs = torch.cat(
        [
            _score_words(model, batch.to(captioner.device), tokens.to(captioner.device)).cpu()
            for batch in images.split(_BATCH_SIZE)
        ]
    )
    return (log_probs[:1] - log_probs[1:]).T.unflatten(1, (side, side))


def _cover_cells(
    pixels: UInt8[Tensor, "3 S S"], side: int, mean: tuple[float, float, float]
) -> UInt8[Tensor, "N 3 S S"]:
    """Return a copy of the image for each cell of the grid, with the cell covered."""
    size = pixels.shape[1]
    gray = torch.tensor(mean).mul(255).round().clamp(0, 255).to(torch.uint8).view(3, 1, 1)
    edges = [
        (max(0, round((cell - 0.5) * size / side)), round((cell + 1.5) * size / side))
        for cell in range(side)
    ]
    copies = pixels.repeat(side * side, 1, 1, 1)
    for number, copy in enumerate(copies):
        (top, bottom), (left, right) = edges[number // side], edges[number % side]
        copy[:, top:bottom, left:right] = gray
    return copies


def _score_words(
    model: CaptionModel, pixels: UInt8[Tensor, "B 3 S S"], tokens: Int[Tensor, " T1"]
) -> Float[Tensor, "B T"]:
    """Return the log-probability of each word of one caption for each image."""
    state = model.start(pixels)
    scores = []
    for token, following in pairwise(tokens):
        log_probs, state = model.decoder.step(token.expand(len(pixels)), state)
        scores.append(log_probs[:, following])
    return torch.stack(scores, 1)
