"""Consensus reranking: hypotheses ranked by the captions of similar images."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_captioner import small_checkpoint, write_photos

from captioning.cli.main import main
from captioning.datasets import read_captions
from captioning.decoding import BeamSearch, Greedy, Sampling
from captioning.decoding.hypothesis import Hypothesis
from captioning.errors import ConfigError, DataError, ScoreError
from captioning.evaluation.evaluate import EvaluationConfig, evaluate
from captioning.evaluation.search_sweep import sweep
from captioning.inference.captioner import Captioner
from captioning.metrics import DocumentFrequency, score
from captioning.reranking.consensus import Consensus, ConsensusConfig

TINY = Path(__file__).parents[2] / "data" / "tiny"
PENALTY = 1.5  # of the length, in the searches of this file
SAID = [
    ["a red ball on the grass", "a ball lies in a field"],
    ["a blue box on a table", "the box is blue"],
    ["a red ball in the snow", "somebody lost a red ball"],
    ["a tent at night", "a small tent under the stars"],
]
VECTORS = torch.tensor([[1.0, 0.2, 0.0], [0.0, 1.0, 0.1], [0.9, 0.0, 0.5], [0.0, 0.1, 1.0]])


def consensus(**settings):
    words = [[caption.split() for caption in captions] for captions in SAID]
    return Consensus(VECTORS, words, config=ConsensusConfig(**settings))


def cider_d(caption, image):
    """CIDEr-D as the scorer has it, words weighed by all that was said."""
    frequency = DocumentFrequency.build(dict(enumerate(SAID)))
    return score({0: caption}, {0: SAID[image]}, document_frequency=frequency).cider


def expected(vector, caption, num_neighbors, power):
    rows = VECTORS.numpy()
    cosines = rows @ vector / (np.linalg.norm(rows, axis=1) * np.linalg.norm(vector))
    nearest = sorted(range(len(SAID)), key=lambda j: -cosines[j])[:num_neighbors]
    shares = [cosines[j] ** power for j in nearest]
    values = [share * cider_d(caption, j) for share, j in zip(shares, nearest, strict=True)]
    return sum(values) / sum(shares)


@pytest.mark.parametrize(("num_neighbors", "power"), [(1, 2.0), (2, 2.0), (3, 0.0), (4, 5.0)])
def test_score_captions_is_weighted_cider_of_nearest_images(num_neighbors, power):
    vector = np.array([0.7, 0.3, 0.4])
    captions = ["a red ball on the grass", "a blue box", "a tent under the stars"]
    found = consensus(num_neighbors=num_neighbors, power=power).score_captions(
        torch.tensor(vector), [caption.split() for caption in captions]
    )
    wanted = [expected(vector, caption, num_neighbors, power) for caption in captions]
    assert found == pytest.approx(wanted, rel=1e-5)
    assert max(found) > 0


def test_score_captions_vector_with_gradient_is_accepted():
    vector, words = torch.ones(3), [["a", "red", "ball"]]
    values = consensus().score_captions(vector.clone().requires_grad_(), words)
    assert values == consensus().score_captions(vector, words)


def test_rerank_adds_search_score_and_weighted_consensus():
    words = [["a", "tent"], ["a", "red", "ball"], ["a", "blue", "box"]]
    found = [Hypothesis((n,), float(n), -float(n), True, (float(n),)) for n in (1, 2, 3)]
    vector = torch.tensor([1.0, 0.0, 0.2])
    for weight in (0.0, 0.1, 1.0, 10.0):
        consensus_scores = consensus(weight=weight).score_captions(vector, words)
        values = [one.score + weight * a for one, a in zip(found, consensus_scores, strict=True)]
        best = consensus(weight=weight).rerank(vector, found, words)
        assert [values[found.index(one)] for one in best] == sorted(values, reverse=True)
    assert consensus(weight=0.0).rerank(vector, found, words) == found
    assert consensus(weight=10.0).rerank(vector, found, words)[0] is found[1]


def test_rerank_puts_unfinished_hypotheses_last():
    words = [["a", "red", "ball"], ["a", "tent"], ["a", "red", "ball", "on"]]
    found = [
        Hypothesis((place,), 0.0, 0.0, finished, (0.0,))
        for place, finished in enumerate((False, True, False))
    ]
    vector = torch.tensor([1.0, 0.0, 0.2])
    consensus_scores = consensus().score_captions(vector, words)
    assert consensus_scores[2] > consensus_scores[0] > consensus_scores[1]
    best = consensus().rerank(vector, found, words)
    assert [one.tokens for one in best] == [(1,), (2,), (0,)]


def test_score_captions_few_or_dissimilar_images_is_finite():
    away = consensus(num_neighbors=50).score_captions(-VECTORS.sum(0), [["a", "red", "ball"]])
    assert all(math.isfinite(value) for value in away)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    checkpoint = small_checkpoint()
    with torch.no_grad():  # nearer to even, so that a beam's captions score much alike
        for weight in checkpoint.model.decoder.parameters():
            weight.mul_(0.4)
        checkpoint.model.decoder.W_rw.bias[checkpoint.vocabulary.eos] += 2
    search = BeamSearch(width=4, max_length=8, length_penalty=PENALTY)
    alone = Captioner(replace(checkpoint, search=search))
    cache = tmp_path_factory.mktemp("features")
    return alone.with_consensus(f"coco:{TINY}", cache=cache, workers=0)


def ranks_highest(beam, consensus_scores):
    """Return the caption of the highest sum, among the finished ones where there are any."""
    scores = [each.log_prob / (len(each.words) + each.finished) ** PENALTY for each in beam]
    sums = [score + 3.0 * a for score, a in zip(scores, consensus_scores, strict=True)]
    ended = [place for place, each in enumerate(beam) if each.finished]
    return beam[max(ended or range(len(beam)), key=sums.__getitem__)]


def test_captioner_returns_highest_ranked_hypothesis(captioner):
    alone = Captioner(captioner.checkpoint)
    wide = replace(captioner.checkpoint.search, n=4)
    moved = 0
    for image in read_captions(f"coco:{TINY}", split="val").images:
        beam = alone.caption(image.path, search=wide).captions
        pixels = alone.read_pixels(image.path).unsqueeze(0)
        with torch.inference_mode():
            vector = alone.checkpoint.model.encoder(pixels).vector[0]
        consensus_scores = captioner.consensus.score_captions(vector, [each.words for each in beam])
        best = ranks_highest(beam, consensus_scores)
        assert captioner.caption(image.path).text == best.text
        assert len(captioner.caption(image.path).captions) == 1
        ranked = captioner.caption(image.path, search=wide).captions
        assert sorted(each.text for each in ranked) == sorted(each.text for each in beam)
        moved += best.text != beam[0].text
    assert moved
    for narrow in (Greedy(), BeamSearch(width=1), Sampling(n=1)):
        with pytest.raises(ConfigError, match="Use a wider beam"):
            captioner.caption(Image.new("RGB", (40, 30), "red"), search=narrow)


def test_ensemble_uses_vectors_of_first_model(captioner, tmp_path):
    other = small_checkpoint()
    with torch.no_grad():
        for weight in (*other.model.decoder.parameters(), *other.model.encoder.parameters()):
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)))
    both = Captioner(captioner.checkpoint, others=[other], seed=7)
    with_data = both.with_consensus(f"coco:{TINY}", cache=tmp_path, workers=0)
    assert with_data.seed == 7
    wide = replace(captioner.checkpoint.search, n=4)
    for path in write_photos(tmp_path / "photos", 3):
        with torch.inference_mode():
            seen = captioner.checkpoint.model.encoder(both.read_pixels(path).unsqueeze(0))
        beam = both.caption(path, search=wide).captions
        consensus_scores = with_data.consensus.score_captions(
            seen.vector[0], [each.words for each in beam]
        )
        assert with_data.caption(path).text == ranks_highest(beam, consensus_scores).text


def test_unreadable_consensus_images_are_reported_and_unused(captioner, tmp_path, capsys):
    shutil.copytree(TINY, tmp_path / "tiny")
    for number in (1, 2, 3):
        (tmp_path / "tiny" / "images" / f"{number:06}.png").write_bytes(b"")
    data = f"coco:{tmp_path / 'tiny'}"
    with_data = captioner.with_consensus(data, cache=tmp_path / "f", workers=0)
    assert "images=29" in with_data.consensus.signature
    assert sorted(path.name for path in with_data.consensus.unreadable) == [
        "000001.png",
        "000002.png",
        "000003.png",
    ]
    captioner.save_pretrained(tmp_path / "model")
    where = ("--model", tmp_path / "model", "--cache", tmp_path / "f", "--consensus-data", data)
    photos = write_photos(tmp_path / "photos", 1)
    assert caption(photos[0], *where) == 0
    assert "3 images cannot be read and will not be used" in capsys.readouterr().err


def test_fingerprint_depends_on_captions_and_not_on_folder(captioner, tmp_path):
    shutil.copytree(TINY, tmp_path / "tiny")
    data = f"coco:{tmp_path / 'tiny'}"
    there = captioner.with_consensus(data, cache=tmp_path / "f", workers=0).consensus
    assert there.fingerprint == captioner.consensus.fingerprint
    path = tmp_path / "tiny" / "annotations" / "captions_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["caption"] = "something else"
    path.write_text(json.dumps(content))
    other = captioner.with_consensus(data, cache=tmp_path / "f", workers=0).consensus
    assert other.signature == there.signature
    assert other.fingerprint != there.fingerprint


def test_evaluate_copies_in_consensus_data_are_refused(captioner, tmp_path):
    shutil.copytree(TINY, tmp_path / "tiny")
    data = f"coco:{tmp_path / 'tiny'}"
    with_data = captioner.with_consensus(
        data, cache=tmp_path / "f", workers=0, config=ConsensusConfig(split="val")
    )
    with pytest.raises(DataError, match=r"8 images of the val split, .* or copies of them"):
        evaluate(with_data, f"coco:{TINY}", split="val", config=EvaluationConfig(workers=0))


def test_evaluate_signature_names_consensus_data(captioner, tmp_path):
    found = evaluate(captioner, f"coco:{TINY}", config=EvaluationConfig(workers=0))
    assert "|consensus:coco:tiny:train,images=32,k=10,weight=3,power=2|" in found.signature
    with pytest.raises(DataError, match=r"32 images of the train split, such as .*000001\.png"):
        evaluate(captioner, f"coco:{TINY}", split="train", config=EvaluationConfig(workers=0))
    with pytest.raises(ConfigError, match="found consensus reranking"):
        sweep(captioner, f"coco:{TINY}", split="val", searches=[], cache=tmp_path)


def test_evaluate_command_consensus_data_enter_signature(tmp_path, capsys):
    captioner = Captioner(small_checkpoint())
    captioner.save_pretrained(tmp_path / "model")
    data = ("--data", f"coco:{TINY}", "--workers", "0", "--json", "--width", "4")
    places = ("-o", str(tmp_path / "r.json"), "--cache", str(tmp_path / "features"))
    with pytest.raises(SystemExit) as caught:
        main(
            [
                "evaluate",
                str(tmp_path / "model"),
                *data,
                *places,
                "--consensus-data",
                f"coco:{TINY}",
            ]
        )
    assert caught.value.code == 0
    assert (
        "|consensus:coco:tiny:train,images=32,k=10"
        in json.loads(capsys.readouterr().out)["signature"]
    )


def test_consensus_bad_data_or_config_is_refused(captioner, tmp_path):
    with pytest.raises(ScoreError, match="1 image"):
        Consensus(VECTORS[:1], [[["a"]]])
    for name, value in {"num_neighbors": 0, "weight": -1.0, "power": -1.0}.items():
        with pytest.raises(ConfigError, match=f"{name} is {value}"):
            ConsensusConfig(**{name: value})
    (tmp_path / "one.jsonl").write_text(
        json.dumps({"image": str(TINY / "images" / "000001.png"), "caption": "a ball"}) + "\n"
    )
    with pytest.raises(DataError, match="has 1 captioned image "):
        Captioner(captioner.checkpoint).with_consensus(
            f"jsonl:{tmp_path / 'one.jsonl'}", cache=tmp_path, workers=0
        )


def caption(*words):
    with pytest.raises(SystemExit) as caught:
        main(["caption", *map(str, words), "--workers", "0", "--precision", "float32"])
    return caught.value.code


def test_caption_command_resumes_with_same_consensus_data(captioner, tmp_path, capsys):
    captioner.save_pretrained(tmp_path / "model")
    photos = write_photos(tmp_path / "photos", 6)
    where = ("-o", tmp_path / "out.jsonl", "--model", tmp_path / "model")
    asked = ("--consensus-data", f"coco:{TINY}", "--cache", tmp_path / "features")
    assert caption(photos[0].parent, *where, *asked, "--limit", 2) == 0
    assert "Encoding 32 images" in capsys.readouterr().err
    assert caption(photos[0].parent, *where) == 2
    assert "was 'consensus:coco:tiny:train,images=32,k=10" in capsys.readouterr().err
    assert caption(photos[0].parent, *where, *asked) == 0
    assert "Encoding" not in capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [captioner.caption(photo).text for photo in photos]
    alone = Captioner(captioner.checkpoint)
    assert [row["text"] for row in rows] != [alone.caption(photo).text for photo in photos]
    assert caption(photos[0], *where[2:], *asked, "--search", "sampling") == 2
    assert "consensus reranking needs several hypotheses" in capsys.readouterr().err
    assert caption("--consensus-data", f"coco:{TINY}", photos[0]) == 2
    assert "Name the images first" in capsys.readouterr().err
    assert caption(photos[0], *where[2:], *asked, "--width", 1) == 2
    assert "Use a wider beam: --width 8" in capsys.readouterr().err
