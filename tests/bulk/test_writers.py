"""Writers: rows in, one format out."""

import json
import os

import pytest
from extended_attributes import set_attribute

from captioning.bulk.readers import read_rows
from captioning.bulk.rows import RelativeNames
from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.registry import open_writer
from captioning.errors import ConfigError

FILES = ["rows.jsonl", "rows.csv", "rows.json", "rows.html", "rows.parquet"]
FORMATS = dict(zip(FILES, ["jsonl", "csv", "coco", "html", "parquet"], strict=True))


def make_row(image, caption="a dog"):
    return CaptionRow(image, image, (caption,), (-1.0,))


def write_one_row(name, output, error=None):
    """Write one row, and end the block of the writer with an error."""
    with open_writer(FORMATS[name], output) as writer:
        writer.write(make_row("new.jpg"))
        if error is not None:
            raise error


def write_coco(images, output):
    with open_writer("coco", output) as writer:
        for image in images:
            writer.write(make_row(image))
    return json.loads(output.read_text())


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("42.jpg", 42),
        ("000000581929.jpg", 581929),
        ("COCO_val2014_000000000073.jpg", 73),
        ("101654506_8eb26cfb60.jpg", None),  # Flickr8k: the name ends in a hash
        ("1141739219_2c47195e99.jpg", None),
        ("3000000001_1234567890.jpg", None),
        ("IMG_0042.jpg", None),
        ("1234567890123.jpg", None),
        ("dog.jpg", None),
    ],
)
def test_coco_id_comes_only_from_coco_file_names(name, image_id, tmp_path):
    (row,) = write_coco([f"photos/{name}"], tmp_path / "results.json")
    assert row["image_id"] == (10**12 + 1 if image_id is None else image_id)
    assert row["file_name"] == f"photos/{name}"


def test_coco_ids_are_unique(tmp_path):
    rows = write_coco(["a/7.jpg", "b/7.jpg", "dog.jpg"], tmp_path / "results.json")
    assert [row["image_id"] for row in rows] == [7, 10**12 + 1, 10**12 + 2]


@pytest.mark.parametrize("name", FILES)
def test_close_after_interrupt_keeps_longer_output(name, tmp_path):
    output = tmp_path / name
    with open_writer(FORMATS[name], output) as writer:
        for number in range(100):
            writer.write(make_row(f"{number}.jpg", f"caption {number}"))
    before = output.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_one_row(name, output, KeyboardInterrupt())
    assert output.read_bytes() == before
    with open_writer(FORMATS[name], output) as writer:
        writer.write(make_row("new.jpg"))
        writer.close(keep_existing_if_longer=True)
        writer.close()  # further calls do nothing
    assert output.read_bytes() == before
    write_one_row(name, output)
    assert output.read_bytes() != before


TABLES = ["rows.jsonl", "rows.csv", "rows.json", "rows.parquet"]


def write_table(name, output, *rows, keep_existing_if_longer=False):
    with open_writer(FORMATS[name], output) as writer:
        for row in rows:
            writer.write(row)
        writer.close(keep_existing_if_longer=keep_existing_if_longer)


@pytest.mark.parametrize("name", TABLES)
def test_failed_rows_are_listed_apart(name, tmp_path):
    output, failed = tmp_path / name, tmp_path / f"{name}.failed.jsonl"
    bad = CaptionRow("bad.jpg", "bad.jpg", error="cannot read 'bad.jpg'")
    write_table(name, output, make_row("a.jpg"), bad, make_row("b.jpg"), bad)
    record = {"file_name": "bad.jpg", "error": "cannot read 'bad.jpg'"}
    lines = [json.loads(line) for line in failed.read_text().splitlines()]
    assert lines == [{"index": 1, **record}, {"index": 3, **record}]
    rows = list(read_rows(output, FORMATS[name], RelativeNames(tmp_path / "other")))
    assert [row.file_name for row in rows] == ["a.jpg", "bad.jpg", "b.jpg", "bad.jpg"]
    assert [row.error for row in rows] == ["", bad.error, "", bad.error]
    before = failed.read_bytes()
    write_table(name, output, make_row("a.jpg"), keep_existing_if_longer=True)  # stopped early
    assert failed.read_bytes() == before
    write_table(name, output, *map(make_row, ("a.jpg", "bad.jpg", "b.jpg")))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", FILES)
def test_abandoned_output_leaves_the_older_file(name, tmp_path):
    output = tmp_path / name
    output.write_bytes(b"older")
    with pytest.raises(RuntimeError):
        write_one_row(name, output, RuntimeError())
    assert output.read_bytes() == b"older"
    assert (tmp_path / f"{name}.part").exists()


@pytest.mark.parametrize("name", FILES)
def test_replaced_output_keeps_owner_and_permissions(name, tmp_path):
    output = tmp_path / name
    output.touch(0o640)
    set_attribute(output, "user.rating", b"5")
    if os.geteuid() == 0:
        os.chown(output, 65534, 65533)
    before = output.stat()
    write_one_row(name, output)
    after = output.stat()
    for field in ("st_uid", "st_gid", "st_mode"):
        assert getattr(after, field) == getattr(before, field)
    assert os.getxattr(output, "user.rating") == b"5"
    assert output.read_bytes()


def test_open_writer_unknown_format_suggests_another():
    with pytest.raises(ConfigError, match=r"unknown format 'cvs'.*Did you mean 'csv'"):
        open_writer("cvs", None)
