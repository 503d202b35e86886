"""The command ``captioning train``: flags, config files, log lines, and exit codes."""

import shutil
from pathlib import Path

import pytest

from captioning.checkpoint import load_checkpoint
from captioning.cli.main import main
from captioning.cli.train import parse
from captioning.training.run_directory import read_settings

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
    assert train(tmp_path / "run", *flags, "--validation-limit", 4) == 0
    config = load_decoder_config(tmp_path / "run")
    assert (config.cell, config.injection) == ("gru", "merge")
    assert (config.hidden_size, config.core) == (12, "attention")
    captured = capsys.readouterr()
    assert "train: 32 images, 160 captions" in captured.err
    assert "Validating on 4 of 8 images (--validation-limit is 4)." in captured.err
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


def test_train_flags_override_words_and_words_override_file(tmp_path):
    (tmp_path / "run.yaml").write_text(
        f"""
        data: "coco:{TINY}"
        encoder: {{name: "timm:test_resnet", weights: null, image_size: 64}}
        decoder: {{layers: 2, cell: rnn, hidden_size: 12, embedding_size: 12}}
        training: {{learning_rate: 1e-3, max_steps: 2, batch_size: 16}}
        min_count: 2
        search_images: 0
        """
    )
    words = ("decoder.cell=gru", "decoder.hidden_size=14", "training.max_steps=3")
    flags = ("--decoder.hidden-size", 16, "--output", tmp_path / "run")
    assert run("train", "--config", tmp_path / "run.yaml", *words, *flags) == 0
    config = load_decoder_config(tmp_path / "run")
    assert (config.layers, config.cell, config.hidden_size) == (2, "gru", 16)
    settings = read_settings(tmp_path / "run")
    assert settings.data == (f"coco:{TINY}",)
    assert (settings.training.learning_rate, settings.training.max_steps) == (1e-3, 3)


def test_train_stages_follow_each_other_and_run_once(tmp_path, capsys):
    stages = parse(
        [
            *("--config", "default-model", "--data", "coco:x", "--output", "runs/new"),
            *("training.seed=3", "stages.self-critical.training.epochs=9"),
            *("--init-from", "old/model", "--training.batch-size", "40"),
        ]
    )
    names = ["teacher-forcing", "fine-tuning", "concepts", "self-critical"]
    assert [stage.output for stage in stages] == [Path("runs/new") / name for name in names]
    starts = [Path("old/model"), *(Path("runs/new") / name / "model" for name in names[:3])]
    assert [stage.init_from for stage in stages] == starts
    assert [stage.training.epochs for stage in stages] == [10, 7, 4, 9]
    for stage in stages:
        assert (stage.training.seed, stage.training.batch_size) == (3, 40)
        assert stage.cache == Path("runs/features")  # shared with other runs

    short = ("--training.max-steps", 1, "--training.batch-size", 16, "--search-images", 0)
    assert (
        train(tmp_path / "run", "--config", "up-down", "--decoder.embedding-size", 12, *short) == 0
    )
    model = tmp_path / "run" / "self-critical" / "model" / "model.safetensors"
    before = model.read_bytes()
    capsys.readouterr()
    assert (
        train(tmp_path / "run", "--config", "up-down", "--decoder.embedding-size", 12, *short) == 0
    )
    assert capsys.readouterr().err.count("The run is already complete.") == 2
    assert model.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "lrnc"], "Did you mean 'lrcn'"),
        (["--config"], "--config has no value, or is given twice"),
        (["--config", "--data", "coco:x"], "--config has no value, or is given twice"),
        (["--config", "lrcn", "--config", "m-rnn"], "--config has no value, or is given twice"),
        (["--config", "lrcn", "training.epohs=3"], "training.epohs: unknown field. Did you mean"),
        (["stages=3"], "KEY=VALUE: stages: expected names with their settings"),
        (["min_count=x"], 'KEY=VALUE: min_count: expected an integer, found "x". Correct it.'),
        (["--config", "up-down", "stages.self-crit.seed=1"], "Did you mean 'self-critical'?"),
        (
            ["--config", "up-down", "--resume", "x", "--data", "coco:x", "--output", "y"],
            "of them: stages.teacher-forcing.resume=DIR.",
        ),
        (
            ["--config", "up-down", "--word-vectors", "x", "--data", "coco:x", "--output", "y"],
            "set them for the first one: stages.NAME.word_vectors=FILE.",
        ),
    ],
)
def test_train_with_invalid_config_is_refused(words, message, capsys):
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
