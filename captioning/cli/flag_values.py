"""How the words of a command line become values of flags."""

from collections.abc import Callable
from functools import partial
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

_NUMBERS: dict[Any, str] = {int: "a whole number", float: "a number"}


def flag_registry() -> ConstructorRegistry:
    """Return a registry that makes tyro name wrong numbers and choices in plain words."""
    registry = ConstructorRegistry()
    registry.primitive_rule(_describe_primitive)
    return registry


def _describe_primitive(info: PrimitiveTypeInfo) -> "PrimitiveConstructorSpec[Any] | None":
    """Tell tyro how to read a number, or one of several words, that may be optional.

    tyro's own rule for an optional value names None in errors, which ``--help`` does not.
    """
    union = get_origin(info.type) in (Union, UnionType)
    kinds = [kind for kind in get_args(info.type) if kind is not NoneType] if union else [info.type]
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    numbers = [kind for kind in kinds if kind in _NUMBERS]
    if len(kinds) > len(numbers) + (1 if words else 0) or len(numbers) > 1:
        return None
    if not all(isinstance(word, str) for word in words):
        return None
    choices = ",".join(words)
    metavars = [f"{{{choices}}}"] if words else []
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="|".join([*metavars, *(kind.__name__.upper() for kind in numbers)]),
        instance_from_str=partial(_parse_word, words, numbers[0] if numbers else None),
        is_instance=lambda value: value in words or isinstance(value, (NoneType, *numbers)),
        str_from_instance=lambda value: [str(value)],
        choices=None if numbers else tuple(words),
    )


def _parse_word(
    words: list[str], number: "Callable[[str], Any] | None", arguments: list[str]
) -> Any:
    word = arguments[0]
    if number is None or word in words:
        return word
    try:
        return number(word)
    except ValueError:
        expected = " or ".join([*words, _NUMBERS[number]])
        raise ValueError(f"{word!r} is not {expected}.") from None
