"""The user's object: load a model, caption pictures and folders, write the results.

Each name is imported when it is first used: to list pictures and write results needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captioning.captioner.attention import attention_maps
    from captioning.captioner.captioner import DEFAULT_MODEL, Captioner
    from captioning.captioner.inputs import InputOptions, find_pictures
    from captioning.captioner.output import Writer
    from captioning.captioner.results import Caption, CaptionedPicture
    from captioning.captioner.writers import FORMATS, open_writer

_HOMES = {
    "DEFAULT_MODEL": "captioner",
    "FORMATS": "writers",
    "Caption": "results",
    "CaptionedPicture": "results",
    "Captioner": "captioner",
    "InputOptions": "inputs",
    "Writer": "output",
    "attention_maps": "attention",
    "find_pictures": "inputs",
    "open_writer": "writers",
}

__all__ = [
    "DEFAULT_MODEL",
    "FORMATS",
    "Caption",
    "CaptionedPicture",
    "Captioner",
    "InputOptions",
    "Writer",
    "attention_maps",
    "find_pictures",
    "open_writer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'captioning.captioner' has no attribute {name!r}")
    return getattr(importlib.import_module(f"captioning.captioner.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
