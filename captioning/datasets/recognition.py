"""What a file or folder looks like, for errors about data that are named as another form."""

import gzip
import os
import re
from dataclasses import dataclass
from pathlib import Path

_HEAD_BYTES = 1 << 16
_IMAGE = rb"image|file_?name|filepath|image_path|path|url"
_CAPTION = rb"captions?|text|raw|title|comment"
_SAVED = (
    "Load it in Python and pass the Dataset: captioning.read_captions(dataset, ...). Or write "
    "Parquet with dataset.to_parquet(...), and name it parquet:FILE."
)
_FOLDER = "an image folder of Hugging Face"
_TF_RECORDS = re.compile(r"\.tfrec(ord)?s?(\.gz)?$|-\d{5}-of-\d{5}$", re.IGNORECASE)


@dataclass(frozen=True)
class Likeness:
    """What data look like.

    Attributes:
        what: The kind of data, such as ``"a COCO caption file"``.
        form: The form in which they are read; empty if there is none.
        advice: What to do.
        spelling: Name of the data in this form.
    """

    what: str
    form: str
    advice: str
    spelling: str = ""


# Heads of files, and names in folders: the first that matches counts.
_HEADS: tuple[tuple[bytes, str, str], ...] = (
    (rb"PAR1", "a Parquet file", "parquet:{path}"),
    (rb"ARROW1|\xff{4}", "an Arrow file of Hugging Face datasets", _SAVED),
    (rb"PK\x03\x04", "a ZIP archive", "Unpack it, and name the files in it."),
    (rb"\x1f\x8b|BZh|\xfd7zXZ", "a compressed file", "Decompress it first."),
    (rb"\x89HDF", "an HDF5 file", "It can hold features of images, but their captions are needed."),
    (rb"\x80[\x02-\x05]", "a pickle file", "Load it in Python, and pass a list of rows."),
    (rb"(?s:.{257})ustar", "a tar archive", "tar:{path}"),
    (rb'\s*\{(?s:.*)"sentences"\s*:', "a Karpathy split file", "karpathy:{path}"),
    (
        rb'\s*\{\s*"(info|images|annotations|licenses|type"\s*:\s*"captions)"',
        "a COCO file",
        "coco:{path}",
    ),
    (
        rb'\s*\[\s*\{\s*("image_id"\s*:[^,]*,\s*"caption"|"caption"\s*:[^,]*,\s*"image_id")[^,]*\}',
        "a file of results, which has ids but no images",
        "Score it against references: captioning score {path} REFERENCES",
    ),
    (rb"\s*\[\s*\{", "a JSON list of rows", "json:{path}"),
    (rb"\s*\{[^\n]*\}\s*(\n|$)", "a JSON Lines file", "jsonl:{path}"),
    (rb"\S+#\d+\t", "a token file of Flickr8k or Flickr30k", "flickr30k:{path}"),
    (rb"image_name\s*\|", "the table of Flickr30k", "flickr30k:{path}"),
    (
        rb"(?i)(?=.*\b(" + _IMAGE + rb")\b)(?=.*\b(" + _CAPTION + rb")\b)[^\t\r\n]*[,;|]",
        "a table",
        "csv:{path}",
    ),
    (rb"[^\t\r\n]*\t", "a table with tabs", "tsv:{path}"),
)
_CONTENTS: tuple[tuple[str, str, str], ...] = (
    ("Flickr8k.token.txt", "Flickr8k", "flickr8k:{path}"),
    ("Flickr8k_text", "Flickr8k", "flickr8k:{path}"),
    ("results_20130124.token", "Flickr30k", "flickr30k:{path}"),
    ("results.csv", "Flickr30k", "flickr30k:{path}"),
    ("annotations/captions_*.json", "COCO", "coco:{path}"),
    ("captions_*.json", "COCO", "coco:{path}"),
    ("dataset_info.json", "a folder saved by Hugging Face datasets", _SAVED),
    ("dataset_dict.json", "a folder saved by Hugging Face datasets", _SAVED),
    ("dataset_*.json", "a folder with a Karpathy split file", "karpathy:{found}@{path}"),
    ("metadata.jsonl", _FOLDER, "jsonl:{found}"),
    ("metadata.csv", _FOLDER, "csv:{found}"),
    ("metadata.parquet", _FOLDER, "parquet:{found}"),
    ("train/metadata.jsonl", _FOLDER, "jsonl:{path}/{{split}}/metadata.jsonl"),
    ("train/metadata.csv", _FOLDER, "csv:{path}/{{split}}/metadata.csv"),
    ("train/metadata.parquet", _FOLDER, "parquet:{path}/{{split}}/metadata.parquet"),
    ("*.tar", "a folder of tar archives", "tar:{path}"),
    ("*.parquet", "a folder of Parquet files", "parquet:{path}"),
    ("*.arrow", "a folder of Hugging Face datasets", _SAVED),
)


def recognize(path: Path) -> Likeness | None:
    """Return what an existing file or folder looks like, or None if it is not known."""
    if os.path.isdir(path):  # noqa: PTH112  (Path.is_dir raises for a long list in braces)
        return _recognize_folder(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf")
    except (OSError, EOFError, ValueError):
        return None
    if _TF_RECORDS.search(path.name) and b"\0" in head:
        advice = "Convert it to tar archives or JSON lines."
        return Likeness("a TFRecord file of TensorFlow", "", advice)
    for pattern, what, advice in _HEADS:
        if re.match(pattern, head):
            return _describe(what, advice, path, path)
    return None


def _recognize_folder(folder: Path) -> Likeness | None:
    for pattern, what, advice in _CONTENTS:
        if found := next(folder.glob(pattern), None):
            return _describe(what, advice, folder, found)
    return None


def _describe(what: str, advice: str, path: Path, found: Path) -> Likeness:
    spelling = advice.format(path=path, found=found)
    form, colon, _ = advice.partition(":{")
    if not colon:
        return Likeness(what, "", spelling)
    return Likeness(what, form, f"Name it {spelling}", spelling)
