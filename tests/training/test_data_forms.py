"""Runs on archives, on images in memory, and on data without a validation split."""

import io
import json
import tarfile
from dataclasses import replace

import pytest
from small_run import TINY, config, load_weights, read_log

from captioning import EvaluationConfig, evaluate, read_captions, train
from captioning.errors import ConfigError, DataError
from captioning.training.callback import TrainingCallback


@pytest.fixture(scope="module")
def on_files(tmp_path_factory):
    """The model of one epoch on data/tiny."""
    return train(config(tmp_path_factory.mktemp("run") / "run", epochs=1)).model_dir


def assert_equal_models(model, other):
    weights = load_weights(other)
    assert all((value == weights[name]).all() for name, value in load_weights(model).items())


def write_archive(path, split):
    with tarfile.open(path, "w") as archive:
        for image in read_captions(f"coco:{TINY}", split=split).images:
            archive.add(image.path, image.path.name)
            text = json.dumps({"captions": image.captions}).encode()
            info = tarfile.TarInfo(f"{image.path.stem}.json")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))


def test_run_on_archives_equals_one_on_files(on_files, tmp_path):
    for split in ("train", "val"):
        write_archive(tmp_path / f"{split}.tar", split)
    run = replace(config(tmp_path / "run", epochs=1), data=(f"tar:{tmp_path}/{{split}}.tar",))
    model = train(run).model_dir
    assert_equal_models(model, on_files)
    assert read_log(model) == read_log(on_files)


def list_rows():
    return [
        {"image": image.path.read_bytes(), "captions": image.captions, "split": split}
        for split in ("train", "val")
        for image in read_captions(f"coco:{TINY}", split=split).images
    ]


def test_run_on_rows_in_memory_equals_one_on_files(on_files, tmp_path):
    run = replace(config(tmp_path / "run", epochs=1), data=(list_rows(),))
    assert_equal_models(train(run).model_dir, on_files)
    assert train(replace(run, data=(list_rows(),))).resumed
    with pytest.raises(ConfigError, match=r"data is a tuple of data sets, such as \(rows,\)"):
        replace(run, data=list_rows())


def test_run_holds_out_what_evaluate_reads(tmp_path):
    messages = []
    rows = [{**row, "split": None} for row in list_rows()]
    run = replace(config(tmp_path / "run", epochs=1), data=(rows,), val_fraction=0.2, split_seed=7)
    model = train(run, TrainingCallback(messages.append)).model_dir
    assert "train: 32 images" in messages[0]
    assert "(val_fraction 0.2, split_seed 7)" in messages[0]
    settings = EvaluationConfig(val_fraction=0.2, split_seed=7, workers=0, device="cpu")
    result = evaluate(model, rows, split="val", config=settings)
    held_out = read_captions(rows, split="val", val_fraction=0.2, split_seed=7)
    assert sorted(result.references.values()) == sorted(
        list(image.captions) for image in held_out.images
    )
    assert "split:val(val_fraction=0.2,seed=7)" in result.signature


def test_val_fraction_without_effect_is_refused(tmp_path):
    with pytest.raises(DataError, match="val_fraction has no effect: coco:tiny has its own split"):
        train(replace(config(tmp_path / "run"), val_fraction=0.1))
    assert not (tmp_path / "run").exists()
