"""HTML: a page with the images and their captions, for viewing in a browser."""

import html
from pathlib import Path
from urllib.parse import quote

from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.files import FileWriter
from captioning.messages import escape_unprintable

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
<input type="search" placeholder="Filter captions" aria-label="Filter"
  oninput="for (const figure of document.querySelectorAll('figure'))
    figure.hidden = !figure.textContent.toLowerCase().includes(this.value.toLowerCase())">
<main>
"""


class HtmlWriter(FileWriter):
    """Writes one figure per image: its thumbnail, or the image itself if the row has none."""

    def _write_start(self) -> None:
        self._captioned = self._failed = 0
        self.file.write(_HEAD)

    def _write_row(self, row: CaptionRow) -> None:
        name = f'<div class="file">{_escape(Path(row.image).name)}</div>'
        if not row.ok:
            self._failed += 1
            self.file.write(f'<figure class="error">{_escape(row.error)}{name}</figure>\n')
            return
        self._captioned += 1
        address = row.thumbnail or _address_of(row.file_name)
        best, *others = map(_escape, row.captions)
        more = "".join(f'<div class="other">{caption}</div>' for caption in others)
        self.file.write(
            f'<figure><img alt="{best}" loading="lazy" src="{address}">'
            f"<figcaption>{best}{more}{name}</figcaption></figure>\n"
        )

    def _write_end(self) -> None:
        failed = f", {self._failed} could not be read" if self._failed else ""
        self.file.write(
            f'</main>\n<p class="file">{self._captioned} captioned{failed}.</p>\n</body>\n</html>\n'
        )


def _address_of(file_name: str) -> str:
    is_url = "://" in file_name
    return html.escape(file_name) if is_url else quote(file_name, errors="surrogateescape")


def _escape(text: str) -> str:
    return html.escape(escape_unprintable(text))
