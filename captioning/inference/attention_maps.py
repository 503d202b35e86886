"""Attention maps: the weights of soft attention for each word of a caption."""

import torch
from jaxtyping import Float
from torch import Tensor

from captioning.errors import ConfigError
from captioning.images.image_inputs import ImageSource
from captioning.inference.captioner import Captioner
from captioning.inference.results import Caption
from captioning.inference.word_steps import trace_words


def attention_maps(
    captioner: Captioner, image: ImageSource, caption: Caption
) -> Float[Tensor, "T S S"]:
    """Return the attention weights over the image for each word of a caption.

    Xu et al. (2015), Show, Attend and Tell, figure 2. The decoder reads the words of the caption
    again. The grid covers the image as the encoder receives it, which by default is resized to a
    square without keeping its aspect ratio.

    Args:
        captioner: The captioner; an ensemble gives the maps of its first model.
        image: The image.
        caption: A caption in words of the model, such as ``captioner(image).captions[0]``.

    Returns:
        A square map for each word, top row first. Each map sums to one.

    Raises:
        ConfigError: The model has no attention, or the caption has no words or unknown words.
        ImageError: The image cannot be read.
    """
    if not captioner.checkpoint.model.decoder.config.uses_grid:
        raise ConfigError(
            "the model has no attention; its decoder receives one vector for the whole image. "
            "Train a model with --decoder.core attention."
        )
    if not caption.words:
        raise ConfigError("the caption has no words, so there are no maps. Use another caption.")
    steps = trace_words(captioner, image, caption.words, top=1)[:-1]
    return torch.stack([step.attention for step in steps if step.attention is not None])
