"""The texts under the fields of dataclasses, for help and for descriptions of interfaces."""

import ast
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from itertools import pairwise


def read_field_texts(cls: type, flags: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the text under each field of a dataclass, which Python keeps only in the source.

    Args:
        cls: The dataclass.
        flags: Command-line flag by field name. It replaces the name of a field in a text.
    """
    known = flags or {}
    texts: dict[str, str] = {}
    for base in reversed([base for base in cls.__mro__ if is_dataclass(base)]):
        definition = _class_definitions(base.__module__)[base.__name__]
        texts |= {
            field.target.id: clean_text(
                re.sub(r"``(\w+)``", lambda m: known.get(m[1], m[1]), str(text.value.value))
            )
            for field, text in pairwise(definition.body)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        }
    return texts


@cache
def _class_definitions(module: str) -> dict[str, ast.ClassDef]:
    """Return the classes of a module. Parsing once is faster than inspect.getsource per class."""
    statements = ast.parse(inspect.getsource(sys.modules[module])).body
    return {each.name: each for each in statements if isinstance(each, ast.ClassDef)}


def clean_text(text: str) -> str:
    """Return text on one line, without double backticks."""
    return " ".join(text.replace("``", "").split())
