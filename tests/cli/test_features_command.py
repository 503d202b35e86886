"""``captioning features``: what is printed, what a later run encodes, and errors."""

import shutil

import pytest
from small_run import TINY

from captioning.cli.main import main
from captioning.features import extraction, row_extraction

ENCODER = ("--encoder.name", "timm:test_resnet", "--encoder.weights", "None")
ENCODER += ("--encoder.image-size", "64", "--workers", "0", "--device", "cpu")


def run(capsys, command, *words):
    """Return the exit code of a command, and its lines on standard error."""
    with pytest.raises(SystemExit) as stop:
        main([command, *map(str, words), *ENCODER])
    return stop.value.code, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    "options",
    [
        ("--training.batch-size", "64"),  # has no effect on the features, and --help hides it
        ("--decoder.core", "attention", "--feature-dtype", "int8"),
    ],
)
def test_training_after_features_encodes_nothing(options, tmp_path, capsys, monkeypatch):
    shutil.copytree(TINY, tmp_path / "tiny")
    cache = ("--cache", tmp_path / "features", *options)
    code, lines = run(capsys, "features", "--data", f"coco:{tmp_path / 'tiny'}", *cache)
    assert code == 0
    assert lines[2].startswith("Features of 40 images: 0 stored, 40 missing. The missing ones need")
    assert lines[-1] == f"The features of 40 images are stored in '{tmp_path / 'features'}'."
    (tmp_path / "tiny").rename(tmp_path / "moved")
    data = ("--data", f"coco:{tmp_path / 'moved'}")
    monkeypatch.setattr(extraction, "_encode_views", lambda *words: pytest.fail("encoded again"))
    code, lines = run(capsys, "features", *data, *cache, "--check-stored")
    assert (code, len(lines)) == (0, 3)
    output = ("--output", tmp_path / "run", "--training.epochs", "1", "--search-images", "0")
    assert run(capsys, "train", *data, *cache, *output)[0] == 0


def test_features_with_damage_are_encoded_again(tmp_path, capsys, monkeypatch):
    shutil.copytree(TINY, tmp_path / "tiny")
    words = ("--data", f"coco:{tmp_path / 'tiny'}", "--cache", tmp_path / "features")
    run(capsys, "features", *words)
    rows = max(tmp_path.glob("features/*/features.rows"), key=lambda path: path.stat().st_size)
    content = rows.read_bytes()
    rows.write_bytes(content[:100] + b"damage" + content[106:])
    image = tmp_path / "tiny" / "images" / "000002.png"
    image.write_bytes(image.read_bytes()[:90])
    code, lines = run(capsys, "features", *words, "--check-stored")
    assert code == 1  # one image cannot be read
    assert "Removed damaged features of 1 image." in lines
    assert any(line.startswith(f"Skipping {image}: cannot read") for line in lines)
    assert lines[-1].startswith("The features of 39 images are stored")


def test_features_on_full_disk_are_refused(tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000)
    monkeypatch.setattr(row_extraction.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(extraction, "_encode_views", lambda *words: pytest.fail("encoded"))
    for command in ("features", "train"):
        words = ("--output", tmp_path / "run", "--search-images", "0") * (command == "train")
        cache = ("--cache", tmp_path / "features")
        code, lines = run(capsys, command, "--data", f"coco:{TINY}", *cache, *words)
        assert code == 1
        assert lines[-1].startswith(
            "captioning: the features of 40 images need 13.8 kB, and 5.0 kB"
        )


def test_features_without_cache_are_refused(tmp_path, capsys):
    code, lines = run(capsys, "features", "--data", f"coco:{TINY}")
    assert code == 2
    assert "--cache is missing" in lines[-1]
