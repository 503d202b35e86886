"""What a run learns, logs and saves, and which configs and data it refuses."""

import base64
import io
import json
import math
import re
import shutil
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image
from small_run import (
    TINY,
    Killed,
    config,
    fine_tuning,
    initialize,
    kill_after,
    load_weights,
    read_log,
)

from captioning.checkpoint import load_checkpoint
from captioning.decoding import Greedy
from captioning.errors import CheckpointError, ConfigError, DataError
from captioning.evaluation.evaluate import EvaluationConfig, evaluate
from captioning.inference.captioner import Captioner
from captioning.training.callback import ENCODING, TrainingCallback
from captioning.training.config import RunConfig
from captioning.training.prepare import prepare
from captioning.training.run import train
from captioning.training.training_config import TrainingConfig

pytestmark = pytest.mark.xdist_group("runs")  # one process trains the shared runs


@pytest.mark.parametrize("run", ["fine_tuned", "augmented"])
def test_fine_tuning_changes_last_stages_only(trained, run, request):
    before, after = load_weights(trained), load_weights(request.getfixturevalue(run))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    last = ("encoder.network.layer3.", "encoder.network.layer4.")
    assert any(name.startswith(last) for name in changed)
    assert all(name.startswith((*last, "decoder.")) for name in changed)
    assert not any("running" in name for name in changed)


@pytest.mark.parametrize("run", ["trained", "fine_tuned", "augmented"])
def test_saved_model_reaches_the_score_in_the_log(run, request):
    """The model is loaded from disk and applied to pixels, without a cache."""
    model = request.getfixturevalue(run)
    captioner = Captioner(load_checkpoint(model))
    workers = EvaluationConfig(workers=0)
    found = evaluate(captioner, f"coco:{TINY}", search=Greedy(), config=workers)
    best = max(float(row["CIDEr"]) for row in read_log(model) if row["split"] == "val")
    assert found.scores.cider == pytest.approx(best, abs=1e-4)


def with_rewards(run):
    training = replace(run.training, objective="self_critical", captions_per_image=5)
    return replace(run, training=training)


def test_online_augmentation_with_rewards_trains_the_encoder(trained, tmp_path):
    run = fine_tuning(
        trained, tmp_path / "run", online_augmentation=True, epochs=1, learning_rate=0.01
    )
    model = train(with_rewards(run)).model_dir
    before, after = load_weights(trained), load_weights(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("encoder.network.layer4.") for name in changed)
    assert load_checkpoint(model).info.training.runs[-1].endswith(", online augmentation")


def test_self_critical_run_logs_reward_and_history(trained, tmp_path):
    run = initialize(config(tmp_path / "run", epochs=1, learning_rate=0.01), trained)
    model = train(with_rewards(run)).model_dir
    rewards = [row["reward"] for row in read_log(model)]
    assert float(rewards[1]) > 0
    assert (rewards[0], rewards[2]) == ("", "")
    first, second = load_checkpoint(model).info.training.runs
    assert first.startswith("teacher forcing, epoch")
    assert second == "self-critical training with CIDEr-D, epoch 1 of 1, decoder only"
    assert load_checkpoint(model).vocabulary == load_checkpoint(trained).vocabulary


def test_every_phase_of_a_run_is_named(trained, tmp_path):
    phases, counted = [], set()
    run = with_rewards(initialize(config(tmp_path / "run", epochs=1), trained))
    run = replace(run, search_images=8)

    def count(done, total):
        assert 0 <= done <= total
        counted.add(phases[-1])

    train(run, TrainingCallback(on_phase=phases.append, on_progress=count))
    assert [name for name in phases if not name.startswith("Reading coco:tiny, ")] == [
        *("Loading the encoder", "Reading image files", "Reading image files"),
        *(ENCODING, ENCODING, "Tokenizing captions"),
        *("Building the vocabulary", "Preparing rewards"),
        *("Captioning validation images", "Scoring captions", "Training"),
        *("Captioning validation images", "Scoring captions"),
        *("Reading features", "Learning n-grams", "Choosing the search"),
    ]
    uncounted = {name for name in phases if not name.startswith("Reading coco:tiny, ")} - counted
    assert uncounted == {
        *("Loading the encoder", "Building the vocabulary", "Scoring captions", "Training")
    }


def test_run_worse_than_its_initial_model_returns_it(trained, tmp_path):
    messages = []
    run = config(tmp_path / "run", learning_rate=1.0, warmup_steps=0, epochs=2)
    run = initialize(run, trained)
    result = train(run, TrainingCallback(messages.append))
    before, after = load_weights(trained), load_weights(result.model_dir)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert load_checkpoint(result.model_dir).info.training == load_checkpoint(trained).info.training
    best = max(float(row["CIDEr"]) for row in read_log(trained) if row["split"] == "val")
    first = read_log(result.model_dir)[0]
    assert (first["epoch"], first["split"], float(first["CIDEr"])) == ("0", "val", best)
    assert (result.best_epoch, result.best_value) == (0, pytest.approx(best, abs=1e-6))
    assert any(line.startswith("Warning: no epoch is better") for line in messages)
    last, name = load_weights(run.output / "last"), "decoder.W_rw.bias"
    assert not torch.equal(last[name], after[name])
    assert "epoch 2 of 2" in load_checkpoint(run.output / "last").info.training.runs[-1]


