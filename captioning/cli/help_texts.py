"""Help of the commands: text, default value, and section of each flag, from the config classes."""

import re
import shutil
import textwrap
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import (
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from captioning.cli.flag_values import flag_registry
from captioning.errors import ConfigError
from captioning.field_texts import clean_text, read_field_texts

BOOLEANS = "{True,False}"
_METAVARS: dict[Any, str] = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}
_MAX_WIDTH = 100


def parse_config(command: str, config: Any, words: list[str], description: str | None) -> Any:
    """Parse the words of a command line into a config.

    The text under a field is the help of its flag. It may end in the default value, such as
    ``(default: all)``. A dataclass may have the attribute ``SECTIONS``, which maps the first field
    of each section to the title of the section, in the order of the help. A nested dataclass has a
    section of its own, unless its field has OmitArgPrefixes. If the dataclass has the attribute
    ``SHOWN``, the help lists only the flags of the fields that it names.

    Args:
        command: Name of the command, for the usage line.
        config: Dataclass, or a partial of it with other default values.
        words: Arguments of the command.
        description: Its first paragraph is printed above the flags, the others below them.
            Indented paragraphs keep their line breaks.
    """
    summary, *details = (description or "").strip().split("\n\n")
    registry, shown = flag_registry(), None
    if not {"-h", "--help"}.isdisjoint(words):
        shown = getattr(_plain_class(config), "SHOWN", None)
        words = words if shown is None else ["--help"]  # tyro does not parse flags that it hides
    registry.struct_rule(partial(_describe_struct, flags=map_flags(config), shown=shown))
    try:
        return tyro.cli(
            config,
            prog=f"captioning {command}",
            description=clean_text(summary),
            args=words,
            config=(tyro.conf.FlagCreatePairsOff,),
            registry=registry,
        )
    except _InvalidConfigError as error:
        raise error.reason from error
    except SystemExit as stop:
        if not stop.code and details:  # tyro has printed the help
            print("\n\n".join(map(_wrap, details)))  # noqa: T201
        raise


def config_type(run: Callable[..., int]) -> Any:
    """Return the config class of a command from its function, which may take a tuple of configs."""
    kind = run.__annotations__["config"]
    return (*get_args(kind), kind)[0]


def map_flags(config: Any, prefix: str = "--") -> dict[str, str]:
    """Return the flag of each field of a config, nested configs included."""
    flags: dict[str, str] = {}
    cls = _plain_class(config)
    hints = get_type_hints(cls, include_extras=True)
    for name in (field.name for field in fields(cls)):
        kind = hints[name]
        plain, *marks = get_args(kind) if get_origin(kind) is Annotated else (kind,)
        if is_dataclass(plain):
            nested = prefix if tyro.conf.OmitArgPrefixes in marks else f"{prefix}{name}."
            flags |= map_flags(plain, nested.replace("_", "-"))
        elif tyro.conf.Positional not in marks:
            flags[name] = (prefix + name).replace("_", "-")
    return flags


def name_flags(message: str, config: Any) -> str:
    """Return an error message with flags instead of the names of their fields.

    A name is replaced where it cannot be another word: if it contains an underscore, as the
    subject of the message, in front of a changed value, and in the advice to raise or lower it.
    """
    flags = map_flags(config)
    long = "|".join(name for name in flags if "_" in name) or "(?!)"
    unquoted = rf"(?<![\w./'\"-])(?:{long})(?!\w|[/'\":-]|\.\w)"
    any_name = "|".join(flags)
    subject = rf"(?:^|(?<=but )|(?<=and ))(?:{any_name})(?= (?:is|has|contains)\b)"
    advice = rf"(?:(?<=Raise )|(?<= or lower ))(?:{any_name})(?= or |\.)"
    changed = rf"(?:\b\w+\.)*\b(?:{any_name})(?= was [^;]* and is now )"
    return re.sub(
        f"{subject}|{changed}|{advice}|{unquoted}",
        lambda m: flags[m[0].rpartition(".")[2]],
        message,
    )


def keep_numbers_whole(text: str) -> str:
    """Return a help text without commas in numbers, because tyro breaks lines after commas."""
    return re.sub(r"(?<=\d),(?=\d{3})", "", text)


def _plain_class(config: Any) -> Any:
    return config.func if isinstance(config, partial) else config


class _Section:
    """Base class of the types that stand for the sections of a config."""

    fields: tuple[StructFieldSpec, ...] = ()


class _InvalidConfigError(Exception):
    """Carries a ConfigError through tyro, which prints a ValueError in another form."""

    def __init__(self, reason: ConfigError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _create(cls: Any, **values: Any) -> Any:
    try:
        return cls(**values)
    except ConfigError as error:
        raise _InvalidConfigError(error) from error


def _describe_struct(
    info: StructTypeInfo, flags: Mapping[str, str], shown: Collection[str] | None
) -> StructConstructorSpec | None:
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
    texts, hints = read_field_texts(cls, flags), get_type_hints(cls, include_extras=True)
    specs = [
        _describe_field(field, hints[field.name], texts.get(field.name, ""), defaults)
        for field in fields(cls)
    ]
    if shown is not None:
        specs = [spec if spec.name in shown else _hide(spec) for spec in specs]
    sections: dict[str, str] = getattr(cls, "SECTIONS", {})
    if not sections:
        return StructConstructorSpec(partial(_create, cls), tuple(specs))
    groups: dict[str, list[StructFieldSpec]] = {title: [] for title in sections.values()}
    own_sections, title = [], ""
    for spec in specs:
        title = sections.get(spec.name, title)
        plain, *marks = get_args(spec.type)
        if is_dataclass(plain) and tyro.conf.OmitArgPrefixes not in marks:
            own_sections.append(spec)
        else:
            groups[title].append(spec)

    def create(**parts: Any) -> Any:
        shared = {k: v for title in groups for k, v in parts.pop(title).items()}
        return _create(cls, **shared, **parts)

    shared_sections = [_describe_section(title, group) for title, group in groups.items()]
    return StructConstructorSpec(create, (*shared_sections, *own_sections))


def _describe_section(title: str, specs: list[StructFieldSpec]) -> StructFieldSpec:
    no_prefix = tyro.conf.arg(prefix_name=False)
    flags = []
    for spec in specs:
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
    text, hint = _split_default(keep_numbers_whole(text))
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


def _hide(spec: StructFieldSpec) -> StructFieldSpec:
    """Return a field without its flag; a nested dataclass decides for each of its own fields."""
    suppress: Any = tyro.conf.Suppress
    return spec if is_dataclass(get_args(spec.type)[0]) else replace(spec, type=suppress[spec.type])


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


def _wrap(paragraph: str) -> str:
    if paragraph.startswith(" "):
        return paragraph
    width = min(shutil.get_terminal_size().columns, _MAX_WIDTH)
    return textwrap.fill(clean_text(paragraph), width, break_on_hyphens=False)
