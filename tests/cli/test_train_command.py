import shutil
from pathlib import Path

import pytest

from captioning.checkpoint.checkpoint import load_checkpoint
from captioning.cli.main import main

TINY = Path(__file__).parents[2] / "data" / "tiny"


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


def train(output, *more):
    return run(
        *("train", "--data", f"coco:{TINY}", "--output", output, "--workers", 0),
        *("--encoder.name", "timm:test_resnet", "--encoder.weights", "None"),
        *(
            "--encoder.image-size",
            64,
            "--decoder.hidden-size",
            12,
            "--decoder.cell",
            "gru",
        ),
        *("--training.epochs", 1, "--min-count", 2, *more),
    )


def test_flags_are_the_settings(tmp_path, capsys):
    assert train(tmp_path / "run", "--decoder.attention", "--decoder.injection", "merge") == 0
    shape = load_checkpoint(tmp_path / "run" / "model").model.decoder.config
    assert (shape.cell, shape.injection) == ("gru", "merge")
    assert (shape.hidden_size, shape.attention) == (12, True)
    said = capsys.readouterr()
    assert "train: 32 images, 160 captions" in said.err
    assert "The model is in" in said.err
    assert not said.out


def test_a_log_without_bars_tells_of_the_wait_and_of_a_slow_precision(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("captioning.training.precision.has_bfloat16", lambda device: False)
    assert train(tmp_path / "run", "--training.precision", "bfloat16") == 0
    said = capsys.readouterr().err
    assert "cpu has no instructions for bfloat16" in said
    assert said.index("Encoding 32 images") < said.index("epoch 1")
    shutil.rmtree(tmp_path / "run")
    assert train(tmp_path / "run") == 0
    assert "Encoding 32" in capsys.readouterr().err  # kept for the other precision only
    shutil.rmtree(tmp_path / "run")
    assert train(tmp_path / "run") == 0
    said = capsys.readouterr().err
    assert "Encoding" not in said
    assert "bfloat16" not in said


@pytest.mark.parametrize("words", [["--preset", "lrcn"], ["--preset=lrcn"]])
def test_a_preset_is_a_papers_decoder_and_other_flags_still_change_it(tmp_path, words):
    more = (
        "--decoder.cell",
        "rnn",
        "--decoder.hidden-size",
        12,
        "--encoder.image-size",
        64,
    )
    code = run(
        *(
            "train",
            *words,
            "--data",
            f"coco:{TINY}",
            "--output",
            tmp_path / "run",
            "--workers",
            0,
        ),
        *("--encoder.name", "timm:test_resnet", "--encoder.weights", "None", *more),
        *("--training.epochs", 1, "--min-count", 2),
    )
    assert code == 0
    shape = load_checkpoint(tmp_path / "run" / "model").model.decoder.config
    assert (shape.layers, shape.factored, shape.tie_weights) == (2, True, False)
    assert (shape.cell, shape.hidden_size) == ("rnn", 12)
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "then a decoder of 2 layers of `rnn` cells" in card


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--preset", "lrnc"], "Did you mean 'lrcn'"),
        (["--preset"], "Give --preset once, and one name with it: m-rnn"),
        (["--preset", "--data", "coco:x"], "Give --preset once"),
        (["--preset", "lrcn", "--preset", "m-rnn"], "Give --preset once"),
    ],
)
def test_a_preset_that_is_none_is_refused(words, said, capsys):
    assert run("train", *words) == 2
    assert said in capsys.readouterr().err


def test_settings_that_make_no_sense_are_refused_before_anything_is_read(tmp_path, capsys):
    assert train(tmp_path / "run", "--training.label-smoothing", "1.5") == 2
    assert "label_smoothing is 1.5" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_data_that_is_not_there_is_said(tmp_path, capsys):
    code = run("train", "--data", f"coco:{tmp_path / 'nowhere'}", "--output", tmp_path / "run")
    assert code == 1
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()  # the right name may be given with the same output


@pytest.mark.parametrize("words", [["train", "--dta", "x"], ["trian"], ["train"]])
def test_wrong_usage_is_exit_code_2(words, capsys):
    assert run(*words) == 2
    assert capsys.readouterr().err
