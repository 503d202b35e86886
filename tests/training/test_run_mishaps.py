"""What can befall a run: other captions, a full disk, a second run, files that others left."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import jaxtyping
import pytest
import torch
from filelock import FileLock
from small_run import TINY, Killed, config, kill_after

from captioning.checkpoint.checkpoint import load_checkpoint, save_checkpoint
from captioning.errors import OutputError, TrainingError
from captioning.training import RunConfig, TrainingCallback, TrainingConfig, train


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(config(tmp_path_factory.mktemp("runs") / "whole", epochs=2))


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of a finished run, and its settings."""
    shutil.copytree(whole.parent, tmp_path / "run")
    return config(tmp_path / "run", epochs=2)


@pytest.mark.parametrize("change", ["other words", "fewer captions"])
def test_other_captions_do_not_get_the_weights_of_those_before(change, tmp_path):
    shutil.copytree(TINY, tmp_path / "tiny")
    settings = replace(config(tmp_path / "run"), data=(f"coco:{tmp_path / 'tiny'}",))
    with pytest.raises(Killed):
        train(settings, kill_after(4))
    path = tmp_path / "tiny" / "annotations" / "captions_train.json"
    content = json.loads(path.read_text())
    if change == "other words":
        for entry in content["annotations"]:
            entry["caption"] = entry["caption"].replace("ball", "zebra")
    else:
        content["annotations"] = content["annotations"][:-1]
    before = (tmp_path / "run" / "state.pt").read_bytes()
    path.write_text(json.dumps(content))
    with pytest.raises(TrainingError, match="holds a run on other captions: 160 captions with"):
        train(settings)
    assert (tmp_path / "run" / "state.pt").read_bytes() == before
    shutil.copy(TINY / "annotations" / "captions_train.json", path)
    train(settings)


def test_run_begun_before_its_captions_were_kept_goes_on(finished):
    path = finished.output / "state.pt"
    state = torch.load(path, weights_only=True)
    del state["taught"]
    torch.save(state, path)
    assert train(finished).is_dir()


def test_full_disk_keeps_the_older_state_and_says_so(finished, monkeypatch):
    """As torch says it: a RuntimeError."""
    settings = replace(finished, output=finished.output.with_name("new"))
    save, saved = torch.save, []

    def full(state, file):
        if saved:
            file.write(b"half")
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos")
        saved.append(True)
        save(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"state\.pt cannot be written.*Make room"):
        train(settings)
    assert not list(settings.output.glob("*.tmp"))
    monkeypatch.undo()
    said = []
    train(settings, TrainingCallback(said.append))
    assert any(line.startswith("going on after batch 3 ") for line in said)


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit on the size of files")
def test_full_disk_is_said_where_the_model_is_written(whole, tmp_path):
    """As safetensors says it: no OSError."""
    code = (
        "import resource, sys; from captioning.checkpoint.checkpoint import *; "
        "from captioning.errors import OutputError\n"
        "model = load_checkpoint(sys.argv[1])\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    save_checkpoint(model, sys.argv[2])\n"
        "except OutputError as error:\n    print(error)\n"
    )
    words = [sys.executable, "-c", code, str(whole), str(tmp_path / "model")]
    ran = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "The model cannot be written to" in ran.stdout
    assert not list(tmp_path.iterdir())


def test_two_runs_do_not_share_a_directory(finished):
    said = pytest.raises(TrainingError, match="Another process is training in")
    with FileLock(finished.output / ".lock"), said:
        train(finished)
    assert train(finished).is_dir()


def test_a_run_that_another_began_beside_is_left_alone(tmp_path):
    """Both found the folder empty; the second looks at its images while the first trains."""
    first = config(tmp_path / "run", learning_rate=1e-3)
    second = config(tmp_path / "run", learning_rate=1e-2)

    def say(text):
        if not (tmp_path / "run").exists():
            with pytest.raises(Killed):
                train(first, kill_after(4))

    with pytest.raises(TrainingError, match=r"learning_rate was 0\.001 and is now 0\.01"):
        train(second, TrainingCallback(on_message=say))
    assert train(first).is_dir()


def test_what_a_file_manager_leaves_in_a_model_does_not_end_a_run(whole, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(whole, model)
    (model / ".DS_Store").write_bytes(b"x")
    (model / ".ipynb_checkpoints").mkdir()
    save_checkpoint(load_checkpoint(whole), model)
    (model / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds notes\.txt, which is no part of a model"):
        save_checkpoint(load_checkpoint(whole), model)
    assert (model / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (",", ";"),
        ("step", "\ufeffstep"),
        ("\n10,", "\n10.0,"),
        ("seconds", "seconds,mine"),
    ],
)
def test_a_log_that_a_spreadsheet_saved_is_put_aside(old, new, finished):
    path = finished.output / "log.csv"
    path.write_text(path.read_text().replace(old, new))
    before = path.read_bytes()
    train(finished)
    assert (finished.output / "log.old.csv").read_bytes() == before
    assert path.read_text().startswith("step,epoch,split")


def test_settings_that_cannot_be_read_are_said(finished):
    path = finished.output / "settings.json"
    for content in (b"", b"[]", b"\xff", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(TrainingError, match="not known what run this is"):
            train(finished)


def test_an_output_that_is_a_file_is_said_before_images_are_looked_at(tmp_path):
    (tmp_path / "run").write_text("precious")
    with pytest.raises(TrainingError, match="is no folder"):
        train(config(tmp_path / "run"))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_model_that_was_moved_away_is_missed(finished):
    (finished.output / "model").rename(finished.output / "mine")
    with pytest.raises(TrainingError, match="is not there any more"):
        train(finished)


def test_paths_may_be_strings(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    settings = RunConfig(
        data=("coco:x",), output="run", init_from="model", text_data="t.txt", cache="c"
    )
    for path in (settings.output, settings.init_from, settings.text_data, settings.cache):
        assert path.name in ("run", "model", "t.txt", "c")


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_is_in_its_range(seed):
    with pytest.raises(ValueError, match="seed is"):
        TrainingConfig(seed=seed)
