"""Outputs of a model at each word of a caption: the next words, the attention, the concepts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from captioning.errors import ConfigError
from captioning.images.image_inputs import ImageSource
from captioning.inference.captioner import Captioner
from captioning.nn.concepts import concept_words
from captioning.nn.features import Features
from captioning.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class WordStep:
    """The state of the model before one word of a caption, and the word.

    Attributes:
        word: The word; empty for the end of the caption.
        probability: Its probability, given the image and the words before it.
        likely: The most probable next words with their probabilities, the largest first; an empty
            word stands for the end of the caption.
        attention: Attention weights over the image, top row first; None without attention.
    """

    word: str
    probability: float
    likely: tuple[tuple[str, float], ...]
    attention: Float[Tensor, "S S"] | None


@torch.inference_mode()
def encode_image(captioner: Captioner, image: ImageSource) -> Features:
    """Return the features of an image, from the first model of the captioner.

    Raises:
        ImageError: The image cannot be read.
    """
    pixels = captioner.read_pixels(image).unsqueeze(0)
    features: Features = captioner.checkpoint.model.encoder(pixels.to(captioner.device))
    return features


@torch.inference_mode()
def trace_words(
    captioner: Captioner, image: ImageSource | Features, words: tuple[str, ...], *, top: int = 10
) -> list[WordStep]:
    """Let the model read a caption, and return its outputs before each word.

    The grid of the attention covers the image as the encoder receives it, which by default is
    resized to a square without keeping its aspect ratio.

    Args:
        captioner: The captioner; an ensemble gives the steps of its first model.
        image: The image, or the result of :func:`encode_image`.
        words: The words of a caption.
        top: Number of probable next words.

    Returns:
        A step for each word, and one for the end of the caption.

    Raises:
        ConfigError: The model does not know a word.
        ImageError: The image cannot be read.
    """
    model, vocabulary = captioner.checkpoint.model, captioner.checkpoint.vocabulary
    check_words(words, vocabulary)
    features = image if isinstance(image, Features) else encode_image(captioner, image)
    state = model.decoder.start(features)
    tokens = [vocabulary.bos, *map(vocabulary.id, words), vocabulary.eos]
    steps = []
    for last, token, word in zip(tokens, tokens[1:], (*words, ""), strict=False):
        log_probs, state = model.decoder.step(torch.tensor([last], device=state.device), state)
        found = log_probs[0].exp().topk(min(top, log_probs.shape[1]))
        names = [
            "" if each == vocabulary.eos else vocabulary.words[each]
            for each in found.indices.tolist()
        ]
        likely = tuple(zip(names, found.values.tolist(), strict=True))
        weights = state.attention
        side = 0 if weights is None else math.isqrt(weights.shape[1])
        attention = None if weights is None else weights.reshape(side, side).cpu()
        steps.append(WordStep(word, float(log_probs[0, token].exp()), likely, attention))
    return steps


def check_words(words: Sequence[str], vocabulary: Vocabulary) -> None:
    """Check that a model can read a caption.

    Raises:
        ConfigError: The model does not know a word.
    """
    if unknown := [word for word in words if word not in vocabulary]:
        raise ConfigError(
            f"the model does not know the words {unknown[:5]}. Give a caption of this model."
        )


@torch.inference_mode()
def find_concepts(captioner: Captioner, image: ImageSource | Features) -> list[tuple[str, float]]:
    """Return the concepts that the CNN recognizes in an image, with their strengths.

    Args:
        captioner: The captioner; an ensemble gives the concepts of its first model.
        image: The image, or the result of :func:`encode_image`.

    Returns:
        The words, the strongest first; empty if the model has no concepts.

    Raises:
        ImageError: The image cannot be read.
    """
    model, vocabulary = captioner.checkpoint.model, captioner.checkpoint.vocabulary
    concepts = model.decoder.concepts
    if concepts is None:
        return []
    features = image if isinstance(image, Features) else encode_image(captioner, image)
    found = concept_words(concepts, concepts(features.vector)[0])
    return [(vocabulary.words[token], strength) for token, strength in found]
