"""Say what is in a model directory: its parts, how it was made, what it scored."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from captioning.decoding import search_to_json
from captioning.inference.captioner import Captioner
from captioning.inference.results import one_line


@dataclass(frozen=True)
class InfoConfig:
    """Say what is in a model directory."""

    model: Annotated[
        str | None,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[MODEL]", help_behavior_hint="(default: the package's own)"),
    ] = None
    """A model directory or hub id."""
    json: bool = False
    """Print JSON instead of a table."""


def describe(model: str | Path | None) -> dict[str, dict[str, object]]:
    """Return what ``captioning info`` prints, by section."""
    checkpoint = Captioner.from_pretrained(model).checkpoint
    encoder, decoder = checkpoint.model.encoder, checkpoint.model.decoder
    info = checkpoint.info
    count = {
        name: sum(weight.numel() for weight in part.parameters())
        for name, part in (("encoder", encoder), ("decoder", decoder))
    }
    return {
        "encoder": {
            "name": encoder.config.name,
            "positions": encoder.positions,
            "feature size": encoder.feature_size,
            "parameters": count["encoder"],
        },
        "preprocessing": asdict(encoder.preprocessing),
        "decoder": {**asdict(decoder.config), "parameters": count["decoder"]},
        "search": search_to_json(checkpoint.search),
        "reranking": {"n-grams": len(checkpoint.reranker or ())},
        "training": {} if info.training is None else asdict(info.training),
        "scores": dict(info.scores),
    }


def run(settings: InfoConfig) -> int:
    """Print, and return the exit code."""
    console = Console()
    sections = describe(settings.model)
    if settings.json:
        console.print_json(data=sections)
        return 0
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for title, content in sections.items():
        table.add_row(Text(one_line(title), style="bold"), "")
        for name, value in content.items():
            shown = f"{value:,}" if name == "parameters" else str(value)
            # As it is: no markup in it is meant, and no control character reaches a terminal.
            table.add_row(Text(f"  {one_line(name)}"), Text(one_line(shown)))
    console.print(table)
    return 0
