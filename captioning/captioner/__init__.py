"""The user's object: load a model, caption pictures and folders, write the results."""

from captioning.captioner.captioner import DEFAULT_MODEL, Captioner
from captioning.captioner.paths import PictureList, find_pictures
from captioning.captioner.results import Caption, CaptionedPicture
from captioning.captioner.writers import FORMATS, Writer, open_writer

__all__ = [
    "DEFAULT_MODEL",
    "FORMATS",
    "Caption",
    "CaptionedPicture",
    "Captioner",
    "PictureList",
    "Writer",
    "find_pictures",
    "open_writer",
]
