"""A web page with the images and their captions, to look at from the disk."""

import base64
import hashlib
import html
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from captioning.files import replace_atomic
from captioning.inference.results import CaptionResult, one_line

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
  figure { contain-intrinsic-size: 15rem; content-visibility: auto; margin: 0; }
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


class HtmlPage:
    """Writes the page as the results come.

    Small images lie in a folder beside it, as ``page_files/`` beside ``page.html``, and are
    loaded when they come into view. Where the page goes to standard output they are inside it.

    Args:
        write: Takes the page, piece by piece.
        path: Its name, if it is a file.
    """

    THUMBNAIL = 320
    """Longest side of the small images, in pixels."""

    def __init__(self, write: Callable[[str], object], path: Path | None) -> None:
        self.write = write
        self.folder = None if path is None else folder_of_page(path)
        self.counts = {True: 0, False: 0}
        write(_HEAD)

    def lacks(self, source: str) -> bool:
        """Whether an image has no small image in the folder beside the page."""
        return self.folder is not None and not self._path_of(source).exists()

    def keep(self, result: CaptionResult) -> None:
        """Put a small image into the folder beside the page, whole or not at all.

        Raises:
            OSError: It cannot be written.
        """
        if self.folder is None or not result.thumbnail:
            return
        path = self._path_of(result.source)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_atomic(path, result.thumbnail, sync=False, temporary=path.with_suffix(".part"))

    def add(self, result: CaptionResult) -> None:
        """Add one image with its captions, or the reason why it has none."""
        self.counts[result.ok] += 1
        name = f'<div class="file">{_text(Path(result.source).name)}</div>'
        if not result.ok:
            self.write(f'<figure class="error">{_text(result.error)}{name}</figure>\n')
            return
        others = "".join(
            f'<div class="other">{_text(each.text)}</div>' for each in result.captions[1:]
        )
        self.write(
            f'<figure><img alt="{_text(result.text)}" loading="lazy" src="{self._address(result)}">'
            f"<figcaption>{_text(result.text)}{others}{name}</figcaption></figure>\n"
        )

    def _address(self, result: CaptionResult) -> str:
        if self.folder is None:
            data = base64.b64encode(result.thumbnail).decode("ascii")
            return f"data:image/jpeg;base64,{data}"
        return quote(self._path_of(result.source).relative_to(self.folder.parent).as_posix())

    def _path_of(self, source: str) -> Path:
        assert self.folder is not None
        digest = hashlib.sha256(os.fsencode(source)).hexdigest()[:20]
        return self.folder / digest[:2] / f"{digest}.jpg"

    def end(self) -> None:
        """Complete the page."""
        failed = f", {self.counts[False]} could not be read" if self.counts[False] else ""
        self.write(
            f'</main>\n<p class="file">{self.counts[True]} captioned{failed}.</p>\n'
            "</body>\n</html>\n"
        )


def folder_of_page(path: Path) -> Path:
    """Return where a page's small images lie."""
    return path.with_name(f"{path.stem}_files")


def _text(text: str) -> str:
    return html.escape(one_line(text))
