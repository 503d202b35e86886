"""The script that trains the default model, with a small encoder and one epoch per step."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import small_run
from drawn_images import draw
from filelock import FileLock
from small_run import config

from captioning.checkpoint import load_checkpoint
from captioning.errors import TrainingError
from captioning.inference.captioner import Captioner
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.encoder_config import EncoderConfig
from captioning.training import concept_fitting
from captioning.training.config import RunConfig
from captioning.training.run_directory import write_settings

SCRIPTS = Path(__file__).parents[1] / "scripts"
THINGS = ["dog", "cat", "boy", "girl", "horse", "bird", "car", "boat"]
PLACES = ["on the grass", "in the water", "in a street", "near a tree"]


@pytest.fixture
def script(monkeypatch):
    """Return scripts/reproduce_flickr8k.py with one epoch per step and a small encoder."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for the processes of the steps
    import reproduce_flickr8k as module

    small = {"epochs": 1, "batch_size": 40, "warmup_steps": 1, "save_every": 2}
    for name in ("DECODER_TRAINING", "LIVE", "EVERYDAY_LIVE", "CONCEPT_TRAINING", "REWARD"):
        monkeypatch.setattr(module, name, replace(getattr(module, name), **small))
    encoder = EncoderConfig("timm:test_resnet", weights=None, image_size=32)
    monkeypatch.setattr(module, "ENCODER", encoder)
    for name in ("LIVE", "EVERYDAY_LIVE"):
        monkeypatch.setattr(module, name, replace(getattr(module, name), fine_tune_stages=2))
    sizes = DecoderConfig(embedding_size=16, hidden_size=16, attention_size=16)
    small_decoder = replace(sizes, core="attention", readout="deep", dropout=0.3)
    monkeypatch.setattr(module, "DECODER", small_decoder)
    fastest = {"cuda": "bfloat16", "auto": "float32"}  # as if there were a GPU
    monkeypatch.setattr(module, "resolve_device", lambda name: name)
    monkeypatch.setattr(module, "select_precision", fastest.__getitem__)
    for name in ("recipe", "everyday_recipe"):
        steps = partial(steps_without_workers, getattr(module, name))
        monkeypatch.setattr(module, name, steps)
    return module


def steps_without_workers(recipe, *words):
    """Return steps that read images in their own processes: starting others takes seconds."""
    return [
        [replace(step, workers=0) if isinstance(step, RunConfig) else step for step in group]
        for group in recipe(*words)
    ]


