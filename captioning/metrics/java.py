"""METEOR and SPICE, which exist in Java only: an extra that is checked before any work starts."""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from captioning.errors import ScoreError

METRICS = ("meteor", "spice")
_MEMORY = {"meteor": 2, "spice": 8}  # GiB of heap that pycocoevalcap asks Java for
_FILES = {
    "meteor": ("meteor/meteor-1.5.jar", "meteor/data/paraphrase-en.gz"),
    "spice": (
        "spice/spice-1.0.jar",
        "spice/lib/stanford-corenlp-3.6.0.jar",
        "spice/lib/stanford-corenlp-3.6.0-models.jar",
    ),
}


def check_java(metrics: Sequence[str]) -> None:
    """Make sure that ``metrics`` can be computed here: package, Java, files and memory.

    Call it before captioning starts: a missing file is found in a second and not after hours.

    Raises:
        ScoreError: Something is missing; the message says what and how to get it.
    """
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown:
        raise ScoreError(f"{unknown[0]!r} is no metric in Java. There are {' and '.join(METRICS)}.")
    root = _package()
    if shutil.which("java") is None:
        raise ScoreError(
            f"{' and '.join(metrics)} cannot run without Java, and no 'java' was found on the "
            "PATH. Install a Java runtime (Debian: apt install default-jre-headless; conda: "
            "conda install openjdk)."
        )
    for metric in metrics:
        for name in _FILES[metric]:
            if not (root / name).is_file():
                how = (
                    "Download Stanford CoreNLP once with: "
                    "python -m pycocoevalcap.spice.get_stanford_models"
                    if "corenlp" in name
                    else "Install it again: pip install --force-reinstall pycocoevalcap"
                )
                raise ScoreError(f"{metric} needs {root / name}, which is not there. {how}")
        _check_memory(metric)


def _package() -> Path:
    spec = find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise ScoreError(
            "METEOR and SPICE come with pycocoevalcap, which is not installed. "
            "Install it with: pip install 'captioning[java-metrics]'"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _check_memory(metric: str) -> None:
    heap = _MEMORY[metric]
    started = subprocess.run(
        ["java", f"-Xmx{heap}G", "-version"], capture_output=True, text=True, check=False
    )
    if started.returncode:
        raise ScoreError(
            f"{metric} asks Java for {heap} GiB of memory, and Java does not start with it: "
            f"{(started.stderr or started.stdout).strip()[:200]}"
        )
    available = _available_memory()
    if available is not None and available < heap * 2**30:
        raise ScoreError(
            f"{metric} may use {heap} GiB of memory, and {available / 2**30:.1f} GiB are free. "
            "Close other programs, or leave this metric out."
        )


def _available_memory() -> int | None:
    """Return the free memory in bytes, or None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def java_scores(
    metrics: Sequence[str],
    words: Sequence[Sequence[str]],
    image: Int[np.ndarray, " captions"],
    images: int,
) -> dict[str, tuple[float, Float[np.ndarray, " images"]]]:
    """Return each metric's corpus score and its score of each image.

    Args:
        metrics: Out of :data:`METRICS`; see :func:`check_java`.
        words: Tokenized captions: first one candidate for each image, then all references.
        image: The place of the image that each caption belongs to.
        images: How many images there are.
    """
    candidates = {i: [" ".join(words[i])] for i in range(images)}
    references: dict[int, list[str]] = {i: [] for i in range(images)}
    for i, caption in zip(image[images:].tolist(), words[images:], strict=True):
        references[i].append(" ".join(caption))
    scorers: dict[str, Callable[[Any, Any], tuple[float, np.ndarray]]] = {
        "meteor": _meteor,
        "spice": _spice,
    }
    return {metric: scorers[metric](references, candidates) for metric in metrics}


def _meteor(references: Any, candidates: Any) -> tuple[float, np.ndarray]:
    from pycocoevalcap.meteor.meteor import Meteor

    corpus, values = Meteor().compute_score(references, candidates)
    return float(corpus), np.array(values)


def _spice(references: Any, candidates: Any) -> tuple[float, np.ndarray]:
    from pycocoevalcap.spice.spice import Spice

    corpus, values = Spice().compute_score(references, candidates)
    return float(corpus), np.array([value["All"]["f"] for value in values])
