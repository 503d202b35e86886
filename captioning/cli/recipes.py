"""List the recipes of published models, with published or measured scores.

A recipe is a config file in the package. It sets the options of encoder, decoder and training of a
published model; add --data and --output. `captioning recipes show NAME` prints it. Stages of a
recipe are trained one after the other, each in its own directory.

For example:

    captioning recipes
    captioning recipes show up-down
    captioning recipes show att2in > my.yaml
    captioning train --config up-down --data karpathy:dataset_coco.json@COCO --output runs/up-down
"""

from collections.abc import Iterator
from dataclasses import dataclass

from captioning.training.recipes import ExpectedScores, read_run_file, recipe_names


@dataclass(frozen=True)
class RecipesConfig:
    """List the recipes of published models."""


def run(config: RecipesConfig) -> int:
    """Print the recipes, and return the exit code."""
    print("\n\n".join("\n".join(_describe(name)) for name in recipe_names()))  # noqa: T201
    return 0


def _describe(name: str) -> Iterator[str]:
    file = read_run_file(name)
    assert file.recipe is not None  # a test reads all recipes
    yield f"{name}: {file.recipe.title}"
    yield f"    paper: {file.recipe.paper}"
    yield f"    encoder: {next(iter(file.stages.values()))['encoder'].name}"
    if len(file.stages) > 1:
        yield f"    stages: {', '.join(file.stages)}"
    for scores in file.recipe.scores:
        yield f"    {_format_scores(scores)}"


def _format_scores(scores: ExpectedScores) -> str:
    values = {"BLEU-4": scores.bleu_4, "CIDEr": scores.cider}
    known = [f"{name} {value:.1f}" for name, value in values.items() if value is not None]
    note = f" ({scores.note})" if scores.note else ""
    return f"{scores.source}: {', '.join(known)} on {scores.data}{note}"
