"""Code blocks of the documentation, as a Markdown parser finds them."""

from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
PAGES = [
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "data/README.md"),
    "captioning/models/default/README.md",
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/*.md"))),
]


@dataclass(frozen=True)
class Block:
    """A fenced code block: where it begins, its language, and its text."""

    place: str
    language: str
    code: str


def read_blocks(page):
    """Return the fenced code blocks of a page."""
    tokens = MarkdownIt().parse((ROOT / page).read_text(encoding="utf-8"))
    return [
        Block(f"{page}:{token.map[0] + 1}", token.info, token.content)
        for token in tokens
        if token.type == "fence"
    ]
