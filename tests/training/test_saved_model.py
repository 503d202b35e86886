"""Saving a trained model over an older one, and on a full disk."""

import shutil
import sys

import pytest

from captioning.checkpoint import load_checkpoint, save_checkpoint
from captioning.errors import OutputError


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
    with pytest.raises(OutputError, match=r"contains notes\.txt"):
        save_checkpoint(load_checkpoint(trained), model)
    assert (model / "notes.txt").read_text() == "mine"
