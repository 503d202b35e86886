"""Export a model to ONNX or OpenVINO, for programs without torch.

The graphs, the vocabulary, and the settings of preprocessing and search are written into a
directory. Every graph is compared with the model first. If one differs, DIR is not created; an
older export in it stays. docs/export.md describes the graphs and has an example.

For example:

    captioning export exported
    captioning export runs/first/model exported
    captioning export runs/first/model exported --to openvino
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from captioning.cli.progress import stderr_console
from captioning.errors import ConfigError
from captioning.messages import format_bytes


@dataclass(frozen=True)
class ExportConfig:
    """Export a model to ONNX or OpenVINO."""

    first: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[MODEL]", help_behavior_hint="(default: the packaged model)"),
    ] = ""
    """Model directory, or id on the Hugging Face Hub."""
    second: Annotated[
        str | None,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="DIR", help_behavior_hint=""),
    ] = None
    """Output directory."""
    to: Literal["onnx", "openvino"] = "onnx"
    """Format of the graphs."""

    def __post_init__(self) -> None:
        if not self.first:
            raise ConfigError("no output directory given: captioning export [MODEL] DIR")

    @property
    def model(self) -> str | None:
        """The model; None for the packaged one."""
        return None if self.second is None else self.first

    @property
    def directory(self) -> Path:
        """The output directory."""
        return Path(self.first if self.second is None else self.second)


def run(config: ExportConfig) -> int:
    """Write the export, and return the exit code."""
    from captioning.checkpoint import load_checkpoint
    from captioning.checkpoint.hub import model_directory
    from captioning.inference.captioner import DEFAULT_MODEL
    from captioning.inference.model_export import export_model

    checkpoint = load_checkpoint(
        model_directory(DEFAULT_MODEL if config.model is None else config.model)
    )
    export_model(checkpoint, config.directory, config.to)
    files = sorted(config.directory.iterdir())
    size = format_bytes(sum(path.stat().st_size for path in files))
    stderr_console().print(f"Wrote {len(files)} files ({size}) to {config.directory}.")
    return 0
