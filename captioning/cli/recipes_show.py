"""Print the YAML of a recipe, to change it and pass it to captioning train --config.

For example:

    captioning recipes show show-and-tell
    captioning recipes show default-model
    captioning recipes show up-down > my.yaml
    captioning train --config my.yaml --data flickr8k:Flickr8k --output runs/mine
"""

from dataclasses import dataclass
from typing import Annotated

import tyro

from captioning.training.recipes import recipe_path


@dataclass(frozen=True)
class RecipesShowConfig:
    """Print the YAML of a recipe."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Name of a recipe; ``captioning recipes`` lists them."""


def run(config: RecipesShowConfig) -> int:
    """Print the file, and return the exit code."""
    print(recipe_path(config.name).read_text(encoding="utf-8"), end="")  # noqa: T201
    return 0
