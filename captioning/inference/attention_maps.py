"""Attention maps: the weights of soft attention for each word of a caption."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from captioning.errors import ConfigError
from captioning.images.image_inputs import ImageSource
from captioning.inference.captioner import Captioner
from captioning.inference.results import Caption


@torch.inference_mode()
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
    model, vocabulary = captioner.checkpoint.model, captioner.checkpoint.vocabulary
    if not model.decoder.config.uses_grid:
        raise ConfigError(
            "the model has no attention; its decoder receives one vector for the whole image. "
            "Train a model with --decoder.core attention."
        )
    if not caption.words:
        raise ConfigError("the caption has no words, so there are no maps. Use another caption.")
    if unknown := [word for word in caption.words if word not in vocabulary]:
        raise ConfigError(
            f"the model does not know the words {unknown[:5]}. Give a caption of this model."
        )
    state = model.start(captioner.read_pixels(image).unsqueeze(0).to(captioner.device))
    maps = []
    for token in (vocabulary.bos, *map(vocabulary.id, caption.words[:-1])):
        _, state = model.decoder.step(torch.tensor([token], device=state.device), state)
        assert state.attention is not None
        side = math.isqrt(state.attention.shape[1])
        maps.append(state.attention.reshape(side, side).cpu())
    return torch.stack(maps)
