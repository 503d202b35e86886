"""Data that are named as another form, or as none, are recognized by their content."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest

from captioning.datasets import read_captions
from captioning.errors import DataError

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}],
    "annotations": [{"id": 1, "image_id": 1, "caption": "A."}],
}
KARPATHY = {
    "images": [{"filename": "a.jpg", "imgid": 1, "split": "train", "sentences": [{"raw": "A."}]}],
    "dataset": "coco",
}
ROW = {"image": "a.jpg", "caption": "A."}


def pack_tar():
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    return buffer.getvalue()


def pack_zip():
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        archive.writestr("a.txt", "A.")
    return buffer.getvalue()


FILES = {
    "coco.json": (json.dumps(COCO), r"COCO file. Name it coco:.*coco\.json"),
    "karpathy.json": (json.dumps(KARPATHY), "Karpathy split file. Name it karpathy:"),
    "blip.json": (json.dumps([ROW | {"image_id": "a"}]), "JSON list of rows. Name it json:"),
    "results.json": (
        json.dumps([{"image_id": 1, "caption": "A."}]),
        "file of results, .* captioning score .*results.json REFERENCES",
    ),
    "rows.jsonl": (json.dumps(ROW), "JSON Lines file. Name it jsonl:"),
    "rows.jsonl.gz": (gzip.compress(json.dumps(ROW).encode()), "JSON Lines file. Name it jsonl:"),
    "rows.csv": ("image,caption\na.jpg,A.\n", "table. Name it csv:"),
    "cc.tsv": ("A dog.\thttp://x/a.jpg\n", "table with tabs. Name it tsv:"),
    "results.csv": ("image_name| comment_number| comment\n", "table .* Name it flickr30k:"),
    "f30k.token": ("a.jpg#0\tA dog.\n", "token file .* Name it flickr30k:"),
    "a.tar": (pack_tar(), "tar archive. Name it tar:"),
    "a.parquet": (b"PAR1\0\0", "Parquet file. Name it parquet:"),
    "a.arrow": (b"\xff\xff\xff\xff\0\0", "Arrow file .* pass the Dataset"),
    "a.zip": (pack_zip(), "ZIP archive. Unpack it"),
    "a.h5": (b"\x89HDF\r\n", "HDF5 file"),
    "a.pkl": (pickle.dumps(ROW), "pickle file. Load it in Python"),
    "train-00000-of-00256": (b"\x10\0\0\0\0\0\0\0abc", "TFRecord file of TensorFlow. Convert it"),
}


@pytest.mark.parametrize("name", FILES)
def test_file_without_a_format_is_named_for_what_it_is(name, tmp_path):
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=f"not name a data set: .* looks like (an?|the) {message}"):
        read_captions(str(tmp_path / name), split="train")


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("karpathy.json", "coco"),
        ("blip.json", "coco"),
        ("coco.json", "karpathy"),
        ("rows.jsonl", "json"),
        ("coco.json", "json"),
        ("blip.json", "jsonl"),
        ("cc.tsv", "csv"),
        ("f30k.token", "tsv"),
        ("a.parquet", "tar"),
        ("a.tar", "parquet"),
        ("train-00000-of-00256", "tar"),
        ("a.arrow", "parquet"),
        ("a.zip", "coco"),
    ],
)
def test_file_of_another_form_is_named_for_what_it_is(name, form, tmp_path):
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=f"cannot be read as {form}: it looks like an? {message}"):
        read_captions(f"{form}:{tmp_path / name}@{tmp_path}", split="train")


@pytest.mark.parametrize(
    ("content", "spelling"),
    [
        ("Flickr8k_text/Flickr8k.token.txt", "flickr8k:{}"),
        ("results_20130124.token", "flickr30k:{}"),
        ("annotations/captions_train2017.json", "coco:{}"),
        ("dataset_coco.json", "karpathy:{0}/dataset_coco.json@{0}"),
        ("metadata.csv", "csv:{}/metadata.csv"),
        ("train/metadata.jsonl", "jsonl:{}/{{split}}/metadata.jsonl"),
        ("00000.tar", "tar:{}"),
        ("dataset_info.json", "captioning.read_captions(dataset, ...)"),
        ("data-00000-of-00001.arrow", "captioning.read_captions(dataset, ...)"),
    ],
)
def test_folder_without_a_format_is_named_for_its_files(content, spelling, tmp_path):
    (tmp_path / content).parent.mkdir(exist_ok=True)
    (tmp_path / content).touch()
    with pytest.raises(DataError) as error:
        read_captions(str(tmp_path), split="train")
    assert spelling.format(tmp_path) in str(error.value)


def test_file_of_its_own_form_keeps_its_error(tmp_path):
    path = Path(tmp_path / "c.json")
    path.write_text(json.dumps(COCO | {"images": [{"id": 1}]}))
    with pytest.raises(DataError, match=r"images\[0\]: missing field file_name"):
        read_captions(f"coco:{path}@{tmp_path}", split="train")


def test_folder_with_a_split_file_names_the_file(tmp_path):
    (tmp_path / "dataset_coco.json").write_text(json.dumps(KARPATHY))
    with pytest.raises(DataError, match=r"Name it karpathy:.*/dataset_coco.json@"):
        read_captions(f"karpathy:{tmp_path}", split="train")


def test_row_with_a_type_is_not_taken_for_coco(tmp_path):
    rows = [{"type": "photo", **ROW}, {"type": "photo", "image": 3, "caption": "A."}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="line 2: image: expected a string"):
        read_captions(f"jsonl:{tmp_path}/rows.jsonl", split="train")


def test_damaged_tar_named_webdataset_keeps_its_error(tmp_path):
    (tmp_path / "a.tar").write_bytes(pack_tar()[:300] + b"x" + pack_tar()[301:])
    with pytest.raises(DataError, match="cannot read"):
        read_captions(f"webdataset:{tmp_path}/a.tar", split="train")
