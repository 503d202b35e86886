"""A task that is ready to run, and the time of its parts."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Prepared:
    """A task that is ready to run.

    Attributes:
        run: Processes all units once.
        units: Their number.
        stages: Seconds of the parts, which ``run`` adds up.
        facts: Other figures for the report.
        before: Called before each run; its time does not count.
    """

    run: Callable[[], object]
    units: int
    stages: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    before: Callable[[], object] = lambda: None


def timed(call: Callable[..., Any], stages: dict[str, float], name: str) -> Callable[..., Any]:
    """Return a function that adds its time to a stage."""
    stages.setdefault(name, 0.0)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            stages[name] += time.perf_counter() - start

    return wrapped


def time_attributes(owner: object, names: tuple[str, ...], stages: dict[str, float]) -> None:
    """Measure each attribute of a class or a module that exists; its name is the stage."""
    for name in names:
        if hasattr(owner, name):
            setattr(owner, name, timed(getattr(owner, name), stages, name))