def test_perplexity_of_a_bad_run_is_short_and_finite(tmp_path):
    messages = []
    run = config(tmp_path / "run", learning_rate=1000.0, warmup_steps=0, epochs=1)
    model = train(run, TrainingCallback(messages.append)).model_dir
    perplexity = float(read_log(model)[0]["perplexity"])
    assert perplexity > 1e30
    assert np.isfinite(np.float32(perplexity))  # as TensorBoard stores it
    assert any(f"perplexity {perplexity:.1e}, " in line for line in messages)


def test_log_has_two_rows_per_epoch(trained):
    rows = read_log(trained)
    assert [(row["split"], row["epoch"]) for row in rows] == [
        (split, str(epoch)) for epoch in (1, 2, 3) for split in ("train", "val")
    ]
    assert all(float(row["loss"]) > 0 for row in rows if row["split"] == "train")
    assert all(0 <= float(row["BLEU-4"]) <= 1 for row in rows if row["split"] == "val")
    assert list((trained.parent / "tensorboard").iterdir())


def test_step_metrics_are_in_log_and_tensorboard(tmp_path, monkeypatch):
    """Means over steps, also of a run that was interrupted between two rows."""
    # Event files of one process and second are read in the order of their names: 9 after 10.
    writer = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    monkeypatch.setattr(writer, "_global_uid", writer.AtomicCounter(0))
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    run = config(tmp_path / "run", epochs=1, log_every=5, save_every=3)
    with pytest.raises(Killed):
        train(run, kill_after(9))
    model = train(run).model_dir
    rows = [row for row in read_log(model) if row["split"] == "step"]
    assert [(row["step"], row["epoch"]) for row in rows] == [("5", "1"), ("10", "1")]
    whole = config(tmp_path / "whole", epochs=1, log_every=5)
    assert read_log(train(whole).model_dir) == read_log(model)
    every = config(tmp_path / "every", epochs=1, log_every=1)
    single = [row for row in read_log(train(every).model_dir) if row["split"] == "step"]
    norms = [float(row["gradient_norm"]) for row in single]
    assert float(rows[1]["gradient_norm"]) == pytest.approx(np.mean(norms[5:]), rel=1e-4)
    assert rows[1]["learning_rate"] == single[9]["learning_rate"]

    events = event_accumulator.EventAccumulator(str(run.output / "tensorboard")).Reload()
    losses = {event.step: event.value for event in events.Scalars("step/loss")}
    assert losses == {5 * n: pytest.approx(float(rows[n - 1]["loss"]), rel=1e-4) for n in (1, 2)}
    for number in range(1, 7):
        shown = events.Images(f"samples/{number}")[-1]
        with Image.open(io.BytesIO(shown.encoded_image_string)) as image:
            assert image.width == 224
        text = events.Tensors(f"samples/{number}/text_summary")[-1]
        assert text.step == shown.step == 10
        caption = text.tensor_proto.string_val[0].decode().split("\n")[0]
        assert caption in (run.output / "samples.html").read_text()
    for split in ("step", "train"):
        assert all(0 <= event.value <= 1 for event in events.Scalars(f"{split}/data_wait"))


def test_samples_page_shows_images_and_captions_of_each_epoch(trained):
    """Parsed as a browser does: one figure per image and epoch, each with a picture."""
    page = (trained.parent / "samples.html").read_text(encoding="utf-8")
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == ["Epoch 1", "Epoch 2", "Epoch 3"]
    pictures = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)">', page)
    assert len(pictures) == page.count("<figcaption>") == 3 * 6
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            assert max(image.size) <= 224


def test_samples_with_captions_beyond_utf8_are_shown(tmp_path):
    data = tmp_path / "tiny"
    shutil.copytree(TINY, data)
    (annotations,) = data.glob("annotations/*val*")
    content = json.loads(annotations.read_text())
    for annotation in content["annotations"]:
        annotation["caption"] += " \ud83d"  # half of an emoji
    annotations.write_text(json.dumps(content))
    run = config(tmp_path / "run", epochs=1, max_steps=1)
    train(replace(run, data=(f"coco:{data}",)))
    page = (run.output / "samples.html").read_text(encoding="utf-8")
    assert page.count(r" \ud83d<br>") == 6


