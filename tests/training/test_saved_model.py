"""Saving a trained model over an older one, and on a full disk."""

import shutil
import subprocess
import sys

import pytest

from captioning.checkpoint import load_checkpoint, save_checkpoint
from captioning.errors import OutputError

SAVE_WITH_FILE_SIZE_LIMIT = """
import resource, signal, sys
from captioning.checkpoint import load_checkpoint, save_checkpoint
from captioning.errors import OutputError

model = load_checkpoint(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_checkpoint(model, sys.argv[2])
except OutputError as error:
    print("OutputError:", error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on file sizes")
def test_save_on_full_disk_leaves_nothing(trained, tmp_path):
    """Safetensors raises its own error, which is not an OSError."""
    words = [sys.executable, "-c", SAVE_WITH_FILE_SIZE_LIMIT, str(trained), str(tmp_path / "new")]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("OutputError:")
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
