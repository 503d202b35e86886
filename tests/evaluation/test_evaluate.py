"""Evaluation of a model on a split, by the function and by the command."""

import json
import shutil
from pathlib import Path

import jaxtyping
import pytest
from pycocotools.coco import COCO
from small_captioner import small_checkpoint

from captioning.checkpoint import save_checkpoint
from captioning.cli.main import main
from captioning.decoding import BeamSearch, Greedy
from captioning.errors import DataError, OutputError
from captioning.evaluation import evaluate as module
from captioning.evaluation.evaluate import EvaluationConfig, evaluate
from captioning.evaluation.search_sweep import sweep
from captioning.inference.captioner import Captioner
from captioning.metrics import score
from captioning.text.tokenizer import tokenize

TINY = Path(__file__).parents[2] / "data" / "tiny"
REFERENCES = TINY / "annotations" / "captions_val.json"
DATA = f"coco:{TINY}"
NO_WORKERS = EvaluationConfig(workers=0)


@pytest.fixture(scope="module")
def checkpoint():
    """A model whose vocabulary is that of the references, so that its captions have scores."""
    annotations = json.loads(REFERENCES.read_text())["annotations"]
    sentences = [tokenize(annotation["caption"]) for annotation in annotations]
    return small_checkpoint(sentences, search=BeamSearch(width=2, max_length=6))


