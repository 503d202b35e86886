import csv
import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from small_run import TINY, Killed, config, kill_after

from captioning.checkpoint.checkpoint import load_checkpoint
from captioning.datasets import read_captions
from captioning.decoding import BeamSearch, Greedy
from captioning.errors import CheckpointError, ConfigError, DataError, TrainingError
from captioning.evaluation.evaluate import EvaluationConfig, evaluate
from captioning.evaluation.search_sweep import candidate_searches, with_best_search
from captioning.features.cached_model import CachedModel
from captioning.features.extraction import cache_features
from captioning.images.decode import read_image
from captioning.inference.captioner import Captioner
from captioning.metrics import score
from captioning.nn.decoder_config import DecoderOptions
from captioning.nn.encoder import EncoderConfig
from captioning.reranking.ngram import NgramReranker
from captioning.text.tokenizer import tokenize
from captioning.training import TrainingCallback, TrainingConfig, train


def weights(model):
    return load_checkpoint(model).model.state_dict()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(config(tmp_path_factory.mktemp("runs") / "whole"))


@pytest.mark.parametrize("batches", [2, 4, 10, 13])
def test_killed_run_goes_on_and_ends_with_the_same_weights(whole, tmp_path, batches):
    settings = config(tmp_path / "run")
    with pytest.raises(Killed):
        train(settings, kill_after(batches))
    said = []
    model = train(settings, TrainingCallback(said.append))
    assert any("going on after batch" in line for line in said) == (batches >= 3)
    expected, found = weights(whole), weights(model)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert log_of(model) == log_of(whole)


@pytest.fixture(scope="module")
def fine_tuned(whole):
    settings = config(whole.parent.parent / "fine", fine_tune_stages=2, ema_decay=0.5, epochs=2)
    settings = replace(settings, init_from=whole, decoder=DecoderOptions(), encoder=EncoderConfig())
    return train(settings)


@pytest.fixture(scope="module")
def live(whole):
    return train(live_settings(whole, whole.parent.parent / "live"))


def live_settings(whole, output):
    settings = config(output, fine_tune_stages=2, ema_decay=0.5, epochs=2, online_augmentation=True)
    return replace(settings, init_from=whole, decoder=DecoderOptions(), encoder=EncoderConfig())


@pytest.mark.parametrize("which", ["fine_tuned", "live"])
def test_fine_tuning_trains_the_last_stages_and_no_others(whole, which, request):
    before, after = weights(whole), weights(request.getfixturevalue(which))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    last = ("encoder.network.layer3.", "encoder.network.layer4.")
    assert any(name.startswith(last) for name in moved)
    assert all(name.startswith((*last, "decoder.")) for name in moved)
    assert not any("running" in name for name in moved)


@pytest.mark.parametrize("which", ["whole", "fine_tuned", "live"])
def test_saved_model_earns_the_score_in_the_log(which, request):
    """Read from disk and run from pixels on, with nothing cached: does it caption the same?"""
    model = request.getfixturevalue(which)
    captioner = Captioner(load_checkpoint(model))
    found = evaluate(captioner, f"coco:{TINY}", search=Greedy(), config=EvaluationConfig(workers=0))
    rows = [row for row in log_of(model) if row["split"] == "val"]
    best = max(float(row["CIDEr"]) for row in rows)
    assert found.scores.cider == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("which", ["whole", "fine_tuned", "live"])
def test_model_keeps_the_search_that_scores_best_on_the_validation_split(which, request):
    """From pixels on, with nothing cached: does no other search that was tried score higher?"""
    model = request.getfixturevalue(which)
    checkpoint = load_checkpoint(model)
    found = {
        how: evaluate(
            Captioner(checkpoint), f"coco:{TINY}", search=how, config=EvaluationConfig(workers=0)
        )
        for how in candidate_searches(checkpoint)
    }
    earned = {how: each.scores.cider + each.scores.bleu_4 for how, each in found.items()}
    assert earned[checkpoint.search] == pytest.approx(max(earned.values()), abs=1e-4)
    assert max(earned.values()) > min(earned.values())
    card = checkpoint.info.scores
    value = found[checkpoint.search].scores.cider
    assert card["CIDEr (val, 8 images)"] == pytest.approx(value, abs=1e-4)
    assert checkpoint.info.search_chosen
    assert f"width: {checkpoint.search.width}" in (model / "README.md").read_text()


