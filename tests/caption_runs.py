"""Helpers for tests that run ``captioning caption``."""

import json
import signal

import pytest

from captioning.cli import main as cli
from captioning.images import worker
from captioning.inference.captioner import Captioner


def parse_rows(text):
    return [json.loads(line) for line in text.splitlines()]


def read_rows(path):
    return parse_rows(path.read_text(encoding="utf-8"))


def run_command(*words):
    """Run a command in this process and return its exit code."""
    with pytest.raises(SystemExit) as exited:
        cli.main([str(word) for word in words])
    return exited.value.code


def stop_after(batches, caption, *words):
    """Run the command, and send it Ctrl-C when this many batches are captioned."""
    real, seen = Captioner.caption_batches, []

    def batches_until(self, *args, **kwargs):
        for batch in real(self, *args, **kwargs):
            seen.append(batch)
            if len(seen) == batches:
                signal.raise_signal(signal.SIGINT)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Captioner, "caption_batches", batches_until)
        return caption(*words)


def signal_at(name, number, caption, *words):
    """Run the command, and send it a signal when it decodes the image ``name``."""
    real = worker.read_image

    def read_image(source, **options):
        if str(source).endswith(name):
            signal.raise_signal(number)
        return real(source, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "read_image", read_image)
        return caption(*words)


def read_folder(folder):
    """Return the content of all files below a folder, except journals."""
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if ".journal" not in name.name}
