"""Print error messages and logs of all commands into one file, to be read in one go.

    python scripts/print_messages.py -o messages.txt

The commands are those of message_commands.txt. They run in a temporary directory with small inputs,
many of them damaged.
"""

import argparse
import contextlib
import io
import json
import os
import pty
import re
import shlex
import shutil
import struct
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from captioning.cli.main import main as run_command

ROOT = Path(__file__).parents[1]
COMMANDS = Path(__file__).with_name("message_commands.txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="text file to write")
    output = parser.parse_args().output.resolve()
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        write_inputs(Path())
        with output.open("w", encoding="utf-8") as file:
            for line in COMMANDS.read_text(encoding="utf-8").splitlines():
                file.write(hide_paths(answer(line), directory))
                file.flush()
            file.write("\n# A folder run in a terminal\n")
            words = ["captioning", "caption", "mixed", "-r", "-o", "terminal.jsonl"]
            file.write(hide_paths(run_in_terminal(words), directory))
    text = output.read_text(encoding="utf-8")
    print(f"{output}: {len(re.findall('^captioning: ', text, re.MULTILINE))} error messages")


def answer(line: str) -> str:
    """Return a comment, or a command and what it prints."""
    if not line or line.startswith("#"):
        return f"{line}\n"
    words = shlex.split(line.removeprefix("captioning"))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            run_command(words)
        except SystemExit as stop:
            code = stop.code
        except Exception as error:
            code = f"{type(error).__name__}: {error}  <- a bug"
    shown = "\n".join(printed.getvalue().splitlines()[:40])
    return f"\n$ captioning {shlex.join(words)}\n{shown}\n[exit code {code}]\n"


def run_in_terminal(words: list[str]) -> str:
    """Return what a command prints to a terminal of 100 columns, without control sequences."""
    parts: list[bytes] = []

    def read(descriptor: int) -> bytes:
        parts.append(os.read(descriptor, 4096))
        return parts[-1]

    command = [sys.executable, "-m", *words]
    os.environ.update(COLUMNS="100", TERM="xterm")
    with open(os.devnull, "w") as devnull, redirect_descriptor(1, devnull.fileno()):  # noqa: PTH123
        pty.spawn(command, read)
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", b"".join(parts)).decode(errors="replace")
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    return "\n".join(dict.fromkeys(lines)) + "\n"


@contextlib.contextmanager
def redirect_descriptor(descriptor: int, target: int) -> Iterator[None]:
    saved = os.dup(descriptor)
    os.dup2(target, descriptor)
    try:
        yield
    finally:
        os.dup2(saved, descriptor)
        os.close(saved)


def hide_paths(text: str, directory: str) -> str:
    for path, name in ((os.path.realpath(directory), "FOLDER"), (str(ROOT), "REPOSITORY")):
        text = text.replace(path, name)
    return re.sub(r"/\S*/site-packages", "SITE-PACKAGES", text.replace(sys.prefix, "PYTHON"))


def write_inputs(folder: Path) -> None:
    """Write images, data sets and models, valid and damaged."""
    shutil.copytree(ROOT / "data" / "tiny", folder / "tiny")
    images = sorted((folder / "tiny" / "images").rglob("*.png"))
    for name in ("photos", "damaged", "empty", "raw", "mixed/sub", "sidecars", "models", "runs"):
        (folder / name).mkdir(parents=True)
    for number, image in enumerate(images[:3], 1):
        shutil.copy(image, folder / "photos" / f"{number}.png")
        shutil.copy(image, folder / "mixed" / "sub" / f"{number}.png")
    write_damaged_files(folder, images[0].read_bytes())
    write_data_sets(folder, images)
    write_models(folder / "models")


def write_damaged_files(folder: Path, png: bytes) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    damaged = {
        "empty.jpg": b"",
        "truncated.png": png[: len(png) // 2],
        "huge.png": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""),
        "page.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "pointer.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n",
        "text.png": b"not an image",
        "photo.heic": b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    }
    for name, content in damaged.items():
        (folder / "damaged" / name).write_bytes(content)
        (folder / "mixed" / name).write_bytes(content)
    for name in ("a.cr2", "b.NEF", "c.mp4", "d.pdf", "Thumbs.db"):
        (folder / "raw" / name).write_bytes(b"II*\x00")
        (folder / "mixed" / name).write_bytes(b"II*\x00")
    (folder / "broken.tar").write_bytes(b"no archive")
    with tarfile.open(folder / "shard-000.tar", "w") as archive:
        archive.add(folder / "photos" / "1.png", "1.png")


def write_data_sets(folder: Path, images: list[Path]) -> None:
    annotations = json.loads((folder / "tiny/annotations/captions_val.json").read_text())
    ids = [row["image_id"] for row in annotations["annotations"]]
    rows = [{"image_id": image, "caption": "a red ball"} for image in dict.fromkeys(ids)]
    columns = "image,caption,split\n"
    table = [
        f"{path},A small red zebra stands here.,{'val' if n < 4 else 'train'}\n"
        for n, path in enumerate(images[:9])
    ]
    files = {
        "broken.json": '{"images": [',
        "broken.jsonl": '{"image": "a.jpg", "captions": ["A dog."]}\n{"image"\n',
        "no-images.jsonl": '{"image": "a.jpg", "captions": ["A dog."], "split": "train"}\n',
        "no-header.csv": "a.jpg,A dog.\n",
        "one-split.csv": columns + table[-1],
        "damaged.csv": columns + "".join(table) + "damaged/empty.jpg,A zebra.,train\n",
        "photos.csv": columns
        + "".join(
            f"photos/{n}.png,A zebra stands here.,{'train' if n == 1 else 'val'}\n"
            for n in (1, 2, 3)
        ),
        "karpathy.json": json.dumps(
            {"images": [{"filename": "a.jpg", "split": "train", "imgid": 0, "sentences": []}]}
        ),
        "notes.csv": "name,text\nmilk,buy\n",
        "text.txt": "A dog runs.\nA cat sleeps.\n",
        "other-ids.json": json.dumps([{"image_id": -1, "caption": "a dog"}]),
        "some-ids.json": json.dumps(rows[:3]),
        "no-captions.json": json.dumps([{"image_id": 1}]),
        "twice.json": json.dumps([rows[0], rows[0]]),
    }
    for name, text in files.items():
        (folder / name).write_text(text)


def write_models(folder: Path) -> None:
    default = ROOT / "captioning" / "models" / "default"
    changes = {
        "no-weights": ("model.safetensors", None),
        "bad-json": ("config.json", lambda text: text[:100]),
        "bad-field": ("config.json", lambda text: text.replace('"cell"', '"sell"')),
        "bad-value": ("config.json", lambda text: text.replace('"lstm"', '"lstn"')),
        "truncated-weights": ("model.safetensors", lambda text: text[:5000]),
        "other-vocabulary": ("vocabulary.json", lambda text: text.replace('"dog"', '"hound"')),
    }
    for name, (file, change) in changes.items():
        shutil.copytree(default, folder / name)
        path = folder / name / file
        text = path.read_bytes().decode("latin-1")
        path.unlink()
        if change is not None:
            path.write_bytes(change(text).encode("latin-1"))


if __name__ == "__main__":
    main()