def test_search_is_chosen_once_and_by_as_many_images_as_asked(tmp_path):
    settings = replace(config(tmp_path / "run"), search_images=0)
    checkpoint = load_checkpoint(train(settings))
    assert checkpoint.search == BeamSearch(width=3)
    assert not checkpoint.info.search_chosen
    said = []
    model = train(replace(settings, search_images=3), TrainingCallback(said.append))
    assert "choosing the search on 3 images of val" in said
    checkpoint = load_checkpoint(model)
    found = evaluate(Captioner(checkpoint), f"coco:{TINY}", config=EvaluationConfig(workers=0))
    spread = [list(found.captions)[place] for place in (0, 2, 5)]  # of all eight, not the first
    captions = {image: found.captions[image] for image in spread}
    alone = score(captions, {image: found.references[image] for image in spread})
    assert alone.cider > 0
    card = checkpoint.info.scores
    assert card["CIDEr (val, 3 images)"] == pytest.approx(alone.cider, abs=1e-4)
    written = (model / "config.json").stat().st_mtime_ns
    train(replace(settings, search_images=5), TrainingCallback(said.append))
    assert said[-1] == "its search was chosen before, and stays, as do its phrases"
    assert (model / "config.json").stat().st_mtime_ns == written


def test_a_model_whose_captions_score_nothing_keeps_its_search(whole, tmp_path):
    checkpoint = replace(load_checkpoint(whole), search=BeamSearch(width=3))
    paths = [image.path for image in read_captions(f"coco:{TINY}", split="val").images]
    encoder = checkpoint.model.encoder
    cache = cache_features(encoder, paths, tmp_path, grid=False, flip=False, workers=0)
    said = []
    same = with_best_search(
        checkpoint,
        CachedModel(checkpoint.model.decoder),
        cache,
        {0: ["zebras yawn quietly"], 1: ["xylophones"]},
        name="val",
        say=said.append,
    )
    assert (
        said[-1] == "No search finds a caption that scores. The search of the model is unchanged."
    )
    assert same is checkpoint


def test_killed_fine_tuning_goes_on_and_ends_with_the_same_weights(fine_tuned, whole, tmp_path):
    settings = config(tmp_path / "run", fine_tune_stages=2, ema_decay=0.5, epochs=2)
    settings = replace(settings, init_from=whole, decoder=DecoderOptions(), encoder=EncoderConfig())
    with pytest.raises(Killed):
        train(settings, kill_after(7))
    expected, found = weights(fine_tuned), weights(train(settings))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_killed_live_run_goes_on_and_ends_with_the_same_weights(live, whole, tmp_path):
    settings = live_settings(whole, tmp_path / "run")
    with pytest.raises(Killed):
        train(settings, kill_after(7))
    expected, found = weights(live), weights(train(settings))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_live_rewards_train_the_cnn_too(whole, tmp_path):
    settings = live_settings(whole, tmp_path / "run")
    reward = replace(settings.training, objective="self_critical", captions_per_image=5, epochs=1)
    model = train(replace(settings, training=reward))
    before, after = weights(whole), weights(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("encoder.network.layer4.") for name in moved)
    runs = load_checkpoint(model).info.training.runs
    assert runs[-1].endswith("parts of the images drawn anew each time")


def test_self_critical_run_starts_from_a_model_and_logs_its_reward(whole, tmp_path):
    settings = replace(config(tmp_path / "run", epochs=1), init_from=whole)
    reward = replace(settings.training, objective="self_critical", captions_per_image=5)
    model = train(replace(settings, training=reward))
    rewards = [row["reward"] for row in log_of(model)]
    first, second = load_checkpoint(model).info.training.runs
    assert "teacher forcing, epoch" in first
    assert "CIDEr-D as the reward, epoch 1 of 1, the decoder alone" in second
    card = (model / "README.md").read_text()
    assert f"- run 1: {first}\n- run 2: {second}\n" in card
    assert float(rewards[0]) > 0
    assert rewards[1] == ""
    assert load_checkpoint(model).vocabulary == load_checkpoint(whole).vocabulary


def test_a_reward_for_a_model_that_has_learned_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="Pass one as init_from"):
        config(tmp_path / "run", objective="self_critical")


def test_start_that_is_no_model_is_said_before_the_output_is_taken(tmp_path):
    settings = replace(config(tmp_path / "run"), init_from=tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="There is no model directory"):
        train(settings)
    assert not (tmp_path / "run").exists()


def log_of(model):
    """The rows of the log without their times."""
    with (model.parent / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "captions_per_second")}
        for row in rows
    ]


