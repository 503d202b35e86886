"""Help of the commands: text, default value, and section of each flag, from the config classes."""

import ast
import inspect
import re
import shutil
import textwrap
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

BOOLEANS = "{True,False}"
_METAVARS: dict[Any, str] = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}
_MAX_WIDTH = 100


def parse_config(command: str, config: Any, words: list[str], description: str | None) -> Any:
    """Parse the words of a command line into a config.

    The text under a field is the help of its flag. It may end in the default value, such as
    ``(default: all)``. A dataclass may have the attribute ``SECTIONS``, which maps the first field
    of each section to the title of the section, in the order of the help.

    Args:
        command: Name of the command, for the usage line.
        config: Dataclass, or a partial of it with other default values.
        words: Arguments of the command.
        description: Its first paragraph is printed above the flags, the others below them.
            Indented paragraphs keep their line breaks.
    """
    summary, *details = (description or "").strip().split("\n\n")
    registry = ConstructorRegistry()
    registry.struct_rule(_describe_struct)
    try:
        return tyro.cli(
            config,
            prog=f"captioning {command}",
            description=_clean(summary),
            args=words,
            config=(tyro.conf.FlagCreatePairsOff,),
            registry=registry,
        )
    except SystemExit as stop:
        if not stop.code and details:  # tyro has printed the help
            print("\n\n".join(map(_wrap, details)))  # noqa: T201
        raise


def read_field_texts(cls: type) -> dict[str, str]:
    """Return the text under each field of a dataclass, which Python keeps only in the source."""
    texts: dict[str, str] = {}
    for base in reversed([base for base in cls.__mro__ if is_dataclass(base)]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        texts |= {
            field.target.id: _clean(str(text.value.value))
            for field, text in pairwise(definition.body)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        }
    return texts


class _Section:
    """Base class of the types that stand for the sections of a config."""

    fields: tuple[StructFieldSpec, ...] = ()


def _describe_struct(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Tell tyro the fields of a dataclass, a partial of it, or a section."""
    cls, defaults = info.type, {}
    if isinstance(cls, type) and issubclass(cls, _Section):
        return StructConstructorSpec(dict, cls.fields)
    if isinstance(cls, partial):
        cls, defaults = cls.func, cls.keywords
    if not is_dataclass(cls):
        return None
    if isinstance(info.default, cls):
        defaults = vars(info.default)
    texts, hints = read_field_texts(cls), get_type_hints(cls, include_extras=True)
    specs = [
        _describe_field(field, hints[field.name], texts.get(field.name, ""), defaults)
        for field in fields(cls)
    ]
    sections: dict[str, str] = getattr(cls, "SECTIONS", {})
    if not sections:
        return StructConstructorSpec(cls, tuple(specs))
    groups: dict[str, list[StructFieldSpec]] = {title: [] for title in sections.values()}
    title = ""
    for spec in specs:
        title = sections.get(spec.name, title)
        groups[title].append(spec)
    return StructConstructorSpec(
        lambda **parts: cls(**{k: v for part in parts.values() for k, v in part.items()}),
        tuple(_describe_section(title, group) for title, group in groups.items()),
    )


def _describe_section(title: str, specs: list[StructFieldSpec]) -> StructFieldSpec:
    no_prefix = tyro.conf.arg(prefix_name=False)
    flags = []
    for spec in specs:
        # The flags of a nested dataclass join this section if its field has OmitArgPrefixes.
        nested = is_dataclass(get_args(spec.type)[0])
        kind: Any = spec.type if nested else Annotated[spec.type, no_prefix]
        flags.append(replace(spec, type=kind))
    section: Any = type(title, (_Section,), {"fields": tuple(flags)})
    return StructFieldSpec(title, section, tyro.MISSING_NONPROP, helptext="")


def _describe_field(
    field: "Field[Any]", kind: Any, text: str, defaults: dict[str, Any]
) -> StructFieldSpec:
    if field.name in defaults:
        default = defaults[field.name]
    elif field.default is not MISSING:
        default = field.default
    elif field.default_factory is not MISSING:
        default = field.default_factory()
    else:
        default = tyro.MISSING_NONPROP
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    text, hint = _split_default(text)
    if hint is None and (default is None or default == ()):
        hint = "(default: none)"
    settings: list[Any] = [
        tyro.conf.arg(help=text or None, metavar=_metavar(plain), help_behavior_hint=hint)
    ]
    if plain is bool and True in (default, field.default):
        # The text describes --NAME, and a flag would be --no-NAME.
        settings += [tyro.conf.FlagConversionOff]
    described: Any = Annotated[(plain, *settings, *getattr(kind, "__metadata__", ()))]
    return StructFieldSpec(field.name, described, default, helptext=text)


def _metavar(kind: Any) -> str | None:
    """Return the placeholder of a value, or None for that of tyro."""
    parts = [part for part in get_args(kind) if part is not NoneType]
    if get_origin(kind) is tuple and len(parts) == 2:
        return f"{_METAVARS.get(parts[0], '{' + ','.join(get_args(parts[0])) + '}')} ..."
    if kind is bool:
        return None
    return _METAVARS.get(parts[0] if len(parts) == 1 else kind)


def _split_default(text: str) -> tuple[str, str | None]:
    """Split ``Text (default: value).`` into the text and the default."""
    found = re.fullmatch(r"(.*?)\s*(\(default: [^()]*\))\.?", text)
    return (f"{found[1]}.", found[2]) if found else (text, None)


def _clean(text: str) -> str:
    """Return text on one line, without the marks of code."""
    return " ".join(text.replace("``", "").split())


def _wrap(paragraph: str) -> str:
    if paragraph.startswith(" "):
        return paragraph
    width = min(shutil.get_terminal_size().columns, _MAX_WIDTH)
    return textwrap.fill(_clean(paragraph), width, break_on_hyphens=False)
