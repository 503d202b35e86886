"""``captioning samples`` and ``captioning info``."""

import json
import re
from dataclasses import replace

import pytest
from PIL import Image
from small_captioner import small_checkpoint

from captioning.checkpoint import ModelInfo, TrainingInfo, save_checkpoint
from captioning.cli import main as cli
from captioning.cli import samples
from captioning.cli.info import describe
from captioning.cli.samples import SAMPLES, write_samples
from captioning.errors import CheckpointError, DataError, OutputError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "small [draft]"
    save_checkpoint(small_checkpoint(), directory)
    return directory


def run(*words):
    with pytest.raises(SystemExit) as exited:
        cli.main([str(word) for word in words])
    return exited.value.code


def test_samples_are_images_with_sources(tmp_path, capsys):
    folder = tmp_path / "new" / "samples"
    assert run("samples", folder) == 0
    written = sorted(path.name for path in folder.iterdir())
    assert written == sorted([*(sample.name for sample in SAMPLES), "SOURCES.txt"])
    sources = (folder / "SOURCES.txt").read_text()
    for sample in SAMPLES:
        with Image.open(folder / sample.name) as image:
            assert min(image.size) > 100
        assert f"{sample.name}: {sample.source}" in sources
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"Copied {len(SAMPLES)} images and SOURCES.txt to {folder}.\n"


def test_samples_without_packages_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(samples.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install scikit-image scikit-learn"):
        write_samples(tmp_path / "samples")
    assert not (tmp_path / "samples").exists()


def test_samples_into_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write to .*file"):
        write_samples(tmp_path / "file")


def test_info_prints_the_parts_of_a_model(model, capsys):
    assert run("info", model) == 0
    shown = capsys.readouterr().out
    for part in ("timm:test_resnet", "beam", "lstm", "parameters"):
        assert part in shown


def test_info_lists_scores_by_photos_and_numbers_the_runs(tmp_path, capsys):
    training = TrainingInfo(data="data", epochs=1, seed=0, torch="2", runs=("frozen CNN", "whole"))
    scores = {"BLEU-4 (my_photos)": 0.25, "CIDEr (my_photos)": 0.8, "loss": 2.5}
    info = ModelInfo(training=training, scores=scores)
    save_checkpoint(replace(small_checkpoint(), info=info), tmp_path / "model")
    assert run("info", tmp_path / "model") == 0
    lines = [re.sub(" +", " ", line).strip() for line in capsys.readouterr().out.splitlines()]
    assert "my_photos BLEU-4 0.2500, CIDEr 0.8000" in lines
    assert "loss 2.5" in lines
    assert lines[lines.index("runs 1. frozen CNN") + 1] == "2. whole"
    assert "forbidden words none" in lines


def test_info_as_json_counts_all_weights(model, capsys):
    assert run("info", model, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    checkpoint = small_checkpoint()
    total = sum(weight.numel() for weight in checkpoint.model.parameters())
    assert content["encoder"]["parameters"] + content["decoder"]["parameters"] == total
    assert content["preprocessing"]["size"] == 32
    assert content == json.loads(json.dumps(describe(model)))


def test_info_escapes_control_characters(tmp_path, capsys):
    training = TrainingInfo(data="evil\x1b]0;title\x07", epochs=1, seed=0, torch="2")
    info = ModelInfo(training=training, scores={"BLEU\x1b[31m": 0.5})
    save_checkpoint(replace(small_checkpoint(), info=info), tmp_path / "model")
    assert run("info", tmp_path / "model") == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "BLEU\\x1b[31m" in shown


def test_info_without_a_model_fails(tmp_path, capsys):
    assert run("info", tmp_path) == 1
    assert capsys.readouterr().err.startswith("captioning: ")
    with pytest.raises(CheckpointError):
        describe(tmp_path / "nowhere")
