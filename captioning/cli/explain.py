"""Write a page that shows how the model captions an image.

For each word, the page shows the parts of the image that contribute to it (attention, or occlusion
for a model without attention), and the most probable words. It explains the best caption, also with
--n above 1. It also shows all captions that the search kept and dropped. If the model has a
detector of concepts, it shows the concepts: words that the detector recognizes in the image. The
page is one file and loads nothing from elsewhere.

For example:

    captioning explain photo.jpg -o photo.html
    captioning explain photo.jpg -o photo.html --width 3
    captioning explain photo.jpg -o photo.html --model runs/first/model --search greedy
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from captioning.cli.progress import stderr_console
from captioning.cli.search_flags import SearchFlags, apply_flags
from captioning.files import check_writable, write_atomic


@dataclass(frozen=True)
class ExplainConfig:
    """Write a page that shows how the model captions an image."""

    SECTIONS: ClassVar = {"image": "input and output", "model": "model", "search": "search"}

    image: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
    """Image file or URL."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Output file (HTML). An existing file is replaced."""
    model: Annotated[
        str | None,
        tyro.conf.arg(metavar="MODEL", help_behavior_hint="(default: the packaged model)"),
    ] = None
    """Model directory, or id on the Hugging Face Hub."""
    device: str = "auto"
    """Device: auto (CUDA, then MPS, then the CPU), cpu, cuda, cuda:1, or mps."""
    search: Annotated[SearchFlags, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="")] = field(
        default_factory=SearchFlags
    )
    seed: int = 0
    """Random seed of sampling (0 to 2**63 - 1)."""


def run(config: ExplainConfig) -> int:
    """Write the page, and return the exit code."""
    check_writable(config.output)
    from captioning.inference.captioner import Captioner
    from captioning.inference.explanation import explain
    from captioning.inference.explanation_page import format_page

    captioner = Captioner.from_pretrained(
        config.model, device=config.device, seed=config.seed, backend="torch", precision="float32"
    )
    search = apply_flags(captioner.checkpoint.search, config.search)
    explanation = explain(captioner, config.image, search=search)
    write_atomic(config.output, format_page(explanation))
    stderr_console().print(f"{explanation.caption.text}\nWrote {config.output}.")
    return 0