def test_result_of_finished_run_names_best_epoch(trained):
    before = load_weights(trained)
    result = train(config(trained.parent), kill_after(1))  # it takes no step
    rows = [row for row in read_log(trained) if row["split"] == "val"]
    best = max(rows, key=lambda row: float(row["CIDEr"]))
    assert (result.model_dir, result.best_epoch) == (trained, int(best["epoch"]))
    assert result.best_value == result.scores["CIDEr"]
    assert result.best_value == pytest.approx(float(best["CIDEr"]), abs=1e-4)
    assert result.resumed
    assert "CIDEr" in result._repr_html_()
    info = load_checkpoint(trained).info
    assert info.training.epochs == result.best_epoch
    assert info.scores["CIDEr (greedy, val, 8 images)"] == pytest.approx(
        result.best_value, abs=1e-4
    )
    assert str(TINY.parent) not in str(info)  # models do not contain paths of this machine
    after = load_weights(trained)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_patience_stops_a_run_that_does_not_improve(tmp_path):
    messages = []
    decay = {"schedule": "plateau", "decay_epochs": 1.0}
    run = config(tmp_path / "run", epochs=30, patience=2, learning_rate=1e-9, **decay)
    model = train(run, TrainingCallback(messages.append)).model_dir
    assert any("Stopping early: no better CIDEr for 2 epochs." in line for line in messages)
    rows = read_log(model)
    assert len(rows) == 2 * 3
    assert [float(row["learning_rate"]) for row in rows[::2]] == [1e-9, 1e-9, 5e-10]


def test_validation_limit_captions_evenly_spaced_images(trained, tmp_path):
    """The scores equal those of the whole split cut down to every second image."""
    messages, phases, counts = [], [], []
    half = shutil.copytree(TINY, tmp_path / "half")
    path = half / "annotations" / "captions_val.json"
    content = json.loads(path.read_text())
    kept = {image["id"] for image in content["images"][::2]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    path.write_text(json.dumps(content))
    callback = TrainingCallback(
        messages.append,
        on_phase=phases.append,
        on_progress=lambda done, _: counts.append((phases[-1], done)),
    )
    limited = config(tmp_path / "limited", epochs=1)
    models = [
        train(replace(limited, validation_limit=4), callback).model_dir,
        train(replace(limited, data=(f"coco:{half}",), output=tmp_path / "run")).model_dir,
    ]
    assert counts[-1] == ("Captioning validation images", 4)
    assert "Validating on 4 of 8 images (validation_limit is 4)." in messages
    assert read_log(models[0]) == read_log(models[1])
    scores = load_checkpoint(models[0]).info.scores
    assert scores == load_checkpoint(models[1]).info.scores
    assert "CIDEr (greedy, val, 4 images)" in scores


def test_validation_limit_keeps_images_of_each_data_set(mixture):
    messages = []
    run = replace(mixture, validation_limit=1, training=replace(mixture.training, epochs=1))
    train(run, TrainingCallback(messages.append))
    assert "Validating on 2 of 14 images (validation_limit is 1)." in messages
    assert sum(line.startswith("  jsonl:{split}.jsonl: BLEU-4") for line in messages) == 1


def split_captions(dataset):
    captions = dataset.captions
    return [caption.tolist() for caption in np.split(captions.ids, captions.caption_starts[1:-1])]


def test_max_caption_words_cuts_without_end(tmp_path):
    messages = []
    run = replace(config(tmp_path / "run"), max_caption_words=9)
    callback = TrainingCallback(messages.append)
    whole, cut = prepare(replace(run, max_caption_words=0), callback), prepare(run, callback)
    pairs = list(zip(split_captions(whole.dataset), split_captions(cut.dataset), strict=True))
    long = [(expected, found) for expected, found in pairs if len(expected) > 11]
    assert 0 < len(long) < len(pairs)
    assert all(found == expected[:10] for expected, found in long)
    assert all(found == expected for expected, found in pairs if len(expected) <= 11)
    assert f"Cut {len(long)} of 160 captions after 9 words (max_caption_words)." in messages


def test_damaged_image_is_reported_and_skipped(tmp_path):
    shutil.copytree(TINY, tmp_path / "tiny")
    damaged = sorted((tmp_path / "tiny" / "images").glob("*.png"))[0]
    damaged.write_bytes(damaged.read_bytes()[:60])
    messages = []
    run = replace(config(tmp_path / "run", epochs=1), data=(f"coco:{tmp_path / 'tiny'}",))
    train(run, TrainingCallback(messages.append))
    assert any(line.startswith(f"Skipping {damaged}: ") for line in messages)


@pytest.fixture
def mixture(trained, tmp_path):
    """A run on two data sets with different words and on text, which starts from a model."""
    for part in ("train", "val"):
        names = [f"{part}{i}.png" for i in range(6)]
        with (tmp_path / f"{part}.jsonl").open("w") as file:
            for name in names:
                shutil.copy(sorted((TINY / "images").glob("*.png"))[0], tmp_path / name)
                row = {"image": name, "captions": ["a zebra in a kitchen", "a zebra"]}
                file.write(json.dumps(row) + "\n")
    (tmp_path / "text.txt").write_text("a toaster in a kitchen\n" * 9)
    return replace(
        config(tmp_path / "run", epochs=2),
        data=(f"coco:{TINY}", f"jsonl:{tmp_path}/{{split}}.jsonl"),
        data_weights=(1.0, 2.0),
        text_data=tmp_path / "text.txt",
        text_weight=0.5,
        init_from=trained,
        extend_vocabulary=True,
    )


def test_data_sets_and_text_are_trained_together(mixture, trained, tmp_path):
    messages = []
    with pytest.raises(Killed):
        train(mixture, kill_after(8))
    model = train(mixture, TrainingCallback(messages.append)).model_dir
    before, after = load_checkpoint(trained).vocabulary, load_checkpoint(model).vocabulary
    assert after.words[: len(before)] == before.words
    assert set(after.words[len(before) :]) == {"zebra", "kitchen", "toaster"}
    captioner = Captioner(load_checkpoint(model))
    for data, name in zip(mixture.data, ("coco:tiny", "jsonl:{split}.jsonl"), strict=True):
        lines = [line for line in messages if line.startswith(f"  {name}: BLEU-4")]
        assert len(lines) == 2  # one per epoch
        workers = EvaluationConfig(workers=0)
        scores = evaluate(captioner, data, search=Greedy(), config=workers).scores
        bleu, cider = 100 * scores.bleu_4, 100 * scores.cider
        expected = f"  {name}: BLEU-4 {bleu:.2f}, CIDEr {cider:.2f}; "
        assert any(line.startswith(expected) for line in lines)
    names = "coco:tiny + jsonl:{split}.jsonl + text.txt, split train:"
    assert load_checkpoint(model).info.training.data.startswith(names)
    again = train(replace(mixture, output=tmp_path / "again")).model_dir
    expected, found = load_weights(model), load_weights(again)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": ()}, "at least one data set"),
        ({"data_weights": (1.0,)}, "one weight per data set"),
        ({"text_weight": 0.0}, r"contains 0\.0"),
        ({"data_weights": (1.0, math.nan)}, "contains nan"),
        ({"data_weights": (1.0, math.inf)}, "contains inf"),
        ({"training": TrainingConfig(objective="self_critical")}, "text_data has no images"),
        ({"min_count": 0}, "min_count"),
        ({"workers": -1}, "workers"),
    ],
)
def test_run_config_with_invalid_field_is_refused(mixture, change, message):
    with pytest.raises(ConfigError, match=message):
        replace(mixture, **change)


