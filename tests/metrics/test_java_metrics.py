"""METEOR and SPICE: requirements are checked before any work, and scores are added."""

import shutil
import subprocess
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from required_tools import require_tool

from captioning.errors import ScoreError
from captioning.metrics import check_java, java, score, scores

INTERVALS = {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"}


@pytest.fixture
def package(monkeypatch, tmp_path):
    """An empty folder in place of pycocoevalcap, and a Java program that does not exist."""
    monkeypatch.setattr(java, "_find_package", lambda: tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/java")
    return tmp_path


def touch(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_check_java_unknown_metric_is_refused():
    with pytest.raises(ScoreError, match="'bleurt' is not a Java metric"):
        check_java(["bleurt"])


def test_check_java_without_package_names_it(monkeypatch):
    monkeypatch.setattr(java, "find_spec", lambda name: None)
    with pytest.raises(ScoreError, match="pip install pycocoevalcap"):
        check_java(["meteor"])


def test_check_java_without_java_is_refused(package, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ScoreError, match="meteor cannot run without Java, and there is no 'java'"):
        check_java(["meteor"])


def test_check_java_without_files_names_them(package):
    with pytest.raises(ScoreError, match=r"meteor-1\.5\.jar, which does not exist"):
        check_java(["meteor"])
    touch(package, java._FILES["spice"][:1])
    with pytest.raises(ScoreError, match="get_stanford_models"):
        check_java(["spice"])


def test_check_java_with_too_little_memory_is_refused(package, monkeypatch):
    touch(package, java._FILES["meteor"])
    result = SimpleNamespace(returncode=1, stderr="Could not reserve enough space", stdout="")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: result)
    with pytest.raises(ScoreError, match=r"2 GiB .* Could not reserve"):
        check_java(["meteor"])
    result.returncode = 0
    monkeypatch.setattr(java, "_available_memory", lambda: 2**30)
    with pytest.raises(ScoreError, match=r"only 1\.0 GiB are free"):
        check_java(["meteor"])


def test_score_with_meteor_adds_it_without_interval(monkeypatch):
    monkeypatch.setattr(scores, "check_java", lambda metrics: None)
    monkeypatch.setattr(
        java, "_compute_meteor", lambda *_: java.JavaScores(0.25, np.array([0.2, 0.3]))
    )
    result = score({1: "a", 2: "b"}, {1: ["a"], 2: ["c"]}, java=["meteor"])
    assert (result.meteor, result.spice) == (0.25, None)
    assert result.per_image["meteor"].tolist() == [0.2, 0.3]
    assert "meteor:pycocoevalcap" in result.signature
    assert "METEOR" in result.table()
    # METEOR of a corpus is neither a sum nor a mean over images.
    assert set(result.intervals(samples=10)) == INTERVALS


@require_tool("Java and pycocoevalcap", bool(shutil.which("java") and find_spec("pycocoevalcap")))
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # open pipes
def test_meteor_of_an_identical_caption_is_one():
    candidates, references = {1: "a dog runs", 2: "a cat"}, {1: ["a dog runs"], 2: ["two birds"]}
    meteor = score(candidates, references, java=["meteor"]).per_image["meteor"]
    assert meteor.tolist() == [1.0, 0.0]
