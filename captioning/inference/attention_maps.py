"""Where a model looked, word by word."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from captioning.errors import ConfigError
from captioning.images.decode import ImageSource
from captioning.inference.captioner import Captioner
from captioning.inference.results import Caption


@torch.inference_mode()
def attention_maps(
    captioner: Captioner, image: ImageSource, caption: Caption
) -> Float[Tensor, "T S S"]:
    """Return the weights of soft attention over the grid with which each word was chosen.

    Xu et al. (2015), figure 2. The grid covers the image as the model sees it: squeezed to a
    square unless its preprocessing says otherwise.

    Args:
        captioner: Its first model, where it has several.
        image: The image.
        caption: One of the model's captions of it; its words are read again.

    Returns:
        For each word of the caption a square map that sums to one, top row first.

    Raises:
        ConfigError: The model has no attention, or does not know a word of the caption.
        ImageError: The image cannot be read.
    """
    model, vocabulary = captioner.checkpoint.model, captioner.checkpoint.vocabulary
    if not model.decoder.config.attention:
        raise ConfigError(
            "This model has no attention: it sees one vector for the whole image. Train one with "
            "--decoder.attention."
        )
    if not caption.words:
        raise ConfigError("This caption has no word, so there is nothing to look at.")
    if unknown := [word for word in caption.words if word not in vocabulary]:
        raise ConfigError(f"This model does not know {unknown[:5]}; the caption is not its own.")
    state = model.start(captioner.pixels(image).unsqueeze(0).to(captioner.device))
    maps = []
    before = [vocabulary.bos, *map(vocabulary.id, caption.words[:-1])]
    for word in before:
        _, state = model.decoder.step(torch.tensor([word], device=state.device), state)
        assert state.attention is not None
        side = math.isqrt(state.attention.shape[1])
        maps.append(state.attention.reshape(side, side).cpu())
    return torch.stack(maps)
