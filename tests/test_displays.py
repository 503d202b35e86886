"""Objects that end a notebook cell show something short, with their text escaped."""

from pathlib import Path

from captioning.datasets import CaptionSplit
from captioning.datasets.split import CaptionedImage, Problems
from captioning.metrics import score

LIMIT = 2000  # characters of a display


def test_split_display_is_bounded_and_escaped():
    images = tuple(
        CaptionedImage(Path(f"{number}.jpg"), ("<script>" * 1000,), number)
        for number in range(1000)
    )
    problems = Problems({"images without captions": ("a.jpg",) * 1000})
    split = CaptionSplit(images, problems, "coco:" + "x" * 9999, "train")
    html = split._repr_html_()
    assert "'train': 1,000 images, 1,000 captions, 1,000 problems" in repr(split)
    assert max(len(repr(split)), len(repr(problems))) < 300
    assert "<script>" not in html
    assert len(html) < 3 * LIMIT


def test_scores_display_has_every_score():
    scores = score({1: "a dog", 2: "a cat"}, {1: ["a dog runs"], 2: ["a cat"]})
    html = scores._repr_html_()
    assert f"<td>{100 * scores.cider:.2f}</td>" in html
    assert len(html) < LIMIT
    assert "n/a" in score({1: "a dog"}, {1: ["a dog"]})._repr_html_()
