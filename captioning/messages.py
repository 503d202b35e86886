"""Phrases that error messages and logs share."""

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from math import inf
from typing import Any

from captioning.errors import ConfigError


def format_count(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``"1 image"`` or ``"2,143 images"``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_bytes(number: float) -> str:
    """Return a size in decimal units, such as ``"1.2 MB"``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def explain_error(error: Exception) -> str:
    """Return the reason of an error. For an OSError, leave out its number and file name."""
    return str(getattr(error, "strerror", None) or error)


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known word most like ``word``, or ``""``."""
    matches = get_close_matches(word, list(known), n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def escape_unprintable(text: str) -> str:
    """Return ``text`` with line breaks, control and other unprintable characters escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def check_minimum(config: object, **minimums: int) -> None:
    """Check that fields of a config are not too small.

    Args:
        config: The object whose attributes are checked.
        **minimums: Smallest valid value of each attribute.

    Raises:
        ConfigError: A value is smaller than its minimum.
    """
    for name, minimum in minimums.items():
        if (value := getattr(config, name)) < minimum:
            raise ConfigError(f"{name} is {value}; it must be at least {minimum}.")


def check_ranges(config: object, interval: str, *names: str) -> None:
    """Check that numbers of a config lie in an interval, such as ``[0, 1)`` or ``(0, inf)``.

    A round bracket excludes the bound.

    Raises:
        ConfigError: A number lies outside.
    """
    low, high = map(float, interval[1:-1].split(","))
    first, last = interval[0] == "[", interval[-1] == "]"
    bounds = f"{'at least' if first else 'above'} {low:.10g}"
    if high < inf:
        bounds += f" and {'at most' if last else 'below'} {high:.10g}"
    for name in names:
        value = getattr(config, name)
        if not (low < value < high or (first and value == low) or (last and value == high)):
            finite = " and finite" if high == inf and isinstance(value, float) else ""
            raise ConfigError(f"{name} is {value}; it must be {bounds}{finite}.")


def check_license(config: object) -> None:
    """Check the field ``license`` of a config.

    Raises:
        ConfigError: It is neither empty nor an identifier, such as ``cc-by-4.0``.
    """
    license = getattr(config, "license")  # noqa: B009
    if license and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", license):
        raise ConfigError(
            f"license is {license!r}. Use an identifier of the SPDX list, such as apache-2.0, or "
            "'other'."
        )


def describe_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the settings that changed, such as ``"search.width was 5 and is now 2; ..."``.

    Nested mappings are compared field by field. If the field ``method`` of search settings has
    changed, only this field is named, because the others then have different meanings.
    """
    return "; ".join(_differences(before, now, ""))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> Iterator[str]:
    method_changed = before.get("method") != now.get("method")
    for name in ["method"] if method_changed else {**before, **now}:
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name} was {old!r} and is now {new!r}"