def captions_of(number):
    thing, place = THINGS[number % len(THINGS)], PLACES[number % len(PLACES)]
    return [f"A {thing} runs {place} .", f"The {thing} is {place} .", f"One {thing} {place} ."]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A folder with the files of Flickr8k, everyday photos with captions, and captions only."""
    folder = tmp_path_factory.mktemp("raw")
    flickr8k = folder / "flickr8k"
    (flickr8k / "images").mkdir(parents=True)
    names = [f"{number}.png" for number in range(24)]
    for number, name in enumerate(names):
        draw(number).save(flickr8k / "images" / name)
    lines = [f"{n}#{k}\t{c}\n" for i, n in enumerate(names) for k, c in enumerate(captions_of(i))]
    (flickr8k / "Flickr8k.token.txt").write_text("".join(lines))
    (flickr8k / "Flickr_8k.trainImages.txt").write_text("\n".join(names[:16]))
    (flickr8k / "Flickr_8k.devImages.txt").write_text("\n".join(names[16:]))

    (folder / "photos").mkdir()
    for split, numbers in (("train", range(100, 108)), ("val", range(108, 112))):
        for number in numbers:
            draw(number).save(folder / "photos" / f"{number}.png")
        content = {
            "images": [{"id": n, "file_name": f"{n}.png"} for n in numbers],
            "annotations": [
                {"id": 10 * n + k, "image_id": n, "caption": f"{c} {n}"}
                for n in numbers
                for k, c in enumerate(captions_of(n))
            ],
        }
        (folder / f"captions_{split}.json").write_text(json.dumps(content))
    text = [f"{n}\tA kettle stands on a stove number {n} .\n" for n in range(500, 520)]
    (folder / "text.tsv").write_text("".join(text))
    return folder


def run(monkeypatch, module, *words):
    monkeypatch.setattr(sys, "argv", ["script", *map(str, words)])
    module.main()


def test_script_trains_models_from_raw_files(script, raw, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(concept_fitting, "_MIN_IMAGES", 2)  # the images are few
    monkeypatch.setattr(concept_fitting, "_MIN_GAIN", -100.0)
    monkeypatch.setattr(concept_fitting, "_MIN_INFORMATION", -100.0)
    runs, photos = tmp_path / "runs", raw / "photos"
    words = (raw / "flickr8k", "--runs", runs)
    run(monkeypatch, script, *words)
    first = load_checkpoint(runs / "model_flickr8k")
    history = first.info.training.runs
    assert "0.333333 live_0 + 0.333333 live_1 + 0.333333 live_2" in history[2]
    assert "0.65 concepts + 0.2 reward_0 + 0.15 reward_1" in history[-1]

    everyday = f"coco:{raw}/captions_{{split}}.json@{photos}"
    more = ("--everyday", everyday, "--init-from", runs / "mean" / "model")
    more = (*more, "--text", raw / "text.tsv", "--output", tmp_path / "model")
    run(monkeypatch, script, *words, *more)
    shipped = load_checkpoint(tmp_path / "model")
    assert "0.3 mean + 0.7 everyday_concepts" in " ".join(shipped.info.training.runs)
    mean = load_checkpoint(runs / "everyday_mean" / "model")
    assert "kettle" in mean.vocabulary
    assert "kettle" not in shipped.vocabulary  # no caption of an image has it
    assert set(shipped.vocabulary.words) <= set(mean.vocabulary.words)
    scores = shipped.info.scores
    assert {"flickr8k:flickr8k dev, 8 photos", "coco:captions_{split}.json dev, 4 photos"} <= {
        key.partition(" (")[2].rstrip(")") for key in scores
    }
    assert Captioner(shipped).caption(photos / "100.png").captions[0].words

    # Finished steps are not done again: the photos of Flickr8k are gone.
    assert "is finished" not in capsys.readouterr().out
    monkeypatch.setattr(script, "make_default_model", lambda *arguments: None)
    images = (raw / "flickr8k" / "images").rename(tmp_path / "away")
    run(monkeypatch, script, *words)
    run(monkeypatch, script, *words, *more)
    images.rename(raw / "flickr8k" / "images")
    assert capsys.readouterr().out.count("is finished") == 9


def test_recipe_settings_of_parallel_steps(script, tmp_path):
    steps = script.recipe("flickr8k:data", tmp_path, "cuda")
    lives, rewards = ([step.training for step in steps[place]] for place in (1, 4))
    assert [live.precision for live in lives] == ["bfloat16"] * 3
    assert [(live.seed, live.encoder_lr_scale) for live in lives] == [(0, 0.3), (1, 0.4), (2, 0.5)]
    assert [(one.seed, one.self_critical.bleu_weight) for one in rewards] == [(0, 0.5), (1, 0.2)]
    assert {step.init_from for step in steps[4]} == {tmp_path / "concepts" / "model"}
    assert {step.text_data for step in steps[4]} == {None}


@pytest.mark.parametrize("words", [("--everyday", "coco:a"), ("--init-from", "m"), ("--text", "t")])
def test_script_incomplete_options_are_refused(script, monkeypatch, capsys, words):
    with pytest.raises(SystemExit):
        run(monkeypatch, script, "data", *words)
    assert "--everyday needs --init-from" in capsys.readouterr().err


def test_select_run_precision_keeps_that_of_the_run(script, tmp_path):
    assert script.select_run_precision(tmp_path, "cuda") == "bfloat16"
    write_settings(config(tmp_path, precision="float32"), tmp_path)
    assert script.select_run_precision(tmp_path, "cuda") == "float32"
    (tmp_path / "settings.json").write_text("{")
    assert script.select_run_precision(tmp_path, "cuda") == "bfloat16"
    with pytest.raises(TrainingError, match=r"settings\.json"):
        script.run_step(config(tmp_path))


def test_finished_step_with_other_settings_is_refused(script, tmp_path):
    step = config(tmp_path / "run", epochs=1)
    script.run_step(step)
    script.run_step(step)
    changed = replace(step, training=replace(step.training, learning_rate=0.5))
    with pytest.raises(TrainingError, match="other settings"):
        script.run_step(changed)
    shutil.rmtree(tmp_path / "run" / "model")
    script.run_step(step)
    assert not (tmp_path / "run" / "model").exists()


def test_parallel_steps_finish_or_are_reported(script, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in this process: rounding depends on it
    runs = tmp_path / "runs"
    first, alone = (config(runs / name, epochs=1, seed=1) for name in ("first", "alone"))
    script.run_all([first], 2)
    changed = replace(first, training=replace(first.training, learning_rate=0.5))
    log = runs / "first.txt"
    with pytest.raises(SystemExit, match=f"{first.output} failed with exit code 1. See {log}"):
        script.run_all([changed, alone], 2)
    assert "other settings" in log.read_text()
    assert (alone.output / "finished").exists()
    made, same = (load_checkpoint(step.output / "model").model for step in (first, alone))
    for own, other in zip(made.state_dict().values(), same.state_dict().values(), strict=True):
        assert own.equal(other)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_parallel_steps_end_with_the_script(number, tmp_path):
    program = f"""
import sys
sys.path[:0] = [{str(SCRIPTS)!r}, {str(Path(small_run.__file__).parent)!r}]
import reproduce_flickr8k, small_run
from pathlib import Path
if __name__ == "__main__":
    folder = Path({str(tmp_path)!r})
    steps = [small_run.config(folder / f"run_{{seed}}", epochs=5000, seed=seed) for seed in (0, 1)]
    reproduce_flickr8k.run_all(steps, 2)
"""
    (tmp_path / "program.py").write_text(program)
    script = subprocess.Popen([sys.executable, tmp_path / "program.py"], start_new_session=True)
    locks = [tmp_path / f"run_{seed}" / ".lock" for seed in (0, 1)]
    wait_until(lambda: all(lock.exists() for lock in locks))
    script.send_signal(number)
    assert script.wait(60) != 0
    for lock in locks:
        with FileLock(lock, timeout=60):  # no process trains there
            assert not (lock.parent / "finished").exists()


def wait_until(condition):
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("the condition was false for two minutes")
