"""Which numbers in files' names are COCO's ids."""

import json

import pytest
from captioning.bulk.writers.formats import open_writer

from captioning.inference.results import Caption, CaptionResult


def written(sources, output):
    caption = Caption("a dog", ("a", "dog"), -1.0, True, ())
    with open_writer("coco", output) as writer:
        for source in sources:
            writer.write(CaptionResult(source, (caption,)))
    return json.loads(output.read_text())


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("42.jpg", 42),
        ("000000581929.jpg", 581929),
        ("COCO_val2014_000000000073.jpg", 73),
        ("101654506_8eb26cfb60.jpg", None),  # Flickr8k: the end of a hash
        ("1141739219_2c47195e99.jpg", None),
        ("3000000001_1234567890.jpg", None),
        ("IMG_0042.jpg", None),
        ("1234567890123.jpg", None),
        ("dog.jpg", None),
    ],
)
def test_ids_are_those_of_coco_and_no_other_digits(name, image_id, tmp_path):
    (row,) = written([f"photos/{name}"], tmp_path / "results.json")
    assert row["image_id"] == (10**12 + 1 if image_id is None else image_id)
    assert row["file_name"] == f"photos/{name}"


def test_no_id_is_given_twice(tmp_path):
    found = written(["a/7.jpg", "b/7.jpg", "dog.jpg"], tmp_path / "results.json")
    assert [row["image_id"] for row in found] == [7, 10**12 + 1, 10**12 + 2]
