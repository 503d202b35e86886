import json
import shutil
from pathlib import Path

import jaxtyping
import pytest
import torch
from pycocotools.coco import COCO

from captioning.checkpoint.checkpoint import Checkpoint, save_checkpoint
from captioning.cli.main import main
from captioning.decoding import BeamSearch, Greedy
from captioning.errors import DataError, OutputError
from captioning.evaluation import evaluate as evaluation
from captioning.evaluation.evaluate import evaluate, sweep
from captioning.inference.captioner import Captioner
from captioning.metrics import score
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderOptions
from captioning.nn.encoder import Encoder, EncoderConfig
from captioning.nn.model import CaptionModel
from captioning.text.tokenizer import tokenize
from captioning.text.vocabulary import Vocabulary

TINY = Path(__file__).parents[2] / "data" / "tiny"
REFERENCES = TINY / "annotations" / "captions_val.json"


@pytest.fixture(scope="module")
def checkpoint():
    torch.manual_seed(1)
    annotations = json.loads(REFERENCES.read_text())["annotations"]
    vocabulary = Vocabulary.build((tokenize(a["caption"]) for a in annotations), min_count=1)
    encoder = Encoder(EncoderConfig("timm:test_resnet", weights=None, image_size=64))
    options = DecoderOptions(embedding_size=8, hidden_size=8, attention_size=8)
    shape = options.sized(vocabulary_size=len(vocabulary), feature_size=encoder.feature_size)
    model = CaptionModel(encoder, Decoder(shape)).eval()
    return Checkpoint(model, vocabulary, BeamSearch(width=2, max_length=6))


