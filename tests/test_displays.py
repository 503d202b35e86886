"""Objects that end a notebook cell show something short, with their text escaped."""

from pathlib import Path

import numpy as np
from PIL import Image
from small_captioner import write_photos

from captioning.datasets import CaptionSplit
from captioning.datasets.split import CaptionedImage, Problems
from captioning.inference.results import Caption, CaptionResult
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


def test_captioner_display_names_its_parts(captioner):
    for text in (repr(captioner), captioner._repr_html_()):
        for fact in ("timm:test_resnet", "lstm", "words", "BeamSearch(", "cpu"):
            assert fact in text
        assert len(text) < LIMIT


def test_result_display_shows_image_and_caption(captioner, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2000, 3000, 3), np.uint8)
    (path,) = write_photos(tmp_path, 1)
    for source in (noise, Image.fromarray(noise), path, str(path), path.read_bytes()):
        result = captioner(source)
        html = result._repr_html_()
        assert '<img src="data:image/jpeg;base64,' in html
        assert result.text in html
        assert len(html) < 50_000
        assert result.text in repr(result)
    path.unlink()
    assert "<img" not in CaptionResult(str(path), result.captions)._repr_html_()


def test_result_display_is_bounded_and_escaped():
    caption = Caption("<script>" * 1000, ("a",), -1.0, finished=True, word_log_probs=(-1.0,))
    for result in (
        CaptionResult("<b>" * 1000, (caption,) * 1000),
        CaptionResult("<b>" * 1000, error="<script>" * 1000),
    ):
        html = result._repr_html_()
        assert "<script>" not in html
        assert "<b>" not in html
        assert len(html) < 5 * LIMIT
        assert len(repr(result)) < LIMIT
