"""Selection of splits: held-out images, restval, and the user's own names."""

import json
import random

import pytest

from captioning.datasets import CaptionData, HoldOutConfig, read_captions
from captioning.errors import ConfigError, DataError


def write_rows(path, names):
    """Write JSON lines about existing files, and return the name of the data set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"image": name, "caption": f"About {name}."} for name in names]
    path.write_text("\n".join(map(json.dumps, rows)))
    for name in names:
        (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (path.parent / name).touch()
    return f"jsonl:{path}"


def read_names(data, split, **options):
    return {image.path.name for image in read_captions(data, split=split, **options).images}


NAMES = [f"{number}.jpg" for number in range(40)]


def test_hold_out_divides_images_by_the_fraction(tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", NAMES)
    options = {"val_fraction": 0.1, "split_seed": 3}
    train, val = (read_names(data, split, **options) for split in ("train", "dev"))
    assert (len(train), len(val)) == (36, 4)
    assert train | val == set(NAMES)
    assert read_names(data, "train+restval", **options) == train
    assert read_names(data, "val", val_fraction=0.1, split_seed=4) != val


def test_hold_out_ignores_order_folder_and_form(tmp_path):
    expected = read_names(write_rows(tmp_path / "a.jsonl", NAMES), "val", val_fraction=0.2)
    shuffled = [f"photos/{name}" for name in random.Random(0).sample(NAMES, len(NAMES))]
    other = write_rows(tmp_path / "b.jsonl", shuffled)
    assert read_names(other, "val", val_fraction=0.2) == expected
    (tmp_path / "c.csv").write_text("image,caption\n" + "".join(f"{n},A.\n" for n in NAMES))
    assert read_names(f"csv:{tmp_path}/c.csv", "val", val_fraction=0.2) == expected


def test_hold_out_keeps_captions_of_an_image_together(tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", NAMES * 3)
    val = read_captions(data, split="val", val_fraction=0.1).images
    assert [len(image.captions) for image in val] == [3] * 4


def test_hold_out_leaves_at_least_one_image_in_each_split(tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", NAMES[:3])
    assert len(read_names(data, "val", val_fraction=0.001)) == 1
    assert len(read_names(data, "train", val_fraction=0.999)) == 1


def test_hold_out_is_not_used_if_there_is_a_val_split(tmp_path):
    write_rows(tmp_path / "train" / "rows.jsonl", NAMES)
    template = f"jsonl:{tmp_path}/{{split}}/rows.jsonl"
    data = CaptionData(template, HoldOutConfig(0.1))
    assert (len(data.read("train").images), len(data.read("val").images)) == (36, 4)
    write_rows(tmp_path / "valid" / "rows.jsonl", ["own.jpg"])
    write_rows(tmp_path / "test" / "rows.jsonl", ["test.jpg"])
    for split, count in (("train", 40), ("val", 1), ("test", 1)):
        found = CaptionData(template, HoldOutConfig(0.1)).read(split)
        assert (len(found.images), found.hold_out) == (count, None)


def test_hold_out_without_val_keeps_the_test_split(tmp_path):
    rows = [{"image": n, "caption": "A.", "split": "train" if n < "3" else "test"} for n in NAMES]
    write_rows(tmp_path / "rows.jsonl", NAMES)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = f"jsonl:{tmp_path}/rows.jsonl"
    train, test, val = (
        read_names(data, split, val_fraction=0.5) for split in ("train", "test", "val")
    )
    assert test == {name for name in NAMES if name >= "3"}
    assert (train | val, train & val) == ({name for name in NAMES if name < "3"}, set())


def test_hold_out_keeps_the_val_rows_of_a_table(tmp_path):
    write_rows(tmp_path / "rows.jsonl", NAMES)
    rows = [{"image": n, "caption": "A.", "split": "train" if n < "3" else "dev"} for n in NAMES]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    names = read_names(f"jsonl:{tmp_path}/rows.jsonl", "val", val_fraction=0.5)
    assert names == {name for name in NAMES if name >= "3"}


def test_missing_val_split_recommends_to_hold_images_out(tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", NAMES)
    rows = [{"image": n, "caption": "A.", "split": "train"} for n in NAMES]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"one of them, or train with images held out: .* 0\.1\."):
        read_captions(data, split="dev")
    with pytest.raises(DataError, match=r"Name one of them\.$"):
        read_captions(data, split="test")
    assert read_names(data, "dev", val_fraction=0.1)


def test_hold_out_of_unsplit_data_has_no_test_split(tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", NAMES)
    with pytest.raises(DataError, match=r"no split 'test'.*Its splits: train \(36 images\), val"):
        read_captions(data, split="test", val_fraction=0.1)
    with pytest.raises(ConfigError, match=r"val_fraction is 1\.0"):
        read_captions(data, split="val", val_fraction=1.0)


@pytest.mark.parametrize("own", ["val", "validation", "dev", "valid"])
def test_placeholder_tries_the_users_name_before_aliases(tmp_path, own):
    template = f"jsonl:{tmp_path}/{{split}}/rows.jsonl@{tmp_path}/{{split}}"
    write_rows(tmp_path / "validation" / "rows.jsonl", ["validation.jpg"])
    assert read_names(template, own) == {"validation.jpg"}
    for name in ("val", own):
        write_rows(tmp_path / name / "rows.jsonl", [f"{name}.jpg"])
    assert read_names(template, own) == {f"{own}.jpg"}


def test_placeholder_without_a_file_names_the_users_split(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*/validation\.jsonl'"):
        read_captions(f"jsonl:{tmp_path}/{{split}}.jsonl", split="validation")


def test_placeholder_without_restval_takes_the_train_file(tmp_path):
    for name in ("train", "restval"):
        write_rows(tmp_path / f"{name}.jsonl", [f"{name}.jpg"])
    assert read_names(f"jsonl:{tmp_path}/{{split}}.jsonl", "train+restval") == {"train.jpg"}
    assert read_names(f"jsonl:{tmp_path}/{{split}}.jsonl", "restval") == {"restval.jpg"}


def test_restval_is_joined_where_it_exists(tmp_path):
    entry = {"sentences": [{"raw": "A."}]}
    images = [
        {**entry, "filename": f"{i}.jpg", "imgid": i, "split": split}
        for i, split in enumerate(("train", "restval", "val"))
    ]
    for image in images:
        (tmp_path / image["filename"]).touch()
    (tmp_path / "d.json").write_text(json.dumps({"images": images}))
    data = f"karpathy:{tmp_path}/d.json"
    assert read_names(data, "train+restval") == {"0.jpg", "1.jpg"}
    assert read_captions(data, split="train").split == "train"
    (tmp_path / "d.json").write_text(json.dumps({"images": images[::2]}))
    found = read_captions(data, split="train+restval")
    assert (len(found.images), found.split) == (1, "train")
    with pytest.raises(DataError, match="no split 'restval'"):
        read_captions(data, split="restval")