@pytest.fixture(scope="module")
def model(checkpoint, tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "small"
    save_checkpoint(checkpoint, directory)
    return directory


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


def test_captions_are_scored_against_the_references_of_their_own_image(checkpoint, tmp_path):
    found = evaluate(
        Captioner(checkpoint), f"coco:{TINY}", split="val", output=tmp_path / "r.json", workers=0
    )
    annotations = COCO(str(REFERENCES))
    expected = {i: [a["caption"] for a in annotations.imgToAnns[i]] for i in annotations.imgs}
    results = annotations.loadRes(str(tmp_path / "r.json"))  # pycocotools checks the ids
    captions = {a["image_id"]: a["caption"] for a in results.dataset["annotations"]}
    assert captions == found.captions
    assert found.references == expected
    assert found.scores.values == score(captions, expected).values
    captioner = Captioner(checkpoint)
    for image, info in annotations.imgs.items():
        path = TINY / "images" / info["file_name"]
        assert captions[image] == captioner.caption(path).text


def test_signature_names_data_split_and_search(checkpoint):
    found = evaluate(Captioner(checkpoint), f"coco:{TINY}", split="val", workers=0)
    assert "data:coco:tiny|split:val|search:method=beam," in found.signature
    assert "width=2" in found.signature
    assert found.scores.signature in found.signature
    assert str(TINY.parent) not in found.signature
    greedy = evaluate(
        Captioner(checkpoint), f"coco:{TINY}", split="val", search=Greedy(), workers=0
    )
    assert "method=greedy" in greedy.signature


def test_captions_are_saved_before_they_are_scored(checkpoint, tmp_path, monkeypatch):
    def crash(*_, **__):
        raise MemoryError

    monkeypatch.setattr(evaluation, "score", crash)
    with pytest.raises(MemoryError):
        evaluate(
            Captioner(checkpoint),
            f"coco:{TINY}",
            split="val",
            output=tmp_path / "r.json",
            workers=0,
        )
    assert len(json.loads((tmp_path / "r.json").read_text())) == 8


def test_captions_are_new_where_the_train_split_has_none_like_them(model, tmp_path, capsys):
    """The novelty that evaluate prints, against the words of the two files themselves."""
    output = tmp_path / "results.json"
    data = f"coco:{TINY}"
    assert run("evaluate", model, "--data", data, "-o", output, "--json", "--workers", 0) == 0
    novel = json.loads(capsys.readouterr().out)["diversity"]["novel"]
    captions = {entry["image_id"]: entry["caption"] for entry in json.loads(output.read_text())}
    assert novel == 1.0  # an untrained model says nothing that a person has said

    shutil.copytree(TINY, tmp_path / "tiny")
    path = tmp_path / "tiny" / "annotations" / "captions_train.json"
    train = json.loads(path.read_text())
    first = next(iter(captions.values()))
    train["annotations"][0]["caption"] = f"{first.capitalize()}."  # known but for its looks
    path.write_text(json.dumps(train))
    data = f"coco:{tmp_path / 'tiny'}"
    assert run("evaluate", model, "--data", data, "-o", output, "--json", "--workers", 0) == 0
    same = list(captions.values()).count(first)
    assert json.loads(capsys.readouterr().out)["diversity"]["novel"] == 1 - same / 8

    path.unlink()
    assert run("evaluate", model, "--data", data, "-o", output, "--workers", 0) == 0
    assert "not in the train split  n/a" in capsys.readouterr().out


def test_sweep_gives_each_search_the_scores_that_evaluate_gives_it(checkpoint, tmp_path):
    captioner, data, told = Captioner(checkpoint), f"coco:{TINY}", []
    searches = [Greedy(max_length=5), BeamSearch(width=3, max_length=7, length_penalty=1.0)]
    table = sweep(
        captioner,
        data,
        split="val",
        searches=searches,
        cache=tmp_path,
        workers=0,
        watch=lambda how, scores: told.append(how),
    )
    assert told == list(table) == searches
    assert not checkpoint.model.decoder.training  # no dropout in what the captioner says next
    captions = []
    for how in searches:
        alone = evaluate(captioner, data, split="val", search=how, workers=0)
        captions.append(list(alone.captions.values()))
        assert list(table[how].per_image["caption"]) == captions[-1]
        assert table[how].values == pytest.approx(alone.scores.values)
    assert captions[0] != captions[1]


def test_novelty_is_unknown_where_the_data_is_one_file(checkpoint):
    data = f"coco:{REFERENCES}@{TINY / 'images'}"
    found = evaluate(Captioner(checkpoint), data, split="val", workers=0)
    assert found.training is None
    assert "data:coco:captions_val.json|" in found.signature


def test_other_width_keeps_the_rules_of_the_models_own_search(model, tmp_path, capsys):
    shutil.copytree(model, tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    settings = json.loads(path.read_text()) | {"no_repeat_ngram": 1, "min_length": 4}
    path.write_text(json.dumps(settings))
    data = ("--data", f"coco:{TINY}", "-o", tmp_path / "r.json", "--workers", 0)
    assert run("evaluate", tmp_path / "model", *data, "--width", 4, "--json") == 0
    signature = json.loads(capsys.readouterr().out)["signature"]
    assert "width=4" in signature
    for entry in json.loads((tmp_path / "r.json").read_text()):
        words = tokenize(entry["caption"])
        assert len(words) >= 4
        assert len(set(words)) == len(words)


@pytest.mark.parametrize("words", [("--batch-size", 0), ("--workers", -1)])
def test_settings_that_make_no_sense_are_refused(words, model, capsys):
    assert run("evaluate", model, "--data", f"coco:{TINY}", *words) == 2
    assert f"at least {0 if '--workers' in words else 1}" in capsys.readouterr().err


def test_sweep_over_no_readable_image_is_an_error(checkpoint, tmp_path):
    shutil.copytree(TINY, tmp_path / "tiny")
    for image in (tmp_path / "tiny" / "images").iterdir():
        image.write_bytes(b"not an image")
    data = f"coco:{tmp_path / 'tiny'}"
    with pytest.raises(DataError, match="None of the 8 images"):
        sweep(
            Captioner(checkpoint),
            data,
            split="val",
            searches=[Greedy()],
            cache=tmp_path / "features",
            workers=0,
        )


def test_unreadable_image_is_left_out_and_said(model, checkpoint, tmp_path, capsys):
    shutil.copytree(TINY, tmp_path / "tiny")
    first = COCO(str(REFERENCES)).dataset["images"][0]
    (tmp_path / "tiny" / "images" / first["file_name"]).write_bytes(b"not an image")
    data = f"coco:{tmp_path / 'tiny'}"
    found = evaluate(Captioner(checkpoint), data, split="val", workers=0)
    assert set(found.unreadable) == {first["id"]}
    assert len(found.captions) == len(found.scores) == 7
    capsys.readouterr()
    output = tmp_path / "results.json"
    assert run("evaluate", model, "--data", data, "-o", output, "--workers", 0) == 1
    assert first["file_name"] in capsys.readouterr().err


def test_no_readable_image_is_an_error(checkpoint, tmp_path):
    shutil.copytree(TINY, tmp_path / "tiny")
    for image in (tmp_path / "tiny" / "images").iterdir():
        image.write_bytes(b"not an image")
    with pytest.raises(DataError, match="None of the 8 images"):
        evaluate(Captioner(checkpoint), f"coco:{tmp_path / 'tiny'}", split="val", workers=0)


def test_unwritable_output_is_said_first(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    (tmp_path / "file").write_text("")
    captioner = Captioner(checkpoint)

    def stream(*_, **__):
        pytest.fail("images were captioned first")

    monkeypatch.setattr(captioner, "caption_files", stream)
    for output in (tmp_path / "file" / "results.json", tmp_path, str(tmp_path)):
        with pytest.raises(OutputError, match="cannot write"):
            evaluate(captioner, f"coco:{TINY}", split="val", output=output, workers=0)


def test_evaluate_and_score_print_the_same_numbers(model, tmp_path, capsys):
    output = tmp_path / "results.json"
    assert (
        run("evaluate", model, "--data", f"coco:{TINY}", "-o", output, "--json", "--workers", 0)
        == 0
    )
    evaluated = json.loads(capsys.readouterr().out)
    assert run("score", output, REFERENCES, "--json") == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["scores"] == evaluated["scores"]
    assert scored["intervals"] == evaluated["intervals"]
    assert scored["diversity"]["captions"] == 8
    assert set(scored["shuffled_image_baseline"]) == {"BLEU-4", "CIDEr"}


def test_tables_are_printed_times_100(model, tmp_path, capsys):
    captions = {
        a["image_id"]: a["caption"] for a in json.loads(REFERENCES.read_text())["annotations"]
    }
    records = [{"image_id": image, "caption": caption} for image, caption in captions.items()]
    results = tmp_path / "results.json"
    results.write_text(json.dumps(records))
    assert run("score", results, REFERENCES) == 0
    table = capsys.readouterr().out
    assert "BLEU-4   100.00" in table
    assert "distinct captions" in table
    assert "Shuffled-image baseline" in table


def test_score_of_some_images_has_to_be_asked_for(tmp_path, capsys):
    first = json.loads(REFERENCES.read_text())["annotations"][0]["image_id"]
    results = tmp_path / "results.json"
    results.write_text(json.dumps([{"image_id": first, "caption": "a dog"}]))
    assert run("score", results, REFERENCES) == 1
    assert "has no caption for 7 images of the 8" in capsys.readouterr().err
    assert run("score", results, REFERENCES, "--subset") == 0
    assert "CIDEr is undefined for one image" in capsys.readouterr().out


def test_references_may_be_a_data_set_by_its_name(model, tmp_path, capsys):
    output, data = tmp_path / "results.json", f"coco:{TINY}"
    assert run("evaluate", model, "--data", data, "-o", output, "--json", "--workers", 0) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert run("score", output, data, "--json") == 0
    assert json.loads(capsys.readouterr().out)["scores"] == evaluated["scores"]
    assert run("score", output, data, "--split", "test") == 1  # other images
    assert "without a candidate" in capsys.readouterr().err
    assert run("compare", output, output, data) == 0
    assert "+0.00" in capsys.readouterr().out
    assert run("score", output, "coco:nowhere") == 1
    assert "nowhere" in capsys.readouterr().err


def test_compare_says_which_system_is_better(tmp_path, capsys):
    annotations = json.loads(REFERENCES.read_text())["annotations"]
    good = {a["image_id"]: a["caption"] for a in annotations}
    for name, captions in (("good", good), ("bad", dict.fromkeys(good, "a dog"))):
        records = [{"image_id": image, "caption": text} for image, text in captions.items()]
        (tmp_path / f"{name}.json").write_text(json.dumps(records))
    assert run("compare", tmp_path / "good.json", tmp_path / "bad.json", REFERENCES) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("BLEU-4"))
    assert "+100.00" in line
