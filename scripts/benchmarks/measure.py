"""Alternating repeats of several systems, and what follows from their times."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

PAUSE = 0.3  # seconds; threads of the system before still spin for a moment
PACKAGES = ("torch", "openvino", "transformers", "numpy", "pillow", "pycocoevalcap")


@dataclass(frozen=True)
class Run:
    """One repeat of a system.

    Attributes:
        seconds: Its time.
        units: Images, captions or other things that it processed.
        stages: Seconds of its parts.
        facts: Other figures, such as memory.
    """

    seconds: float
    units: int
    stages: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cost(self) -> float:
        """Seconds per unit."""
        return self.seconds / self.units


class System(Protocol):
    """Something to measure: this checkout, a limit, or a peer."""

    name: str

    def run(self) -> Run:
        """Process all units once."""
        ...

    def close(self) -> None:
        """End its process."""
        ...


Runs = dict[str, list[Run]]


Ratios = Mapping[str, Callable[[Mapping[str, Run]], float]]
"""The ratios to report: what each computes from the runs of one round, by system."""


def faster(system: str, *, than: str) -> Callable[[Mapping[str, Run]], float]:
    """Return how many times faster a system is than another, per unit."""
    return lambda runs: runs[than].cost / runs[system].cost


def compute_ratios(runs: Runs, ratios: Ratios) -> dict[str, Any]:
    """Return each ratio, computed in each round and then summarized."""
    rounds = [
        dict(zip(runs, one_round, strict=True)) for one_round in zip(*runs.values(), strict=True)
    ]
    return {name: spread([compute(one) for one in rounds]) for name, compute in ratios.items()}


def measure(systems: Sequence[System], repeats: int, *, warmups: int) -> Runs:
    """Run all systems in turn, several times: A B C A B C.

    Args:
        systems: The systems; closed at the end.
        repeats: Measured rounds.
        warmups: Rounds before them that are not measured.
    """
    runs: Runs = {system.name: [] for system in systems}
    try:
        for number in range(-warmups, repeats):
            for system in systems:
                time.sleep(PAUSE)
                run = system.run()
                label = f"round {number + 1} of {repeats}" if number >= 0 else "warm-up"
                print(f"  {label}, {system.name}: {run.seconds:.2f} s, {1 / run.cost:.1f} units/s",
                      file=sys.stderr, flush=True)  # fmt: skip
                if number >= 0:
                    runs[system.name].append(run)
    finally:
        for system in systems:
            system.close()
    return runs


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return median, minimum, maximum and all values."""
    summary = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {
        **{name: _round(value) for name, value in summary.items()},
        "all": [*map(_round, values)],
    }


def summarize(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the figures of one system: times in milliseconds per unit, stages and facts."""
    stages = {
        name: _round(statistics.median(1000 * run.stages[name] / run.units for run in runs))
        for name in runs[0].stages
    }
    return {
        "units": runs[0].units,
        "per_second": _round(statistics.median(1 / run.cost for run in runs)),
        "ms_per_unit": spread([1000 * run.cost for run in runs]),
        **({"stages_ms_per_unit": stages} if stages else {}),
        **{name: _round(x) if isinstance(x, float) else x for name, x in runs[-1].facts.items()},
    }


def report(
    benchmark: str, runs: Runs, ratios: Ratios, options: Mapping[str, Any], unit: str
) -> dict[str, Any]:
    """Return the whole result as JSON data."""
    return {
        "benchmark": benchmark,
        "unit": unit,
        "systems": {name: summarize(own) for name, own in runs.items()},
        "ratios": compute_ratios(runs, ratios),
        "options": {name: value for name, value in options.items() if value not in (None, [])},
        "machine": describe_machine(),
    }


def print_report(result: Mapping[str, Any]) -> None:
    """Print the result as a table to standard error."""
    lines = [f"\n{result['benchmark']} ({result['unit']}s)"]
    lines += [f"{'system':<16}{'per second':>11}{'ms':>10}{'min':>10}{'max':>10}  MB at peak"]
    for name, own in result["systems"].items():
        ms = own["ms_per_unit"]
        lines.append(
            f"{name:<16}{own['per_second']:>11.1f}{ms['median']:>10.3f}{ms['min']:>10.3f}"
            f"{ms['max']:>10.3f}{own.get('peak_mb', 0):>12.0f}"
        )
        for stage, value in own.get("stages_ms_per_unit", {}).items():
            lines.append(f"  {stage:<25}{value:>10.3f}")
    for name, ratio in result["ratios"].items():
        lines.append(f"{name}: {ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f})")
    print("\n".join(lines), file=sys.stderr)


def describe_machine() -> dict[str, Any]:
    """Return processor, memory, and versions."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": _read_field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "memory": _read_field("/proc/meminfo", "MemTotal"),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def _read_field(path: str, name: str) -> str:
    """Return the first value of a field in a file of the Linux kernel; empty elsewhere."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _round(value: float) -> float:
    """Round to five significant digits."""
    return float(f"{value:.5g}")
