"""Caption photos with a CNN and a recurrent decoder: train on COCO-style data, search, score.

The names below are the public ones; each is imported when it is first used, so that
``import captioning`` costs nothing.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captioning.checkpoint.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from captioning.datasets import read_captions
    from captioning.decoding import BeamSearch, DiverseBeamSearch, Greedy, Sampling
    from captioning.errors import CaptioningError
    from captioning.images.decode import read_image
    from captioning.inference.captioner import Captioner
    from captioning.inference.results import Caption
    from captioning.metrics import Scores, compare, score
    from captioning.text.tokenizer import tokenize
    from captioning.text.vocabulary import Vocabulary

_HOMES = {
    "BeamSearch": "decoding",
    "Caption": "inference.results",
    "Captioner": "inference.captioner",
    "CaptioningError": "errors",
    "Checkpoint": "checkpoint.checkpoint",
    "DiverseBeamSearch": "decoding",
    "Greedy": "decoding",
    "Sampling": "decoding",
    "Scores": "metrics",
    "Vocabulary": "text.vocabulary",
    "compare": "metrics",
    "load_checkpoint": "checkpoint.checkpoint",
    "read_captions": "datasets",
    "read_image": "images.decode",
    "save_checkpoint": "checkpoint.checkpoint",
    "score": "metrics",
    "tokenize": "text.tokenizer",
}

__all__ = [
    "BeamSearch",
    "Caption",
    "Captioner",
    "CaptioningError",
    "Checkpoint",
    "DiverseBeamSearch",
    "Greedy",
    "Sampling",
    "Scores",
    "Vocabulary",
    "compare",
    "load_checkpoint",
    "read_captions",
    "read_image",
    "save_checkpoint",
    "score",
    "tokenize",
]

try:
    __version__ = version("captioning")
except PackageNotFoundError:  # run from a checkout that was not installed
    __version__ = "0.0.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'captioning' has no attribute {name!r}")
    return getattr(importlib.import_module(f"captioning.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