def test_run_config_self_critical_needs_initial_model(tmp_path):
    with pytest.raises(ConfigError, match="Pass one as init_from"):
        config(tmp_path / "run", objective="self_critical")


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_training_config_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match="seed is"):
        TrainingConfig(seed=seed)


def test_run_config_accepts_strings_as_paths(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in an installed package
    paths = {"output": "run", "init_from": "model", "text_data": "t.txt", "cache": "c"}
    run = RunConfig(data=("coco:x",), **paths)
    for name, path in paths.items():
        assert getattr(run, name).name == path


@pytest.mark.parametrize(
    ("change", "training", "error", "message"),
    [
        ({"init_from": "nowhere"}, {}, CheckpointError, "nowhere"),
        ({"device": "cuda:77"}, {}, ConfigError, "device 'cuda:77' is not available"),
        (
            {"validation_split": "train"},
            {},
            DataError,
            "the training and validation splits are the same",
        ),
        ({}, {"doubly_stochastic_weight": 1.0}, ConfigError, "needs attention"),
    ],
)
def test_train_refuses_before_output_exists(change, training, error, message, tmp_path):
    if "init_from" in change:
        change = {"init_from": tmp_path / change["init_from"]}
    with pytest.raises(error, match=message):
        train(replace(config(tmp_path / "run", **training), **change))
    assert not (tmp_path / "run").exists()


def test_select_by_cider_needs_two_validation_images(tmp_path):
    shutil.copytree(TINY, tmp_path / "tiny")
    val = json.loads((TINY / "annotations" / "captions_val.json").read_text())["images"]
    for entry in val[1:]:
        (tmp_path / "tiny" / "images" / entry["file_name"]).write_bytes(b"no image")
    run = replace(config(tmp_path / "run", epochs=1), data=(f"coco:{tmp_path / 'tiny'}",))
    with pytest.raises(DataError, match=r"add --training\.select-by BLEU-4"):
        train(run)
    assert not (tmp_path / "run").exists()
    train(replace(run, training=replace(run.training, select_by="BLEU-4")))
