"""The public face of the package: its names are documented, and importing it is cheap."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import captioning

ROOMS = ["captioning"] + [
    f"captioning.{module.name}"
    for module in pkgutil.iter_modules([str(Path(captioning.__file__).parent)])
    if module.name != "__main__"  # importing it runs the command
]


def test_public_names_equal_the_documented_list():
    documented = re.findall(r"``(\w+)``", captioning.__doc__)
    assert sorted(documented) == sorted(captioning.__all__)


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_exist_once_with_docstrings(room):
    module = importlib.import_module(room)
    names = getattr(module, "__all__", [])
    assert module.__doc__
    assert len(names) == len(set(names))
    assert set(names) <= set(dir(module))
    for name in names:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            text = value.__doc__  # inspect.getdoc would return that of a parent class
            assert text, f"{room}.{name} has no docstring"
            # The default docstring of a dataclass is its signature.
            assert not text.startswith(f"{name}("), f"{room}.{name} has no docstring of its own"


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'captioning' has no attribute 'nonsense'"):
        _ = captioning.nonsense
