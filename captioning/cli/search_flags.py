"""Search flags of the command line, derived from the fields of the search methods."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import tyro

from captioning.cli.help_texts import BOOLEANS, keep_numbers_whole
from captioning.decoding import METHODS, SearchMethod, change_search
from captioning.errors import ConfigError
from captioning.field_texts import read_field_texts

_METAVARS: dict[Any, str] = {
    int: "INT",
    float: "NUMBER",
    bool: BOOLEANS,
    tuple[str, ...]: "WORD ...",
}
_SHARED = tuple(field.name for field in fields(SearchMethod))


def _add_flags(cls: type) -> type:
    """Add an optional field for each setting of each search method, with its text as help."""
    names = Literal[tuple(METHODS)]
    cls.__annotations__["search"] = _optional(names, "Search method.", f"{{{','.join(METHODS)}}}")
    methods: tuple[type[SearchMethod], ...] = (SearchMethod, *METHODS.values())
    for method in methods:
        texts = read_field_texts(method)
        for field in fields(method):
            if field.name in cls.__annotations__:
                continue
            scope = "" if field.name in _SHARED else f" For {_methods_with(field.name)} search."
            help_text = keep_numbers_whole(texts[field.name]) + scope
            annotation = _optional(field.type, help_text, _METAVARS[field.type])
            cls.__annotations__[field.name] = annotation
            setattr(cls, field.name, None)
    return cls


def _optional(kind: Any, help_text: str, metavar: str) -> Any:
    hint = "(default: the model's setting)"
    argument = tyro.conf.arg(help=help_text, metavar=metavar, help_behavior_hint=hint)
    return Annotated[kind | None, argument]


def _methods_with(setting: str, conjunction: str = "and") -> str:
    """Return the names of the search methods that have a setting."""
    *others, last = [name for name, method in METHODS.items() if hasattr(method, setting)]
    return f"{', '.join(others)} {conjunction} {last}" if others else last


@dataclass(frozen=True)
@_add_flags
class SearchFlags:
    """The search flags of a command. None stands for the setting of the model's own search."""

    search: str | None = None

    def given(self) -> dict[str, Any]:
        """Return the settings that are given, without the search method."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: v for k, v in values.items() if k != "search" and v is not None}


def apply_flags(own: SearchMethod, flags: SearchFlags) -> SearchMethod:
    """Return the model's own search with the changes that the flags name.

    Another search method keeps the settings that all methods share. ``--n`` without ``--width``
    widens a beam if necessary.

    Args:
        own: The search of the model.
        flags: The flags of the command line.

    Raises:
        ConfigError: The search method does not have one of the settings, or a value is bad.
    """
    given = flags.given()
    method = type(own) if flags.search is None else METHODS[flags.search]
    for setting in given:
        if not hasattr(method, setting):
            name = next(name for name in METHODS if METHODS[name] is method)
            raise ConfigError(
                f"--{setting.replace('_', '-')} is not a setting of {name} search. Remove it, or "
                f"choose another --search: {_methods_with(setting, 'or')}."
            )
    return change_search(own, method, given)
