"""Explanation of a caption: attention, probable words, and other captions of the search."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from captioning.decoding import BeamSearch, Sampling, SearchMethod
from captioning.decoding.constraints import TokenConstraints
from captioning.decoding.hypothesis import Hypothesis, SearchState, Step
from captioning.decoding.search import search as run_search
from captioning.images.image_inputs import ImageSource
from captioning.inference.captioner import Captioner
from captioning.inference.display import name_source
from captioning.inference.generation import image_keys, make_caption
from captioning.inference.image_batches import load_image
from captioning.inference.occlusion_maps import occlusion_maps
from captioning.inference.results import Caption
from captioning.inference.word_steps import (
    WordStep,
    encode_image,
    find_concepts,
    trace_words,
)
from captioning.nn.features import Features
from captioning.short_repr import ShortRepr
from captioning.text.vocabulary import Vocabulary

_IMAGE_SIDE = 640  # pixels of the longer side
_WORDS_SHOWN = 8


@dataclass(frozen=True)
class FoundCaption:
    """A caption that the search found.

    Attributes:
        words: Its words.
        score: Value by which the search ranks captions.
        finished: Whether the model ended it; False if it was cut off.
    """

    words: tuple[str, ...]
    score: float
    finished: bool


@dataclass(frozen=True, repr=False)
class Explanation(ShortRepr):
    """What a model did with an image.

    Attributes:
        source: Path or name of the image.
        image: The part of the image that the encoder sees.
        caption: The caption.
        map_kind: What the maps are.
        maps: A map over the image for each word: :func:`captioning.attention_maps` if the model has
            attention, otherwise :func:`captioning.occlusion_maps`.
        steps: The most probable words at each position of the caption, and after its last word.
        found: The captions that the search found, best first.
        beam: Log-probability of every beginning of a caption that the search kept.
        concepts: Words that the CNN recognizes, with their strengths; empty without concepts.
    """

    source: str
    image: UInt8[np.ndarray, "height width 3"]
    caption: Caption
    map_kind: Literal["attention", "occlusion"]
    maps: Float[np.ndarray, "T S S"]
    steps: tuple[WordStep, ...]
    found: tuple[FoundCaption, ...]
    beam: Mapping[tuple[str, ...], float]
    concepts: tuple[tuple[str, float], ...] = ()


@torch.inference_mode()
def explain(
    captioner: Captioner, image: ImageSource, *, search: SearchMethod | None = None
) -> Explanation:
    """Caption an image, and return what led to the caption.

    The model runs in torch and float32, also if the captioner has another backend. Of an ensemble,
    the first model is explained. Consensus reranking is not used.

    Args:
        captioner: The captioner.
        image: The image, as for :meth:`Captioner.caption`.
        search: The search; None for the model's default.

    Raises:
        ImageError: The image cannot be read.
        ConfigError: The model does not support the search.
    """
    checkpoint = captioner.checkpoint
    vocabulary = checkpoint.vocabulary
    method = checkpoint.search if search is None else search
    captioner.check_search(method)
    loaded = load_image(image, captioner.generator.preprocessing)
    pixels = captioner.read_pixels(loaded)
    features = encode_image(captioner, pixels)
    beam = _Beam(vocabulary)
    found = _search(captioner, features, pixels, method, beam)
    caption = make_caption(found[0], vocabulary)
    steps = trace_words(captioner, features, caption.words, top=_WORDS_SHOWN)
    attention = [step.attention for step in steps[:-1] if step.attention is not None]
    maps = torch.stack(attention) if attention else occlusion_maps(captioner, loaded, caption)
    return Explanation(
        source=name_source(image, "image"),
        image=_show(loaded, pixels, captioner.generator.preprocessing.fit),
        caption=caption,
        map_kind="attention" if attention else "occlusion",
        maps=maps.numpy(),
        steps=tuple(steps),
        found=tuple(
            FoundCaption(tuple(vocabulary.decode(each.tokens)), each.score, each.finished)
            for each in found
        ),
        beam=beam.log_probs,
        concepts=tuple(find_concepts(captioner, features)),
    )


def _search(
    captioner: Captioner,
    features: Features,
    pixels: UInt8[Tensor, "3 S S"],
    method: SearchMethod,
    beam: "_Beam",
) -> list[Hypothesis]:
    """Return all hypotheses of a search, best first, and keep its beam."""
    checkpoint = captioner.checkpoint
    decoder = checkpoint.model.decoder
    whole = replace(method, n=method.width) if isinstance(method, BeamSearch) else method
    (found,) = run_search(
        beam.follow(decoder.step),
        _BeamState(decoder.start(features), ((),)),
        whole,
        TokenConstraints.resolve(method, checkpoint.vocabulary),
        generator=torch.Generator().manual_seed(captioner.seed),
        keys=image_keys(pixels.unsqueeze(0)) if isinstance(method, Sampling) else None,
        rerank=None
        if checkpoint.reranker is None
        else checkpoint.reranker.prepare(features.vector),
    )
    return found


def _show(
    loaded: Image.Image, pixels: UInt8[Tensor, "3 S S"], fit: str
) -> UInt8[np.ndarray, "height width 3"]:
    """Return what the encoder sees, in the image's own aspect ratio."""
    shown = loaded.copy() if fit == "squeeze" else Image.fromarray(pixels.permute(1, 2, 0).numpy())
    shown.thumbnail((_IMAGE_SIDE, _IMAGE_SIDE), Image.Resampling.BICUBIC)
    return np.asarray(shown)


# --- the beam -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _BeamState:
    """State of a decoder, and the words that each row has read."""

    state: Any
    prefixes: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.state)

    @property
    def device(self) -> torch.device:
        return self.state.device

    def select(
        self, rows: Int[Tensor, " M"], images: Int[Tensor, " K"] | None = None
    ) -> "_BeamState":
        prefixes = tuple(self.prefixes[row] for row in rows.tolist())
        return _BeamState(self.state.select(rows, images), prefixes)


class _Beam:
    """Collects the beginnings of captions that a search keeps, with their log-probabilities."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.log_probs: dict[tuple[str, ...], float] = {(): 0.0}
        self._vocabulary = vocabulary
        self._next: dict[tuple[str, ...], Tensor] = {}

    def follow(self, step: Step) -> Step:
        """Return a step function that notes which words each row reads."""

        def run(tokens: Tensor, state: SearchState) -> tuple[Tensor, SearchState]:
            assert isinstance(state, _BeamState)
            log_probs, inner = step(tokens, state.state)
            pairs = zip(state.prefixes, tokens.tolist(), strict=True)
            prefixes = tuple(self._extend(prefix, token) for prefix, token in pairs)
            self._next = dict(zip(prefixes, log_probs, strict=True))
            return log_probs, _BeamState(inner, prefixes)

        return run

    def _extend(self, prefix: tuple[str, ...], token: int) -> tuple[str, ...]:
        if token in (self._vocabulary.bos, self._vocabulary.eos):  # <eos>: a sample that has ended
            return prefix
        longer = (*prefix, self._vocabulary.words[token])
        self.log_probs[longer] = self.log_probs[prefix] + float(self._next[prefix][token])
        return longer
