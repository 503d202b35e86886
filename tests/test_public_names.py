"""What the package says it offers is there, and says what it is."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import captioning

ROOMS = ["captioning"] + [
    f"captioning.{module.name}"
    for module in pkgutil.iter_modules([str(Path(captioning.__file__).parent)])
    if module.name != "__main__"  # importing it runs the command
]


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_says_what_it_is(room: str) -> None:
    assert importlib.import_module(room).__doc__


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_exist_and_are_documented(room: str) -> None:
    module = importlib.import_module(room)
    for name in getattr(module, "__all__", []):
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            text = value.__doc__  # inspect.getdoc would find a parent's
            assert text, f"{room}.{name} has no docstring"
            # A dataclass without a docstring gets its signature for one.
            assert not text.startswith(f"{name}("), f"{room}.{name} has no docstring of its own"


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_stand_once_each(room: str) -> None:
    names = getattr(importlib.import_module(room), "__all__", [])
    assert len(names) == len(set(names))
    assert set(names) <= set(dir(importlib.import_module(room)))


@pytest.mark.parametrize("room", ["captioning"])
def test_an_unknown_name_is_an_attribute_error(room: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{room}' has no attribute 'nonsense'"):
        _ = importlib.import_module(room).nonsense
