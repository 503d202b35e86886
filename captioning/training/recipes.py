"""Configs of training runs from YAML files: recipes of published models, and a user's own files.

A file has the fields of :class:`RunConfig`, and may leave out any of them. ``stages`` lists runs
that follow each other: each starts from the model of the one before, and its fields replace those
of the whole file. ``recipe`` describes what the file reproduces. JSON is YAML too, so the settings
that a run writes can be read.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from types import GenericAlias
from typing import Any, Literal, get_origin, get_type_hints

from captioning.errors import ConfigError
from captioning.json_data import MAX_JSON_BYTES, from_json, open_regular
from captioning.messages import suggest
from captioning.training.config import RunConfig

RECIPES = Path(__file__).parents[1] / "recipes"
_ADVICE = "Correct it."


@dataclass(frozen=True)
class ExpectedScores:
    """Scores of a model on a data set, times 100."""

    source: Literal["published", "measured"]
    data: str
    bleu_4: float | None = None
    cider: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Recipe:
    """What a config file reproduces."""

    title: str
    paper: str
    changes: str = ""
    """What differs from the paper."""
    scores: tuple[ExpectedScores, ...] = ()


_HINTS = get_type_hints(RunConfig)
# Like RunConfig, but without required fields and checks, because flags can follow.
_PartialRun = make_dataclass(
    "_PartialRun", [(name, hint, field(default=None)) for name, hint in _HINTS.items()]
)
_RunFileContent = make_dataclass(
    "_RunFileContent",
    [
        ("recipe", Recipe | None, field(default=None)),
        ("stages", GenericAlias(dict, (str, _PartialRun)), field(default_factory=dict)),
    ],
    bases=(_PartialRun,),
)


@dataclass(frozen=True)
class RunFile:
    """The content of a config file.

    Attributes:
        recipe: What it reproduces, or None.
        stages: Fields of RunConfig that are set, for each stage by its name. A file without stages
            has one, whose name is empty.
    """

    recipe: Recipe | None
    stages: Mapping[str, Mapping[str, Any]]


def recipe_names() -> list[str]:
    """Return the names of the recipes in the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """Return the file of a recipe.

    Raises:
        ConfigError: The name is unknown.
    """
    if name not in (names := recipe_names()):
        raise ConfigError(
            f"there is no recipe {name!r}. Recipes: {', '.join(names)}.{suggest(name, names)}"
        )
    return RECIPES / f"{name}.yaml"


def read_run_file(name: str, settings: Sequence[str] = ()) -> RunFile:
    """Read a config file.

    Args:
        name: Name of a recipe, or path of a YAML or JSON file. Empty: settings only.
        settings: ``KEY=VALUE`` strings that replace fields in every stage, such as
            ``training.epochs=30``. ``stages.NAME.KEY=VALUE`` replaces one in one stage.

    Raises:
        ConfigError: The file cannot be read, or a field is unknown or has a bad value.
    """
    changes: dict[str, Any] = {}
    for setting in settings:
        changes = _merge(changes, _parse_setting(setting))
    in_stages = {"stages": changes.pop("stages")} if "stages" in changes else {}
    content = _read_yaml(name) if name else {}
    source = name or "KEY=VALUE"
    for stage in _read_stages(in_stages, "KEY=VALUE"):
        if stage not in (known := _read_stages(content, source)):
            raise ConfigError(f"{source}: there is no stage {stage!r}.{suggest(stage, known)}")
    content = _merge(content, in_stages)
    checked = _convert(content, _RunFileContent, source)
    shared = {key: value for key, value in content.items() if key not in ("recipe", "stages")}
    stages = {}
    for stage, own in (_read_stages(content, source) or {"": {}}).items():
        fields = _merge(_merge(shared, own), changes)
        where = f"{source}, stage {stage}" if stage else source
        run = _convert(fields, _PartialRun, where)
        stages[stage] = {key: getattr(run, key) for key in fields}
    return RunFile(checked.recipe, stages)


def _read_yaml(name: str) -> dict[str, Any]:
    if name not in recipe_names() and not Path(name).exists():
        raise ConfigError(
            f"there is no file and no recipe '{name}'. Recipes: {', '.join(recipe_names())}."
            f"{suggest(name, recipe_names())}"
        )
    path = recipe_path(name) if name in recipe_names() else Path(name)
    try:
        with open_regular(path, MAX_JSON_BYTES) as (file, size):
            text = file.read(size).decode("utf-8-sig")
    except (OSError, ValueError) as reason:
        raise ConfigError(f"cannot read '{path}': {reason}. Pass another file.") from reason
    content = _parse_yaml(text, name)
    if not isinstance(content, dict):
        raise ConfigError(f"{name}: expected lines such as 'min_count: 5'. {_ADVICE}")
    for stage in _read_stages(content, name):
        if not re.fullmatch(r"\w[\w.-]*", str(stage)):
            raise ConfigError(
                f"{name}: stages: {stage!r} is not a name for a directory. Use letters, digits, "
                "_, . and - only."
            )
    return content


def _read_stages(content: Mapping[str, Any], source: str) -> dict[str, Any]:
    stages = content.get("stages") or {}
    if not isinstance(stages, dict):
        raise ConfigError(
            f"{source}: stages: expected names with their settings, such as 'stages: {{first: "
            f"{{min_count: 5}}}}', found {json.dumps(stages):.100}. {_ADVICE}"
        )
    return stages


def _parse_yaml(text: str, source: str) -> Any:
    from ruamel.yaml import YAML  # YAML 1.2: 1e-3 is a number, and "no" is a word
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(text)
        return json.loads(json.dumps(content, default=str))  # keys are strings, dates too
    except MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{source}: {line}{error.problem}. {_ADVICE}") from None
    except (YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{source}: it is not YAML: {str(error)[:300]}. {_ADVICE}") from None


def _parse_setting(setting: str) -> dict[str, Any]:
    key, _, text = setting.partition("=")
    content = _parse_yaml(text, key)
    for name in reversed(key.split(".")):
        content = {name: content}
    return content


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the values of ``changes``, field by field in nested mappings."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        nested = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merge(old or {}, value) if nested else value
    return merged


def _convert(content: dict[str, Any], kind: type, source: str) -> Any:
    lists = {
        key: [value]  # `data: flickr8k:DIR` is a list of one
        for key, value in content.items()
        if get_origin(_HINTS.get(key)) is tuple and isinstance(value, str | int | float)
    }
    return from_json({**content, **lists}, kind, source=source, advice=_ADVICE)
