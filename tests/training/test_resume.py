"""Interrupted runs, and what can happen to a run directory."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from filelock import FileLock
from small_run import (
    TINY,
    Killed,
    config,
    copy_run,
    fine_tuning,
    kill_after,
    load_weights,
    read_log,
)

from captioning.checkpoint import load_checkpoint
from captioning.errors import OutputError, TrainingError
from captioning.training.callback import TrainingCallback
from captioning.training.run import train

pytestmark = pytest.mark.xdist_group("runs")  # one process trains the shared runs


@pytest.fixture
def finished(plain, tmp_path):
    """The config of a copy of a finished run."""
    return copy_run(plain, tmp_path / "run")


def assert_same_weights(first, second):
    expected, found = load_weights(first), load_weights(second)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("steps", [2, 10, 13])
def test_resumed_run_ends_with_the_same_weights(trained, tmp_path, steps):
    run, messages = config(tmp_path / "run"), []
    with pytest.raises(Killed):
        train(run, kill_after(steps))
    result = train(run, TrainingCallback(messages.append))
    assert any(line.startswith("Resuming from step ") for line in messages) == (steps >= 3)
    assert result.resumed == (steps >= 3)
    assert_same_weights(trained, result.model_dir)
    assert read_log(result.model_dir) == read_log(trained)


@pytest.mark.parametrize(
    ("expected", "training"),
    [("fine_tuned", {}), ("augmented", {"online_augmentation": True})],
)
def test_resumed_fine_tuning_ends_with_the_same_weights(
    expected, training, trained, tmp_path, request
):
    run = fine_tuning(trained, tmp_path / "run", **training)
    with pytest.raises(Killed):
        train(run, kill_after(7))
    assert_same_weights(request.getfixturevalue(expected), train(run).model_dir)


def load_tail(run):
    """Return the weights of the fine-tuned stages after the last step of a run."""
    state = torch.load(run.output / "state.pt", weights_only=True)["trainer"]["cached_model"]
    return {name: weight for name, weight in state.items() if name.startswith("tail.")}


def test_encoder_is_unchanged_before_its_start_epoch(trained, tmp_path):
    """A run that is interrupted in each epoch ends like one that is not."""
    settings = {"encoder_start_epoch": 2, "accumulation_steps": 2, "save_every": 1}
    first = fine_tuning(trained, tmp_path / "first", **settings, max_steps=5)  # one epoch
    before, frozen = load_weights(trained), load_weights(train(first).model_dir)
    changed = {name for name in before if not torch.equal(before[name], frozen[name])}
    assert changed
    assert all(name.startswith("decoder.") for name in changed)
    messages = []
    train(first, TrainingCallback(messages.append))
    assert any("Set a larger --training.max-steps to continue" in line for line in messages)
    runs = [fine_tuning(trained, tmp_path / name, **settings) for name in ("whole", "killed")]
    for steps in (3, 8):
        with pytest.raises(Killed):
            train(runs[1], kill_after(steps))
    models = [train(run).model_dir for run in runs]
    assert_same_weights(*models)
    assert read_log(models[0]) == read_log(models[1])
    tails = [load_tail(run) for run in (first, runs[0])]
    assert any(not torch.equal(tails[1][name], weight) for name, weight in tails[0].items())


@pytest.mark.parametrize("change", ["other words", "fewer captions"])
def test_resume_on_other_captions_is_refused(change, tmp_path):
    shutil.copytree(TINY, tmp_path / "tiny")
    run = replace(config(tmp_path / "run", epochs=1), data=(f"coco:{tmp_path / 'tiny'}",))
    with pytest.raises(Killed):
        train(run, kill_after(4))
    path = tmp_path / "tiny" / "annotations" / "captions_train.json"
    content = json.loads(path.read_text())
    if change == "other words":
        for entry in content["annotations"]:
            entry["caption"] = entry["caption"].replace("ball", "zebra")
    else:
        content["annotations"] = content["annotations"][:-1]
    before = (tmp_path / "run" / "state.pt").read_bytes()
    path.write_text(json.dumps(content))
    with pytest.raises(TrainingError, match="holds a run on other captions: before, 160 captions"):
        train(run)
    assert (tmp_path / "run" / "state.pt").read_bytes() == before
    shutil.copy(TINY / "annotations" / "captions_train.json", path)
    train(run)


def test_resume_with_other_settings_names_them(trained):
    run = replace(config(trained.parent, epochs=7, learning_rate=0.1), min_count=3)
    with pytest.raises(TrainingError) as caught:
        train(run)
    message = str(caught.value)
    assert "learning_rate was 0.001 and is now 0.1; min_count was 2 and is now 3" in message
    assert "epochs" not in message  # it may change


def test_resume_with_other_workers_and_device_is_allowed(finished):
    assert train(replace(finished, workers=1, device="auto", keep_checkpoints=2)).resumed


def test_finished_run_continues_to_more_epochs(tmp_path):
    """With a constant learning rate, the weights are those of one run over all epochs."""
    short = config(tmp_path / "run", epochs=1, schedule="constant", warmup_steps=0)
    longer = replace(short, training=replace(short.training, epochs=2))
    train(short)
    messages = []
    found = train(longer, TrainingCallback(messages.append))
    expected = train(replace(longer, output=tmp_path / "whole"))
    assert_same_weights(expected.model_dir, found.model_dir)
    assert read_log(found.model_dir) == read_log(expected.model_dir)
    assert found.best_value == expected.best_value
    assert any("training.epochs was 1 and is now 2" in line for line in messages)
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["training"]["epochs"] == 2


def test_continued_cosine_schedule_ends_with_the_last_epoch(finished):
    longer = replace(finished, training=replace(finished.training, epochs=4))
    model = train(longer).model_dir
    rates = [float(row["learning_rate"]) for row in read_log(model) if row["split"] == "train"]
    step, steps = 39, 40  # from 0, of the longer run
    cosine = (1 + math.cos(math.pi * step / steps)) / 2
    assert rates[3] == pytest.approx(1e-3 * (0.02 + 0.98 * cosine), rel=1e-4)


@pytest.fixture(scope="module")
def kept(runs):
    """Config of a finished run with the checkpoints of its last two epochs."""
    run = replace(config(runs / "kept"), keep_checkpoints=2)
    train(run)
    return run


def test_last_checkpoints_are_models_and_others_are_removed(kept, plain):
    folder = kept.output / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["epoch-2", "epoch-3"]
    assert load_checkpoint(folder / "epoch-2").info.training.epochs == 2
    assert_same_weights(plain.output / "model", kept.output / "model")


def test_checkpoints_of_a_run_started_again_are_kept(kept, tmp_path):
    run = replace(kept, output=tmp_path / "run", keep_checkpoints=1)
    shutil.copytree(kept.output, run.output)
    (run.output / "state.pt").unlink()  # as advised for a damaged state
    train(replace(run, training=replace(run.training, epochs=1)))
    names = [path.name for path in (run.output / "checkpoints").iterdir()]
    assert sorted(names) == ["epoch-1", "epoch-2", "epoch-3"]


@pytest.mark.parametrize("source", ["kept/checkpoints/epoch-2", "interrupted"])
def test_run_from_a_checkpoint_ends_like_the_first_run(kept, source, runs, tmp_path):
    if source == "interrupted":
        with pytest.raises(Killed):
            train(replace(kept, output=tmp_path / source, keep_checkpoints=0), kill_after(14))
        source = tmp_path / source
    run = replace(kept, output=tmp_path / "run", resume=runs / source, keep_checkpoints=0)
    result = train(run)
    assert_same_weights(kept.output / "model", result.model_dir)
    assert read_log(result.model_dir) == read_log(kept.output / "model")
    assert train(replace(run, resume=None)).resumed  # it has a state of its own


def test_run_from_a_checkpoint_takes_other_learning_rate(kept, tmp_path):
    other = replace(kept.training, learning_rate=1e-9, patience=0, epochs=4)
    source = kept.output / "checkpoints" / "epoch-2"
    run = replace(kept, output=tmp_path / "run", resume=source, training=other)
    messages = []
    train(run, TrainingCallback(messages.append))
    changes = (
        "training.epochs was 3 and is now 4; training.learning_rate was 0.001 and is now 1e-09"
    )
    assert any(f"Changed settings: {changes}." in line for line in messages)
    with pytest.raises(TrainingError, match=r"training\.learning_rate was 1e-09 and is now 0\.1"):
        train(replace(run, training=replace(other, learning_rate=0.1)))
    with pytest.raises(TrainingError, match=r"resume was .*epoch-2' and is now .*epoch-3'"):
        train(replace(run, resume=source.with_name("epoch-3")))


def test_checkpoint_whose_best_model_is_lost_becomes_the_best(kept, tmp_path):
    source = tmp_path / "epoch-2"
    shutil.copytree(kept.output / "checkpoints" / "epoch-2", source)
    state = torch.load(source / "state.pt", weights_only=True)
    state["best"] = {"epoch": 1, "value": 7.0, "scores": {"CIDEr": 7.0, "BLEU-4": 0.5}}
    torch.save(state, source / "state.pt")
    messages = []
    run = replace(kept, output=tmp_path / "run", resume=source)
    result = train(run, TrainingCallback(messages.append))
    assert result.best_epoch in (2, 3)
    assert any(line.startswith("The model of the best epoch (1) was removed.") for line in messages)


def test_resume_from_a_directory_without_a_run_is_refused(kept, tmp_path):
    run = replace(kept, output=tmp_path / "run", resume=kept.output / "model")
    with pytest.raises(TrainingError, match="holds no training run and no checkpoint"):
        train(run)
    run = replace(run, resume=kept.output, min_count=3)
    with pytest.raises(TrainingError, match="min_count was 2 and is now 3"):
        train(run)
    assert not run.output.exists()


def test_model_that_was_being_replaced_is_restored(finished):
    """A process killed between the two renames leaves no ``model``."""
    (finished.output / "model").rename(finished.output / ".model-x-old")
    (finished.output / ".model-x").mkdir()
    assert train(finished).model_dir.is_dir()
    assert not list(finished.output.glob(".model-*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "settings.json"),
        (b"[]", "settings.json"),
        (b"\xff", "settings.json"),
        (b"[" * 100_000, "settings.json"),
        (b'{"dta": ["x"], "data": ["x"], "output": "y"}', "dta: unknown field"),
    ],
)
def test_resume_with_unreadable_settings_is_refused(content, message, finished):
    (finished.output / "settings.json").write_bytes(content)
    with pytest.raises(TrainingError, match=message):
        train(finished)


def test_resume_with_damaged_state_is_refused(finished):
    (finished.output / "state.pt").write_bytes(b"half a file")
    with pytest.raises(TrainingError, match="Remove this file"):
        train(finished)


def test_resume_without_the_model_is_refused(finished):
    (finished.output / "model").rename(finished.output / "mine")
    with pytest.raises(TrainingError, match=r"model' does not exist"):
        train(finished)


def test_full_disk_keeps_the_previous_state(tmp_path, monkeypatch):
    run, save, saved = config(tmp_path / "run", epochs=1), torch.save, []

    def fail_second_time(state, file):
        if saved:
            file.write(b"half")
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos")
        saved.append(True)
        save(state, file)

    monkeypatch.setattr(torch, "save", fail_second_time)
    with pytest.raises(OutputError, match=r"cannot write .*state\.pt.*Free some space"):
        train(run)
    assert not list(run.output.glob("*.tmp"))
    monkeypatch.undo()
    messages = []
    train(run, TrainingCallback(messages.append))
    assert any(line.startswith("Resuming from step 3 of ") for line in messages)


def test_two_processes_do_not_share_a_directory(finished):
    refused = pytest.raises(TrainingError, match="another process is training in")
    with FileLock(finished.output / ".lock"), refused:
        train(finished)
    assert train(finished).resumed


def test_run_started_meanwhile_is_not_overwritten(tmp_path):
    """Both found the directory empty; the first trains while the second encodes its images."""
    first = config(tmp_path / "run", epochs=1, learning_rate=1e-3)
    second = config(tmp_path / "run", epochs=1, learning_rate=1e-2)

    def start_first(text):
        if not (tmp_path / "run").exists():
            with pytest.raises(Killed):
                train(first, kill_after(4))

    with pytest.raises(TrainingError, match=r"learning_rate was 0\.001 and is now 0\.01"):
        train(second, TrainingCallback(on_message=start_first))
    assert train(first).resumed


def test_output_with_other_files_is_not_changed(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(TrainingError, match="does not hold a training run"):
        train(config(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(TrainingError, match="is not a directory"):
        train(config(tmp_path / "thesis.tex"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (",", ";"),
        ("step", "\ufeffstep"),
        ("\n10,", "\n10.0,"),
        ("seconds", "seconds,mine"),
    ],
)
def test_log_rewritten_by_a_spreadsheet_is_renamed(old, new, finished):
    path = finished.output / "log.csv"
    path.write_text(path.read_text().replace(old, new))
    before = path.read_bytes()
    train(finished)
    assert (finished.output / "log.old.csv").read_bytes() == before
    assert path.read_text().startswith("step,epoch,split")