def test_log_is_a_table_with_two_rows_per_epoch(whole):
    rows = log_of(whole)
    assert [(row["split"], row["epoch"]) for row in rows] == [
        (split, str(epoch)) for epoch in (1, 2, 3) for split in ("train", "val")
    ]
    assert all(float(row["loss"]) > 0 for row in rows if row["split"] == "train")
    assert all(0 <= float(row["BLEU-4"]) <= 1 for row in rows if row["split"] == "val")
    assert list((whole.parent / "tensorboard").iterdir())


def test_best_epoch_is_kept_with_its_scores(whole):
    rows = [row for row in log_of(whole) if row["split"] == "val"]
    best = max(rows, key=lambda row: float(row["CIDEr"]))
    info = load_checkpoint(whole).info
    assert info.training.epochs == int(best["epoch"])
    assert info.scores["CIDEr (greedy, val)"] == pytest.approx(float(best["CIDEr"]), abs=1e-4)
    assert str(TINY.parent) not in (whole / "config.json").read_text()  # no path of this machine


def test_finished_run_is_left_as_it_is(whole):
    settings = config(whole.parent)
    before = weights(whole)
    train(settings, kill_after(1))
    after = weights(whole)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_other_settings_are_refused_and_named(whole):
    settings = config(whole.parent, epochs=7)
    with pytest.raises(TrainingError, match=r"training\.epochs was 3 and is now 7"):
        train(settings)


def test_run_begun_before_a_setting_was_there_goes_on(whole, tmp_path):
    shutil.copytree(whole.parent, tmp_path / "run")
    path = tmp_path / "run" / "settings.json"
    content = json.loads(path.read_text())
    content["data"] = content["data"][0]
    for part, name in (
        ("decoder", "top_down"),
        ("training", "word_dropout"),
        (None, "data_weights"),
    ):
        (content[part] if part else content).pop(name)
    content["decoder"].pop("deep_output")
    content["training"]["self_critical"].pop("feature_dropout")
    path.write_text(json.dumps(content))
    train(config(tmp_path / "run"))
    with pytest.raises(TrainingError, match=r"training\.word_dropout was 0\.0 and is now 0\.1;?"):
        train(config(tmp_path / "run", word_dropout=0.1))


def test_term_on_attention_needs_attention(tmp_path):
    with pytest.raises(ConfigError, match="has no attention"):
        train(config(tmp_path / "run", doubly_stochastic_weight=1.0))


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(TrainingError, match="holds no training run"):
        train(config(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_damaged_state_is_said(whole, tmp_path):
    shutil.copytree(whole.parent, tmp_path / "run")
    (tmp_path / "run" / "state.pt").write_bytes(b"half a file")
    with pytest.raises(TrainingError, match="Remove that file"):
        train(config(tmp_path / "run"))


def test_patience_ends_a_run_that_no_longer_improves(tmp_path):
    said = []
    settings = config(tmp_path / "run", epochs=30, patience=2, learning_rate=1e-9)
    model = train(settings, TrainingCallback(said.append))
    assert any("stopped: no better CIDEr for 2 epochs" in line for line in said)
    assert len(log_of(model)) == 2 * 3


def test_damaged_image_is_named_and_left_out(tmp_path):
    shutil.copytree(TINY, tmp_path / "tiny")
    victim = sorted((tmp_path / "tiny" / "images").glob("*.png"))[0]
    victim.write_bytes(victim.read_bytes()[:60])
    said = []
    settings = replace(config(tmp_path / "run", epochs=1), data=(f"coco:{tmp_path / 'tiny'}",))
    train(settings, TrainingCallback(said.append))
    assert any("left out" in line and victim.name in line for line in said)


def test_validating_on_training_images_is_refused(tmp_path):
    settings = replace(config(tmp_path / "run"), validation_split="train")
    with pytest.raises(DataError, match="of train are in train too"):
        train(settings)


def test_select_by_cider_needs_two_images_to_validate_on(tmp_path):
    shutil.copytree(TINY, tmp_path / "tiny")
    val = json.loads((TINY / "annotations" / "captions_val.json").read_text())["images"]
    for entry in val[1:]:
        (tmp_path / "tiny" / "images" / entry["file_name"]).write_bytes(b"no image")
    settings = replace(config(tmp_path / "run", epochs=1), data=(f"coco:{tmp_path / 'tiny'}",))
    with pytest.raises(DataError, match="select by BLEU-4"):
        train(settings)
    assert not (tmp_path / "run").exists()
    train(replace(settings, training=replace(settings.training, select_by="BLEU-4")))


def test_device_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ConfigError, match="There is no device 'cuda:77' here"):
        train(replace(config(tmp_path / "run"), device="cuda:77"))


@pytest.mark.parametrize(("name", "value"), [("min_count", 0), ("workers", -1)])
def test_senseless_settings_are_refused(name, value, tmp_path):
    with pytest.raises(ConfigError, match=name):
        replace(config(tmp_path / "run"), **{name: value})


@pytest.fixture
def mixture(whole, tmp_path):
    """A second data set with other words, captions without images, and a model to start from."""
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
        init_from=whole,
        extend_vocabulary=True,
    )


