"""Words and pictures: vocabulary, tokenizer, image reading, preprocessing, caption readers.

Each name is imported when it is first used: reading captions needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captioning.data.images import read_image
    from captioning.data.preprocessing import Preprocessing
    from captioning.data.readers import CaptionedImage, CaptionSplit, Problems, read_captions
    from captioning.data.tokenizer import tokenize
    from captioning.data.vocabulary import Vocabulary, join_words

_HOMES = {
    "CaptionSplit": "readers",
    "CaptionedImage": "readers",
    "Preprocessing": "preprocessing",
    "Problems": "readers",
    "Vocabulary": "vocabulary",
    "join_words": "vocabulary",
    "read_captions": "readers",
    "read_image": "images",
    "tokenize": "tokenizer",
}

__all__ = [
    "CaptionSplit",
    "CaptionedImage",
    "Preprocessing",
    "Problems",
    "Vocabulary",
    "join_words",
    "read_captions",
    "read_image",
    "tokenize",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'captioning.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"captioning.data.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