@pytest.fixture(scope="module")
def model(checkpoint, tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "small"
    save_checkpoint(checkpoint, directory)
    return directory


@pytest.fixture
def data_copy(tmp_path):
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


def run_evaluate(model, output, *arguments, data=DATA):
    return run("evaluate", model, "--data", data, "-o", output, "--workers", 0, *arguments)


def write_results(path, captions):
    path.write_text(json.dumps([{"image_id": i, "caption": c} for i, c in captions.items()]))
    return path


def first_references():
    """Return one reference caption of each image."""
    annotations = json.loads(REFERENCES.read_text())["annotations"]
    return {a["image_id"]: a["caption"] for a in annotations}


def test_evaluate_scores_each_image_by_its_own_references(checkpoint, tmp_path):
    captioner = Captioner(checkpoint)
    config = EvaluationConfig(output=tmp_path / "r.json", workers=0)
    phases = []
    result = evaluate(captioner, DATA, config=config, on_phase=phases.append)
    assert phases == ["Reading coco:tiny", "Captioning images", "Scoring captions"]
    annotations = COCO(str(REFERENCES))
    expected = {i: [a["caption"] for a in annotations.imgToAnns[i]] for i in annotations.imgs}
    results = annotations.loadRes(str(tmp_path / "r.json"))  # pycocotools checks the ids
    captions = {a["image_id"]: a["caption"] for a in results.dataset["annotations"]}
    assert captions == result.captions
    assert result.references == expected
    assert result.scores.values == score(captions, expected).values
    for image, info in annotations.imgs.items():
        assert captions[image] == captioner(TINY / "images" / info["file_name"]).text


def test_evaluate_model_directory_equals_captioner(checkpoint, model):
    expected = evaluate(Captioner(checkpoint), DATA, config=NO_WORKERS)
    found = evaluate(model, DATA, config=EvaluationConfig(workers=0, device="cpu"))
    assert found.captions == expected.captions
    assert repr(found) == repr(expected.scores)
    assert found._repr_html_() == expected.scores._repr_html_()


def test_signature_names_data_split_and_search(checkpoint):
    beam = evaluate(Captioner(checkpoint), DATA, config=NO_WORKERS)
    assert "data:coco:tiny|split:val|search:method=beam" in beam.signature
    assert "width=2" in beam.signature
    assert beam.scores.signature in beam.signature
    assert str(TINY.parent) not in beam.signature
    greedy = evaluate(Captioner(checkpoint), DATA, search=Greedy(), config=NO_WORKERS)
    assert "method=greedy" in greedy.signature


def test_evaluate_writes_captions_before_scoring(checkpoint, tmp_path, monkeypatch):
    def crash(*_, **__):
        raise MemoryError

    monkeypatch.setattr(module, "score", crash)
    config = EvaluationConfig(output=tmp_path / "r.json", workers=0)
    with pytest.raises(MemoryError):
        evaluate(Captioner(checkpoint), DATA, config=config)
    assert len(json.loads((tmp_path / "r.json").read_text())) == 8


def test_evaluate_checks_output_before_captioning(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    (tmp_path / "file").write_text("")
    captioner = Captioner(checkpoint)
    monkeypatch.setattr(captioner, "caption_files", lambda *_, **__: pytest.fail("captioned"))
    for output in (tmp_path / "file" / "results.json", tmp_path, str(tmp_path)):
        with pytest.raises(OutputError, match="cannot write"):
            evaluate(captioner, DATA, config=EvaluationConfig(output=output, workers=0))


def test_novel_captions_are_counted_by_the_train_split(model, data_copy, tmp_path, capsys):
    output = tmp_path / "results.json"
    assert run_evaluate(model, output, "--json") == 0
    novel = json.loads(capsys.readouterr().out)["diversity"]["novel"]
    captions = {entry["image_id"]: entry["caption"] for entry in json.loads(output.read_text())}
    assert novel == 1.0  # an untrained model does not repeat a training caption

    path = data_copy / "annotations" / "captions_train.json"
    train = json.loads(path.read_text())
    first = next(iter(captions.values()))
    train["annotations"][0]["caption"] = f"{first.capitalize()}."  # equal after tokenization
    path.write_text(json.dumps(train))
    assert run_evaluate(model, output, "--json", data=f"coco:{data_copy}") == 0
    same = list(captions.values()).count(first)
    assert json.loads(capsys.readouterr().out)["diversity"]["novel"] == 1 - same / 8

    path.unlink()
    assert run_evaluate(model, output, data=f"coco:{data_copy}") == 0
    assert "not in the train split  n/a" in capsys.readouterr().out


def test_novelty_is_unknown_if_one_file_serves_all_splits(checkpoint):
    data = f"coco:{REFERENCES}@{TINY / 'images'}"
    result = evaluate(Captioner(checkpoint), data, config=NO_WORKERS)
    assert result.train_captions is None
    assert "data:coco:captions_val.json|" in result.signature


def test_width_option_keeps_other_settings_of_the_search(model, tmp_path, capsys):
    directory = Path(shutil.copytree(model, tmp_path / "model"))
    path = directory / "generation_config.json"
    settings = json.loads(path.read_text()) | {"no_repeat_ngram": 1, "min_length": 4}
    path.write_text(json.dumps(settings))
    assert run_evaluate(directory, tmp_path / "r.json", "--width", 4, "--json") == 0
    assert "width=4" in json.loads(capsys.readouterr().out)["signature"]
    for entry in json.loads((tmp_path / "r.json").read_text()):
        words = tokenize(entry["caption"])
        assert len(words) >= 4
        assert len(set(words)) == len(words)


@pytest.mark.parametrize("option", [("--batch-size", 0), ("--workers", -1)])
def test_evaluate_refuses_numbers_out_of_range(option, model, capsys):
    assert run("evaluate", model, "--data", DATA, *option) == 2
    assert f"at least {0 if '--workers' in option else 1}" in capsys.readouterr().err


def test_unreadable_image_is_excluded_and_reported(model, checkpoint, data_copy, tmp_path, capsys):
    first = COCO(str(REFERENCES)).dataset["images"][0]
    (data_copy / "images" / first["file_name"]).write_bytes(b"not an image")
    data = f"coco:{data_copy}"
    result = evaluate(Captioner(checkpoint), data, config=NO_WORKERS)
    assert set(result.errors) == {first["id"]}
    assert len(result.captions) == len(result.scores) == 7
    capsys.readouterr()
    assert run_evaluate(model, tmp_path / "results.json", data=data) == 1
    assert first["file_name"] in capsys.readouterr().err


def test_split_without_readable_image_raises(checkpoint, data_copy, tmp_path):
    for image in (data_copy / "images").iterdir():
        image.write_bytes(b"not an image")
    captioner, data = Captioner(checkpoint), f"coco:{data_copy}"
    with pytest.raises(DataError, match="none of the 8 images"):
        evaluate(captioner, data, config=NO_WORKERS)
    with pytest.raises(DataError, match="none of the 8 images"):
        sweep(captioner, data, split="val", searches=[Greedy()], cache=tmp_path / "f", workers=0)


def test_sweep_scores_equal_those_of_evaluate(checkpoint, tmp_path):
    captioner, reported = Captioner(checkpoint), []
    searches = [Greedy(max_length=5), BeamSearch(width=3, max_length=7, length_penalty=1.0)]
    table = sweep(
        captioner,
        DATA,
        split="val",
        searches=searches,
        cache=tmp_path,
        workers=0,
        on_scores=lambda method, scores: reported.append(method),
    )
    assert reported == list(table) == searches
    assert not checkpoint.model.decoder.training  # dropout stays off afterwards
    captions = []
    for method in searches:
        expected = evaluate(captioner, DATA, search=method, config=NO_WORKERS)
        captions.append(list(expected.captions.values()))
        assert list(table[method].per_image["caption"]) == captions[-1]
        assert table[method].values == pytest.approx(expected.scores.values)
    assert captions[0] != captions[1]


def test_score_command_equals_evaluate_command(model, tmp_path, capsys):
    output = tmp_path / "results.json"
    assert run_evaluate(model, output, "--json") == 0
    evaluated = json.loads(capsys.readouterr().out)
    for references in (REFERENCES, DATA):
        assert run("score", output, references, "--json") == 0
        scored = json.loads(capsys.readouterr().out)
        assert scored["scores"] == evaluated["scores"]
        assert scored["intervals"] == evaluated["intervals"]
        assert scored["diversity"]["captions"] == 8
        assert set(scored["shuffled_image_baseline"]) == {"BLEU-4", "CIDEr"}


def test_score_prints_scores_times_100(tmp_path, capsys):
    results = write_results(tmp_path / "results.json", first_references())
    assert run("score", results, REFERENCES) == 0
    table = capsys.readouterr().out
    assert "BLEU-4   100.00" in table
    assert "distinct captions" in table
    assert "Shuffled-image baseline" in table


def test_score_of_a_subset_needs_the_flag(tmp_path, capsys):
    first = next(iter(first_references()))
    results = write_results(tmp_path / "results.json", {first: "a dog"})
    assert run("score", results, REFERENCES) == 1
    assert "7 images without a caption" in capsys.readouterr().err
    assert run("score", results, REFERENCES, "--subset") == 0
    assert "CIDEr is undefined for one image" in capsys.readouterr().out


def test_references_can_be_the_name_of_a_data_set(tmp_path, capsys):
    results = write_results(tmp_path / "results.json", first_references())
    assert run("score", results, DATA, "--split", "test") == 1
    assert "Check the files and the split." in capsys.readouterr().err
    assert run("compare", results, results, DATA) == 0
    assert "+0.00" in capsys.readouterr().out
    assert run("score", results, "coco:nowhere") == 1
    assert "nowhere" in capsys.readouterr().err


def test_compare_prints_the_better_system(tmp_path, capsys):
    good = write_results(tmp_path / "good.json", first_references())
    bad = write_results(tmp_path / "bad.json", dict.fromkeys(first_references(), "a dog"))
    assert run("compare", good, bad, REFERENCES) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("BLEU-4"))
    assert "+100.00" in line