def test_two_data_sets_and_text_are_trained_together(mixture, whole, tmp_path):
    said = []
    with pytest.raises(Killed):
        train(mixture, kill_after(8))
    model = train(mixture, TrainingCallback(said.append))
    known, found = load_checkpoint(whole).vocabulary, load_checkpoint(model).vocabulary
    assert found.words[: len(known)] == known.words
    assert set(found.words[len(known) :]) == {"zebra", "kitchen", "toaster"}
    captioner = Captioner(load_checkpoint(model))
    for data, name in zip(mixture.data, ("coco:tiny", "jsonl:{split}.jsonl"), strict=True):
        lines = [line for line in said if line.startswith(f"{name}: BLEU-4")]
        assert len(lines) == 2  # after each epoch
        found = evaluate(
            captioner, data, search=Greedy(), config=EvaluationConfig(workers=0)
        ).scores
        expected = f"{name}: BLEU-4 {found.bleu_4:.3f}, CIDEr {found.cider:.3f}"
        assert expected in lines
    data = load_checkpoint(model).info.training.data
    assert data.startswith("coco:tiny + jsonl:{split}.jsonl + text.txt, split train:")
    again = train(replace(mixture, output=tmp_path / "again"))
    expected, other = weights(model), weights(again)
    assert all(torch.equal(expected[name], other[name]) for name in expected)


def test_mixtures_that_make_no_sense_are_refused(mixture):
    for change, said in (
        ({"data": ()}, "at least one"),
        ({"data_weights": (1.0,)}, "one weight for each"),
        ({"text_weight": 0.0}, r"contains 0\.0"),
        ({"data_weights": (1.0, math.nan)}, "contains nan"),
        ({"data_weights": (1.0, math.inf)}, "contains inf"),
        ({"training": TrainingConfig(objective="self_critical")}, "text_data has no images"),
    ):
        with pytest.raises(ConfigError, match=said):
            replace(mixture, **change)


def test_a_model_learns_phrases_that_its_search_can_count(tmp_path):
    said = []
    settings = replace(config(tmp_path / "run"), rerank_ngrams=50)
    checkpoint = load_checkpoint(train(settings, TrainingCallback(said.append)))
    assert "learned 50 n-grams for reranking" in said
    assert sum("rerank weight" in line for line in said) >= 2
    assert len(checkpoint.reranker) == 50


@pytest.mark.parametrize("which", ["whole", "fine_tuned", "live"])
def test_phrases_are_learned_from_what_the_finished_model_sees(which, request):
    checkpoint = load_checkpoint(request.getfixturevalue(which))
    split = read_captions(f"coco:{TINY}", split="train")
    encoder = checkpoint.model.encoder
    size = encoder.preprocessing.size
    pixels = [
        encoder.preprocessing.pixels(read_image(image.path, shrink_to=size))
        for image in split.images
    ]
    with torch.inference_mode():
        vectors = encoder(torch.stack(pixels)).vector
    words = [[tokenize(caption) for caption in image.captions] for image in split.images]
    wanted = NgramReranker.fit(vectors, words, checkpoint.vocabulary)
    found = checkpoint.reranker
    assert torch.equal(found.tokens, wanted.tokens)
    both = [each.weights.float() * each.scales[:, None] for each in (found, wanted)]
    assert (both[0] - both[1]).abs().max() <= 0.03 * both[1].abs().max()  # features have 16 bits


@pytest.mark.parametrize(
    "how", [{"rerank_ngrams": 0}, {"decoder": DecoderOptions(injection="none")}]
)
def test_a_model_that_learns_no_phrases(how, tmp_path):
    checkpoint = load_checkpoint(train(replace(config(tmp_path / "run"), **how)))
    assert checkpoint.reranker is None
    assert checkpoint.search.rerank_weight == 0
