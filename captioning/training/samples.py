"""Captions of a few validation images after each epoch, with the images."""

import base64
import io
import re
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from captioning.errors import CaptioningError
from captioning.files import write_atomic
from captioning.images.decode import read_image
from captioning.images.resizing import make_thumbnail
from captioning.training.data import EncodedSplit

_COUNT, _SIDE = 6, 224  # images, and pixels of their longer side
_LINE, _LINE_HEIGHT, _LINES = 34, 14, 4  # characters, pixels, and lines of text below an image
_HEAD = (
    '<!doctype html><meta charset="utf-8"><title>Sample captions</title>'
    "<style>body{font-family:sans-serif}figure{display:inline-block;vertical-align:top;width:14em;"
    "margin:.5em}img{max-width:100%}small{color:#666}</style>"
)


@dataclass(frozen=True)
class Sample:
    """An image with the model's caption.

    Attributes:
        name: Name of the image.
        caption: The caption.
        reference: One of the reference captions.
        thumbnail: A small JPEG; empty if there is no image file, as with external features.
    """

    name: str
    caption: str
    reference: str
    thumbnail: bytes

    def draw(self) -> UInt8[np.ndarray, "h w 3"]:
        """Return the image with the caption below it."""
        image = Image.open(io.BytesIO(self.thumbnail)).convert("RGB")
        page = Image.new("RGB", (_SIDE, image.height + _LINES * _LINE_HEIGHT), "white")
        page.paste(image)
        text = "\n".join(textwrap.wrap(self.caption, _LINE)[:_LINES])
        ImageDraw.Draw(page).text((2, image.height), text, "black")
        return np.asarray(page)

    def to_html(self) -> str:
        """Return a figure that contains the image."""
        data = base64.b64encode(self.thumbnail).decode()
        image = f'<img src="data:image/jpeg;base64,{data}">' if data else ""
        text = f"{escape(self.caption)}<br><small>{escape(self.reference)}<br>{escape(self.name)}"
        return " ".join(f"<figure>{image}<figcaption>{text}</small></figcaption></figure>".split())


class SampleCaptions:
    """A few evenly spaced images of a split that can be read."""

    def __init__(self, split: EncodedSplit) -> None:
        self.split = split
        readable = set(split.readable)
        found = [(row, image) for row, image in split.samples if row in readable]
        self.images = found[:: max(1, len(found) // _COUNT)][:_COUNT]

    @cached_property
    def _thumbnails(self) -> dict[int, bytes]:
        thumbnails = dict.fromkeys((row for row, _ in self.images), b"")
        for row, image in self.images:
            with suppress(CaptioningError, OSError):
                content = image.content() if callable(image.content) else image.content
                source = image.name if content is None else content
                thumbnails[row] = make_thumbnail(read_image(source, shrink_to=_SIDE), _SIDE)
        return thumbnails

    def select(self, captions: Mapping[int, str]) -> list[Sample]:
        """Return the images with their captions, which are given by row."""
        samples = []
        for row, image in self.images:
            texts = (image.name, captions[row], self.split.captions[row][0])
            name, caption, reference = map(_replace_surrogates, texts)
            samples.append(Sample(name, caption, reference, self._thumbnails[row]))
        return samples


def _replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which UTF-8 lacks: file names and JSON can contain them."""
    return text.encode(errors="backslashreplace").decode()


def write_samples(path: Path, epoch: int, samples: list[Sample]) -> None:
    """Add the captions of an epoch to an HTML page, in place of those of later epochs.

    Each epoch is one line, so that an interrupted run can write its last epoch again.
    """
    section = re.compile(r'<section id="epoch-(\d+)">')
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    kept = [line for line in lines if (m := section.match(line)) and int(m[1]) < epoch]
    figures = "".join(sample.to_html() for sample in samples)
    kept.append(f'<section id="epoch-{epoch}"><h2>Epoch {epoch}</h2>{figures}</section>')
    write_atomic(path, "\n".join([_HEAD, *kept]) + "\n")
