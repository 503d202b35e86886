"""The command ``captioning train``: flags, presets, log lines, and exit codes."""

import shutil
from pathlib import Path

import pytest

from captioning.checkpoint import load_checkpoint
from captioning.cli.main import main

TINY = Path(__file__).parents[2] / "data" / "tiny"


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


def train(output, *flags):
    return run(
        *("train", "--data", f"coco:{TINY}", "--output", output, "--workers", 0),
        *("--encoder.name", "timm:test_resnet", "--encoder.weights", "None"),
        *("--encoder.image-size", 64, "--decoder.hidden-size", 12),
        *("--training.epochs", 1, "--min-count", 2, *flags),
    )


def load_decoder_config(output):
    return load_checkpoint(output / "model").model.decoder.config


def test_train_flags_set_the_config(tmp_path, capsys):
    flags = ("--decoder.cell", "gru", "--decoder.core", "attention", "--decoder.injection", "merge")
    assert train(tmp_path / "run", *flags) == 0
    config = load_decoder_config(tmp_path / "run")
    assert (config.cell, config.injection) == ("gru", "merge")
    assert (config.hidden_size, config.core) == (12, "attention")
    captured = capsys.readouterr()
    assert "train: 32 images, 160 captions" in captured.err
    assert f"Saved the model to {tmp_path / 'run' / 'model'}." in captured.err
    assert not captured.out


def test_train_without_terminal_logs_encoding_and_warning(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("captioning.training.precision.has_bfloat16", lambda device: False)
    assert train(tmp_path / "run", "--training.precision", "bfloat16") == 0
    log = capsys.readouterr().err
    assert "Warning: cpu has no instructions for bfloat16" in log
    assert log.index("Encoding 32 images") < log.index("Epoch 1")
    shutil.rmtree(tmp_path / "run")
    assert train(tmp_path / "run") == 0
    assert "Encoding 32 images" in capsys.readouterr().err  # the cache is for the other precision
    shutil.rmtree(tmp_path / "run")
    assert train(tmp_path / "run") == 0
    log = capsys.readouterr().err
    assert "Encoding" not in log
    assert "bfloat16" not in log


@pytest.mark.parametrize("preset", [["--preset", "lrcn"], ["--preset=lrcn"]])
def test_train_preset_sets_decoder_and_flags_override_it(tmp_path, preset):
    assert train(tmp_path / "run", *preset, "--decoder.cell", "rnn") == 0
    config = load_decoder_config(tmp_path / "run")
    assert (config.layers, config.factored, config.tie_weights) == (2, True, False)
    assert (config.cell, config.hidden_size) == ("rnn", 12)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "lrnc"], "Did you mean 'lrcn'"),
        (["--preset"], "--preset needs one name, once. Presets: m-rnn"),
        (["--preset", "--data", "coco:x"], "--preset needs one name"),
        (["--preset", "lrcn", "--preset", "m-rnn"], "--preset needs one name"),
    ],
)
def test_train_with_invalid_preset_is_refused(words, message, capsys):
    assert run("train", *words) == 2
    assert message in capsys.readouterr().err


def test_train_with_invalid_setting_reads_nothing(tmp_path, capsys):
    assert train(tmp_path / "run", "--training.label-smoothing", "1.5") == 2
    assert "--training.label-smoothing is 1.5" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_train_with_missing_data_creates_no_output(tmp_path, capsys):
    code = run("train", "--data", f"coco:{tmp_path / 'nowhere'}", "--output", tmp_path / "run")
    assert code == 1
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [["train", "--dta", "x"], ["trian"], ["train"]])
def test_wrong_usage_exits_with_code_2(words, capsys):
    assert run(*words) == 2
    assert capsys.readouterr().err
