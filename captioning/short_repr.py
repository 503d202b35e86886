"""Short displays of long objects, for notebooks."""

import reprlib
from collections.abc import Iterable
from dataclasses import fields
from itertools import islice
from typing import Any, TypeVar, overload

_ITEMS = 8  # of a container that are shown
_TEXT = 200  # characters of an item that are shown

T = TypeVar("T")
K = TypeVar("K")


class _Repr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = _TEXT
        self.maxtuple = self.maxlist = self.maxdict = 3

    def repr_instance(self, x: object, level: int) -> str:
        text = repr(x)
        return text if len(text) <= _TEXT else f"{text[:_TEXT]}..."


_REPR = _Repr()


class ShortRepr:
    """Base of dataclasses with ``repr=False``, whose long fields are cut."""

    __slots__ = ()

    def __repr__(self) -> str:
        parts = (f"{f.name}={_shorten(getattr(self, f.name))}" for f in fields(self) if f.repr)  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(parts)})"


class ShortTuple(tuple[T, ...]):
    """A tuple whose display has few items. Its slices are such tuples too."""

    __slots__ = ()

    @overload  # type: ignore[override]
    def __getitem__(self, key: int) -> T: ...
    @overload
    def __getitem__(self, key: slice) -> "ShortTuple[T]": ...
    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return ShortTuple(found) if isinstance(key, slice) else found

    def __repr__(self) -> str:
        return f"({_join(map(_shorten, self), len(self))}{',' if len(self) == 1 else ''})"


class ShortList(list[T]):
    """A list whose display has few items. Its slices are such lists too."""

    @overload  # type: ignore[override]
    def __getitem__(self, key: int) -> T: ...
    @overload
    def __getitem__(self, key: slice) -> "ShortList[T]": ...
    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return ShortList(found) if isinstance(key, slice) else found

    def __repr__(self) -> str:
        return f"[{_join(map(_shorten, self), len(self))}]"


class ShortDict(dict[K, T]):
    """A dictionary whose display has few items."""

    def __repr__(self) -> str:
        items = (f"{_shorten(key)}: {_shorten(value)}" for key, value in self.items())
        return f"{{{_join(items, len(self))}}}"


def _shorten(value: object) -> str:
    return " ".join(_REPR.repr(value).split())


def _join(items: Iterable[str], count: int) -> str:
    shown = list(islice(items, _ITEMS))
    if count > _ITEMS:
        shown.append(f"... {count - _ITEMS:,} more")
    return ",\n ".join(shown)
