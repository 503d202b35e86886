"""The Java metrics are checked before any work, and each lack is said with its remedy."""

import shutil
import subprocess
from types import SimpleNamespace

import pytest

from captioning.errors import ScoreError
from captioning.metrics import check_java, java, score


def test_an_unknown_metric_is_said():
    with pytest.raises(ScoreError, match="'bleurt' is no metric in Java"):
        check_java(["bleurt"])


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setattr(java, "find_spec", lambda name: None)
    with pytest.raises(ScoreError, match=r"pip install 'captioning\[java-metrics\]'"):
        check_java(["meteor"])


def test_missing_java_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(java, "_package", lambda: tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ScoreError, match="meteor cannot run without Java, and no 'java' was found"):
        check_java(["meteor"])


def test_missing_files_are_said_before_java_starts(monkeypatch, tmp_path):
    monkeypatch.setattr(java, "_package", lambda: tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/java")
    with pytest.raises(ScoreError, match=r"meteor-1\.5\.jar, which is not there"):
        check_java(["meteor"])
    for name in java._FILES["spice"][:1]:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    with pytest.raises(ScoreError, match="get_stanford_models"):
        check_java(["spice"])


def test_too_little_memory_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(java, "_package", lambda: tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/java")
    for name in java._FILES["meteor"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    answer = SimpleNamespace(returncode=1, stderr="Could not reserve enough space", stdout="")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: answer)
    with pytest.raises(ScoreError, match=r"2 GiB .* Could not reserve"):
        check_java(["meteor"])
    answer.returncode = 0
    monkeypatch.setattr(java, "_available_memory", lambda: 2**30)
    with pytest.raises(ScoreError, match=r"1\.0 GiB are free"):
        check_java(["meteor"])


def test_a_java_metric_joins_the_scores(monkeypatch):
    monkeypatch.setattr(java, "check_java", lambda metrics: None)
    monkeypatch.setattr(java, "_meteor", lambda truth, found: (0.25, java.np.array([0.2, 0.3])))
    scores = score({1: "a", 2: "b"}, {1: ["a"], 2: ["c"]}, java=["meteor"])
    assert scores.meteor == 0.25
    assert scores.spice is None
    assert scores.per_image["meteor"].tolist() == [0.2, 0.3]
    assert "meteor:pycocoevalcap" in scores.signature
    assert "METEOR" in scores.table()
    # Neither a mean nor a sum over images: an interval of the mean would not even hold the score.
    assert set(scores.intervals(samples=10)) == {
        "bleu_1",
        "bleu_2",
        "bleu_3",
        "bleu_4",
        "rouge_l",
        "cider",
    }
