"""Saving a trained model over an older one, and on a full disk."""

import shutil
import sys
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard
from small_run import config, copy_run

from captioning.checkpoint import load_checkpoint, save_checkpoint
from captioning.errors import ConfigError, OutputError
from captioning.inference.captioner import DEFAULT_MODEL
from captioning.training.run import train

pytestmark = pytest.mark.xdist_group("runs")  # one process trains the shared runs


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on file sizes")
def test_save_on_full_disk_leaves_nothing(trained, tmp_path):
    """Safetensors raises its own error, which is not an OSError."""
    import resource

    model = load_checkpoint(trained)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # Python ignores its signal
    try:
        with pytest.raises(OutputError, match="cannot write the model"):
            save_checkpoint(model, tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_save_keeps_files_of_the_user(trained, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(trained, model)
    (model / ".DS_Store").write_bytes(b"x")  # written by a file manager: no reason to refuse
    (model / ".ipynb_checkpoints").mkdir()
    save_checkpoint(load_checkpoint(trained), model)
    (model / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"do not belong to a model: notes\.txt"):
        save_checkpoint(load_checkpoint(trained), model)
    assert (model / "notes.txt").read_text() == "mine"


def read_card_license(model):
    return ModelCard.load(model / "README.md").data.license


def test_model_card_states_license_only_if_given(trained, tmp_path):
    assert read_card_license(trained) is None
    assert "has not stated its license" in (trained / "README.md").read_text()
    assert read_card_license(DEFAULT_MODEL) == "apache-2.0"
    run = copy_run(config(trained.parent), tmp_path / "run", license="cc-by-4.0")
    result = train(run)  # a finished run, resumed
    assert read_card_license(result.model_dir) == "cc-by-4.0"
    assert load_checkpoint(result.model_dir).info.license == "cc-by-4.0"
    with pytest.raises(ConfigError, match="license is 'MIT License'"):
        replace(run, license="MIT License")
