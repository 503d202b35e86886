"""The search and the n-grams that a model gets after the last epoch."""

from dataclasses import replace

import pytest
import torch
from small_run import TINY, config, copy_run

from captioning.checkpoint import load_checkpoint
from captioning.datasets import read_captions
from captioning.decoding import BeamSearch
from captioning.evaluation.evaluate import EvaluationConfig, evaluate
from captioning.evaluation.search_sweep import candidate_searches, select_search
from captioning.features.cached_model import CachedModel
from captioning.features.extraction import ExtractionConfig, cache_features
from captioning.images.decode import read_image
from captioning.inference.captioner import Captioner
from captioning.metrics import score
from captioning.nn.decoder_config import DecoderConfig
from captioning.reranking.ngram import NgramReranker
from captioning.text.caption_arrays import CaptionWords
from captioning.training.callback import TrainingCallback
from captioning.training.run import train

pytestmark = pytest.mark.xdist_group("runs")  # one process trains the shared runs
VALIDATION = EvaluationConfig(workers=0)
RUNS = pytest.mark.parametrize("run", ["trained", "fine_tuned", "augmented"])


@RUNS
def test_model_keeps_the_search_that_scores_best(run, request):
    """Scored from pixels, without a cache."""
    model = request.getfixturevalue(run)
    checkpoint = load_checkpoint(model)
    captioner = Captioner(checkpoint)
    found = {
        search: evaluate(captioner, f"coco:{TINY}", search=search, config=VALIDATION).scores
        for search in candidate_searches(checkpoint)
    }
    sums = {search: scores.cider + scores.bleu_4 for search, scores in found.items()}
    assert sums[checkpoint.search] == pytest.approx(max(sums.values()), abs=1e-4)
    assert max(sums.values()) > min(sums.values())
    expected = found[checkpoint.search].cider
    assert checkpoint.info.scores["CIDEr (val, 8 images)"] == pytest.approx(expected, abs=1e-4)
    assert checkpoint.info.search_chosen
    assert f"width: {checkpoint.search.width}" in (model / "README.md").read_text()


def test_search_is_chosen_once_on_search_images(plain, tmp_path):
    run = copy_run(plain, tmp_path / "run")
    model = tmp_path / "run" / "model"
    checkpoint = load_checkpoint(model)
    assert checkpoint.search == BeamSearch(width=3)
    assert not checkpoint.info.search_chosen
    messages = []
    train(replace(run, search_images=3), TrainingCallback(messages.append))
    assert "Choosing the search (val, 3 images)." in messages
    checkpoint = load_checkpoint(model)
    found = evaluate(Captioner(checkpoint), f"coco:{TINY}", config=VALIDATION)
    spread = [list(found.captions)[row] for row in (0, 2, 5)]  # evenly, not the first three
    captions = {image: found.captions[image] for image in spread}
    expected = score(captions, {image: found.references[image] for image in spread}).cider
    assert expected > 0
    assert checkpoint.info.scores["CIDEr (val, 3 images)"] == pytest.approx(expected, abs=1e-4)
    written = (model / "config.json").stat().st_mtime_ns
    train(replace(run, search_images=5), TrainingCallback(messages.append))
    assert messages[-1] == "Search already selected."
    assert (model / "config.json").stat().st_mtime_ns == written


def test_reranker_has_as_many_ngrams_as_configured(plain, tmp_path):
    messages = []
    run = copy_run(plain, tmp_path / "run", search_images=2, rerank_ngrams=50)
    checkpoint = load_checkpoint(train(run, TrainingCallback(messages.append)).model_dir)
    assert "Learned 50 n-grams." in messages
    assert len(checkpoint.reranker) == 50


@RUNS
def test_reranker_is_fit_to_features_of_the_saved_model(run, request):
    checkpoint = load_checkpoint(request.getfixturevalue(run))
    split = read_captions(f"coco:{TINY}", split="train")
    encoder = checkpoint.model.encoder
    size = encoder.preprocessing.size
    pixels = [
        encoder.preprocessing.pixels(read_image(image.path, shrink_to=size))
        for image in split.images
    ]
    with torch.inference_mode():
        vectors = encoder(torch.stack(pixels)).vector
    words = CaptionWords.tokenize(image.captions for image in split.images)
    expected = NgramReranker.fit(vectors, words, checkpoint.vocabulary)
    found = checkpoint.reranker
    assert torch.equal(found.tokens, expected.tokens)
    both = [each.weights.float() * each.scales[:, None] for each in (found, expected)]
    assert (both[0] - both[1]).abs().max() <= 0.03 * both[1].abs().max()  # features have 16 bits


def test_model_without_reranker_has_search_without_it(plain, tmp_path):
    no_ngrams = copy_run(plain, tmp_path / "run", search_images=2, rerank_ngrams=0)
    no_image = replace(
        config(tmp_path / "other", epochs=1),
        decoder=DecoderConfig(injection="none", embedding_size=16, hidden_size=16),
        search_images=2,
    )
    for run in (no_ngrams, no_image):
        checkpoint = load_checkpoint(train(run).model_dir)
        assert checkpoint.reranker is None
        assert checkpoint.search.rerank_weight == 0


def test_search_is_kept_if_no_caption_scores(trained, tmp_path):
    checkpoint = replace(load_checkpoint(trained), search=BeamSearch(width=3))
    paths = [image.path for image in read_captions(f"coco:{TINY}", split="val").images]
    config = ExtractionConfig(workers=0)
    cache = cache_features(checkpoint.model.encoder, paths, tmp_path, config)
    messages = []
    same = select_search(
        checkpoint,
        CachedModel(checkpoint.model.decoder),
        cache,
        {0: ["zebras yawn quietly"], 1: ["xylophones"]},
        split_name="val",
        on_message=messages.append,
    )
    assert "All searches score 0" in messages[-1]
    assert same is checkpoint
