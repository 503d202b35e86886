"""Show what a model directory contains: its parts, training and scores.

For example:

    captioning info
    captioning info runs/first/model
    captioning info runs/first/model --json
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from captioning.decoding import search_to_json
from captioning.messages import escape_unprintable

if TYPE_CHECKING:
    from torch import nn

    from captioning.nn.encoder import Encoder


@dataclass(frozen=True)
class InfoConfig:
    """Show what a model directory contains."""

    model: Annotated[
        str | None,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[MODEL]", help_behavior_hint="(default: the packaged model)"),
    ] = None
    """Model directory, or id on the Hugging Face Hub."""
    json: bool = False
    """Print JSON instead of a table."""


def describe(model: str | Path | None) -> dict[str, dict[str, object]]:
    """Return the facts about a model as sections of named values."""
    from captioning.checkpoint import load_checkpoint
    from captioning.checkpoint.hub import model_directory
    from captioning.inference.backend_config import BackendConfig
    from captioning.inference.backends import fit_backend, resolve_backend
    from captioning.inference.captioner import DEFAULT_MODEL
    from captioning.nn.device import resolve_device

    checkpoint = load_checkpoint(model_directory(DEFAULT_MODEL if model is None else model))
    auto = resolve_backend(
        fit_backend(BackendConfig(), checkpoint),
        resolve_device(),
        has_ranges=checkpoint.ranges is not None,
    )
    decoder, info = checkpoint.model.decoder, checkpoint.info
    return {
        **_describe_encoder(checkpoint.model.encoder),
        "decoder": {**asdict(decoder.config), "parameters": _count_parameters(decoder)},
        "search": search_to_json(checkpoint.search),
        "backend": {"auto": str(auto), "int8_calibrated": checkpoint.ranges is not None},
        "reranking": {"n-grams": len(checkpoint.reranker or ())},
        "training": {} if info.training is None else asdict(info.training),
        "scores": dict(info.scores),
        "license": {"id": info.license or "not stated"},
    }


def _describe_encoder(encoder: "Encoder") -> dict[str, dict[str, object]]:
    from captioning.nn.external_encoder import ExternalEncoder

    if isinstance(encoder, ExternalEncoder):
        name = "external features; the model has no CNN"
        return {"encoder": {"name": name, "feature size": encoder.feature_size}}
    return {
        "encoder": {
            "name": encoder.config.name,
            "positions": encoder.positions,
            "feature size": encoder.feature_size,
            "parameters": _count_parameters(encoder),
        },
        "preprocessing": asdict(encoder.preprocessing),
    }


def _count_parameters(part: "nn.Module") -> int:
    return sum(weight.numel() for weight in part.parameters())


def run(config: InfoConfig) -> int:
    """Print the facts, and return the exit code."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    sections = describe(config.model)
    if config.json:
        console.print_json(data=sections)
        return 0
    sections["scores"] = _join_scores(sections["scores"])
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for title, content in sections.items():
        table.add_row(Text(escape_unprintable(title), style="bold"), "")
        for name, value in content.items():
            label = name if title == "scores" else name.replace("_", " ")
            # Text prints markup literally, and escape_unprintable escapes control characters.
            shown = [str(value)] if name == "seed" else _format_value(value)
            lines = "\n".join(map(escape_unprintable, shown))
            table.add_row(Text(f"  {escape_unprintable(label)}"), Text(lines))
    console.print(table)
    return 0


def _join_scores(scores: dict[str, object]) -> dict[str, object]:
    """Return the scores on the same photos, as ``BLEU-4 (the photos)``, in one list."""
    joined: dict[str, object] = {}
    for name, value in scores.items():
        metric, bracket, photos = name.removesuffix(")").partition(" (")
        if not bracket:
            joined[name] = value
            continue
        score = f"{metric} {value:.4f}"
        joined[photos] = f"{joined[photos]}, {score}" if photos in joined else score
    return joined


def _format_value(value: object) -> list[str]:
    """Return the lines of a value."""
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    if isinstance(value, int):
        return [f"{value:,}"]
    if not isinstance(value, list | tuple):
        return [str(value)]
    if value and all(isinstance(each, float) for each in value):
        return [", ".join(f"{each:.4g}" for each in value)]
    return [f"{number}. {each}" for number, each in enumerate(value, 1)] or ["none"]
