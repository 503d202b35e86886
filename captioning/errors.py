"""Every error that this package raises on purpose.

    CaptioningError
    ├── ConfigError        a setting that makes no sense, alone or beside another (ValueError)
    ├── DataError            captions or splits that cannot be used (ValueError)
    ├── ImageError           an image that cannot be read (ValueError)
    ├── VocabularyError      words and ids that do not fit (ValueError)
    ├── WeightsError         pretrained weights that cannot be had (RuntimeError)
    ├── CheckpointError      a model directory that cannot be loaded or written (ValueError)
    ├── SearchError          a search whose wishes cannot be met (ValueError)
    ├── ScoreError           candidates and references that cannot be scored (ValueError)
    ├── TrainingError        a training run that cannot start or go on (RuntimeError)
    └── OutputError          results that cannot be written (OSError)

Each message says what is wrong, what was found, and what to do next. Each leaf also inherits the
built-in exception that a caller would expect.
"""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any


class CaptioningError(Exception):
    """The root: ``except CaptioningError`` catches all that this package raises on purpose."""


class ConfigError(CaptioningError, ValueError):
    """A setting that makes no sense, alone or beside another."""


class DataError(CaptioningError, ValueError):
    """Captions, splits or image lists that cannot be used."""


class ImageError(CaptioningError, ValueError):
    """An image that cannot be read."""


class VocabularyError(CaptioningError, ValueError):
    """Words and ids that do not fit together."""


class WeightsError(CaptioningError, RuntimeError):
    """Pretrained weights that cannot be had."""


class CheckpointError(CaptioningError, ValueError):
    """A model directory that cannot be loaded or written."""


class SearchError(CaptioningError, ValueError):
    """A search whose wishes cannot be met together."""


class ScoreError(CaptioningError, ValueError):
    """Candidates and references that cannot be scored."""


class TrainingError(CaptioningError, RuntimeError):
    """A training run that cannot start or cannot go on."""


class OutputError(CaptioningError, OSError):
    """Results that cannot be written."""


def check_least(settings: object, **least: int) -> None:
    """Raise a ConfigError where a setting is below the number given for its name."""
    for name, bound in least.items():
        if (value := getattr(settings, name)) < bound:
            raise ConfigError(f"{name} is {value}; it is at least {bound}.")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known word nearest to ``word``, or ``""``."""
    matches = get_close_matches(word, list(known), n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return ``"search.width was 5 and is now 2; ..."`` for settings that may hold further ones.

    Where their ``method`` is another, the rest has other meanings and is not compared.
    """
    return "; ".join(_differences(before, now, ""))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> Iterator[str]:
    other = before.get("method") != now.get("method")
    for name in ["method"] if other else {**before, **now}:
        there, here = before.get(name), now.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            yield from _differences(there, here, f"{prefix}{name}.")
        elif there != here:
            yield f"{prefix}{name} was {there!r} and is now {here!r}"


def counted(number: int, thing: str) -> str:
    """Return ``"1 photo"`` or ``"2,143 photos"``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
