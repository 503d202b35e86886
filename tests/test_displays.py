"""Objects that end a notebook cell show something short, with their text escaped."""

import json
import pickle

import numpy as np
import pytest
from IPython.lib.pretty import pretty
from PIL import Image
from small_captioner import write_photos

from captioning.checkpoint import TrainingInfo
from captioning.datasets import CaptionSplit
from captioning.datasets.split import CaptionedImage, Problems
from captioning.decoding import BeamSearch
from captioning.evaluation.evaluate import EvaluationConfig, evaluate
from captioning.evaluation.search_sweep import SearchScores
from captioning.inference.results import Caption, CaptionResult
from captioning.metrics import DocumentFrequency, compare, score
from captioning.short_repr import ShortDict, ShortList, ShortTuple
from captioning.text.vocabulary import SPECIALS, Vocabulary

LIMIT = 2000  # characters of a display


def test_split_display_is_bounded_and_escaped():
    images = tuple(
        CaptionedImage(f"{number}.jpg", ("<script>" * 1000,), number) for number in range(1000)
    )
    problems = Problems({"images without captions": ("a.jpg",) * 1000})
    split = CaptionSplit(images, problems, "coco:" + "x" * 9999, "train")
    html = split._repr_html_()
    assert "'train': 1,000 images, 1,000 captions, 1,000 problems" in repr(split)
    assert "first: CaptionedImage(name='0.jpg'" in repr(split)
    for shown in (split, problems, problems.found, split.images, split.images[:500], images[0]):
        assert len(repr(shown)) < LIMIT
    assert repr(split.images).endswith("... 992 more)")
    assert split.images == images
    assert "<script>" not in html
    assert len(html) < 3 * LIMIT


def test_scores_display_has_every_score():
    scores = score({1: "a dog", 2: "a cat"}, {1: ["a dog runs"], 2: ["a cat"]})
    html = scores._repr_html_()
    assert f"<td>{100 * scores.cider:.2f}</td>" in html
    assert len(html) < LIMIT
    assert "n/a" in score({1: "a dog"}, {1: ["a dog"]})._repr_html_()


def make_caption(words):
    return Caption(
        " ".join(words), tuple(words), -1.0, finished=True, word_log_probs=(-1.0,) * 9999
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda many: Vocabulary([*SPECIALS, *many]).words,
        lambda many: DocumentFrequency.build({word: [word] for word in many}),
        lambda many: score(dict.fromkeys(many, "a b"), dict.fromkeys(many, ("a b",))),
        lambda many: score(dict.fromkeys(many, "a b"), dict.fromkeys(many, ("a b",))).per_image,
        lambda many: compare(
            *[dict.fromkeys(many, "a b")] * 2, dict.fromkeys(many, ("a",)), samples=2
        ),
        lambda many: BeamSearch(forbidden_words=tuple(many)),
        lambda many: CaptionResult("a.jpg", (make_caption(many),) * 1000).captions,
        make_caption,
        lambda many: TrainingInfo(data=" ".join(many), epochs=1, seed=0, torch="2"),
        lambda many: ShortDict(dict.fromkeys(many, many)),
    ],
)
def test_display_of_many_words_is_bounded(make):
    shown = make([f"word{i}" for i in range(2000)])
    assert len(repr(shown)) < LIMIT
    assert len(str(shown)) < LIMIT


def test_short_containers_equal_plain_ones_and_keep_their_type():
    many = list(range(5000))
    for kind, plain in ((ShortList, many), (ShortTuple, tuple(many))):
        short = kind(many)
        assert short == plain
        assert pickle.loads(pickle.dumps(short)) == plain
        assert type(pickle.loads(pickle.dumps(short))) is kind
        assert short[-1] == 4999
        for part in (short, short[10:], short[::2]):
            assert type(part) is kind
            assert len(repr(part)) == len(pretty(part)) < 100
    assert repr(ShortList([1])) == "[1]"
    assert repr(ShortTuple([1])) == "(1,)"
    assert repr(ShortDict({"a": 1})) == "{'a': 1}"


def test_checkpoint_and_evaluation_displays_are_bounded(captioner, tmp_path):
    assert len(repr(captioner.checkpoint)) < LIMIT
    photos = write_photos(tmp_path, 20)
    results = captioner(photos)
    assert len(repr(results)) < LIMIT
    assert repr(results).endswith("... 12 more]")
    assert results[:2] == list(results)[:2]
    annotations = [{"id": i, "image_id": i, "caption": "a dog"} for i in range(20)]
    images = [{"id": i, "file_name": path.name} for i, path in enumerate(photos)]
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    data = f"coco:{tmp_path / 'c.json'}@{tmp_path}"
    result = evaluate(captioner, data, config=EvaluationConfig(workers=0))
    for shown in (result, result.captions, result.references, result.errors, result.split):
        assert len(repr(shown)) < LIMIT
    searches = [BeamSearch(width=width, length_penalty=0.1) for width in range(1, 30)]
    table = SearchScores(dict.fromkeys(searches, result.scores))
    assert f"{100 * result.scores.bleu_1:.2f}" in repr(table)
    assert len(repr(table)) < 3 * LIMIT
    assert table._repr_html_().count("<tr") < 15


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
