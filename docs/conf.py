"""Settings of the documentation site: ``python -m sphinx docs build/docs``."""

from sphinx.application import Sphinx
from sphinx.ext.napoleon import GoogleDocstring

import captioning

project = "captioning"
author = "The captioning authors"
copyright = author
release = captioning.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = project
myst_heading_anchors = 3
# The text of a field is no "TYPE: description", even if it has a colon.
GoogleDocstring._parse_attribute_docstring = GoogleDocstring._consume_to_end
smartquotes = False  # code in docstrings and commands keep their quotes


def link_data_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Lead links to data/README.md, which is outside of docs, to the page that includes it."""
    source[0] = source[0].replace("](../data/README.md)", "](data.md)")


def setup(app: Sphinx) -> None:
    """Register the hooks of this file."""
    app.connect("source-read", link_data_page)
