"""One web page with the pictures and their captions, which needs no other file."""

import base64
import html
import io
from pathlib import Path
from typing import IO

from PIL import Image

from captioning.captioner.results import CaptionedPicture, one_line
from captioning.data.images import read_image
from captioning.errors import ImageError

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Captions</title>
<style>
  :root { color-scheme: light dark; }
  body { font: 16px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem;
         padding: 0 1rem; }
  main { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }
  figure { margin: 0; }
  img { aspect-ratio: 4 / 3; background: #8882; border-radius: 6px; object-fit: contain;
        width: 100%; }
  figcaption { margin-top: .4rem; }
  .file { color: #777; font-size: .8rem; overflow-wrap: anywhere; }
  .other { color: #777; }
  .error { border: 1px solid #c33; border-radius: 6px; padding: .8rem; }
  input { font: inherit; margin-bottom: 1.5rem; max-width: 100%; padding: .4rem .6rem;
          width: 20rem; }
</style>
</head>
<body>
<h1>Captions</h1>
<input type="search" placeholder="Show those that say ..." aria-label="Filter"
  oninput="for (const figure of document.querySelectorAll('figure'))
    figure.hidden = !figure.textContent.toLowerCase().includes(this.value.toLowerCase())">
<main>
"""
_THUMBNAIL = 320  # pixels


class HtmlPage:
    """Writes the page as the results come; pictures are put into it as small JPEGs.

    Args:
        file: Where the page goes.
    """

    def __init__(self, file: IO[str]) -> None:
        self.file = file
        self.counts = {True: 0, False: 0}
        file.write(_HEAD)

    def add(self, result: CaptionedPicture) -> None:
        """Add one picture with its captions, or the reason why it has none."""
        self.counts[result.ok] += 1
        name = f'<div class="file">{_text(Path(result.source).name)}</div>'
        if not result.ok:
            self.file.write(f'<figure class="error">{_text(result.error)}{name}</figure>\n')
            return
        others = "".join(
            f'<div class="other">{_text(each.text)}</div>' for each in result.captions[1:]
        )
        self.file.write(
            f'<figure><img alt="{_text(result.text)}" loading="lazy" src="{_data(result.source)}">'
            f"<figcaption>{_text(result.text)}{others}{name}</figcaption></figure>\n"
        )

    def end(self) -> None:
        """Complete the page."""
        failed = f", {self.counts[False]} could not be read" if self.counts[False] else ""
        self.file.write(
            f'</main>\n<p class="file">{self.counts[True]} captioned{failed}.</p>\n'
            "</body>\n</html>\n"
        )


def _text(text: str) -> str:
    return html.escape(one_line(text))


def _data(source: str) -> str:
    """Return the picture as a small JPEG inside a data: address."""
    try:
        picture = read_image(source, allow_truncated=True, shrink_to=_THUMBNAIL)
    except ImageError:  # it was there a moment ago
        return ""
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=78)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
