"""METEOR and SPICE, which exist only in Java: an optional dependency."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from captioning.errors import ScoreError

METRICS = ("meteor", "spice")
_HEAP_GIB = {"meteor": 2, "spice": 8}  # heap size with which pycocoevalcap starts Java
_FILES = {
    "meteor": ("meteor/meteor-1.5.jar", "meteor/data/paraphrase-en.gz"),
    "spice": (
        "spice/spice-1.0.jar",
        "spice/lib/stanford-corenlp-3.6.0.jar",
        "spice/lib/stanford-corenlp-3.6.0-models.jar",
    ),
}


@dataclass(frozen=True)
class JavaScores:
    """One metric: the score of the corpus and of each image."""

    corpus: float
    per_image: Float[np.ndarray, " images"]


def check_java(metrics: Sequence[str]) -> None:
    """Check that the package, Java, all files and enough memory are available.

    Call this before captioning, which may take hours.

    Args:
        metrics: Any of :data:`METRICS`.

    Raises:
        ScoreError: Something is missing; the message says how to get it.
    """
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown:
        raise ScoreError(f"{unknown[0]!r} is not a Java metric. Use {' or '.join(METRICS)}.")
    root = _find_package()
    if shutil.which("java") is None:
        raise ScoreError(
            f"{' and '.join(metrics)} cannot run without Java, and there is no 'java' on the "
            "PATH. Install a Java runtime (Debian: apt install default-jre-headless; conda: "
            "conda install openjdk)."
        )
    for metric in metrics:
        for name in _FILES[metric]:
            if not (root / name).is_file():
                advice = (
                    "Download Stanford CoreNLP once: "
                    "python -m pycocoevalcap.spice.get_stanford_models"
                    if "corenlp" in name
                    else "Install the package again: pip install --force-reinstall pycocoevalcap"
                )
                raise ScoreError(f"{metric} needs {root / name}, which does not exist. {advice}")
        _check_memory(metric)


def _find_package() -> Path:
    spec = find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise ScoreError(
            "METEOR and SPICE need pycocoevalcap, which is not installed. Install it: "
            "pip install pycocoevalcap"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _check_memory(metric: str) -> None:
    heap = _HEAP_GIB[metric]
    java = subprocess.run(
        ["java", f"-Xmx{heap}G", "-version"], capture_output=True, text=True, check=False
    )
    if java.returncode:
        raise ScoreError(
            f"{metric} starts Java with {heap} GiB of memory, which fails: "
            f"{(java.stderr or java.stdout).strip()[:200]}"
        )
    available = _available_memory()
    if available is not None and available < heap * 2**30:
        raise ScoreError(
            f"{metric} may use {heap} GiB of memory, but only {available / 2**30:.1f} GiB are "
            "free. Close other programs, or omit this metric."
        )


def _available_memory() -> int | None:
    """Return the free memory in bytes, or None if the system does not report it."""
    with suppress(OSError):
        if found := re.search(r"MemAvailable: *(\d+)", Path("/proc/meminfo").read_text()):
            return int(found[1]) * 1024
    return None


def compute_java_scores(
    metrics: Sequence[str],
    words: Sequence[Sequence[str]],
    image_index: Int[np.ndarray, " captions"],
    image_count: int,
) -> dict[str, JavaScores]:
    """Return the scores of each metric.

    Args:
        metrics: Any of :data:`METRICS`; call :func:`check_java` first.
        words: Words of one candidate per image, then of all references.
        image_index: Index of the image of each caption.
        image_count: Number of images.
    """
    candidates = {i: [" ".join(words[i])] for i in range(image_count)}
    references: dict[int, list[str]] = {i: [] for i in range(image_count)}
    for i, caption in zip(image_index[image_count:].tolist(), words[image_count:], strict=True):
        references[i].append(" ".join(caption))
    scorers = {"meteor": _compute_meteor, "spice": _compute_spice}
    return {metric: scorers[metric](references, candidates) for metric in metrics}


def _compute_meteor(references: Any, candidates: Any) -> JavaScores:
    from pycocoevalcap.meteor.meteor import Meteor

    corpus, values = Meteor().compute_score(references, candidates)
    return JavaScores(float(corpus), np.array(values))


def _compute_spice(references: Any, candidates: Any) -> JavaScores:
    from pycocoevalcap.spice.spice import Spice

    corpus, values = Spice().compute_score(references, candidates)
    return JavaScores(float(corpus), np.array([value["All"]["f"] for value in values]))
