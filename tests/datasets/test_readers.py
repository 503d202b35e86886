"""Readers of captioned data: what they read, report and refuse."""

import json
from pathlib import Path

import pytest

from captioning.datasets import read_captions, source
from captioning.errors import DataError

TINY = Path(__file__).parents[2] / "data" / "tiny"


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_rows(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return f"jsonl:{path}"


def assert_refused(spec, message, split="train"):
    with pytest.raises(DataError, match=message):
        read_captions(spec, split=split)


def captions_by_name(split):
    return {image.path.name: image.captions for image in split.images}


# The name of a data set


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("data/tiny", r"expected FORMAT:PATH.*flickr30k, coco, karpathy"),
        ("cocoa:x", "Did you mean 'coco'"),
        ("flickr:x", "Did you mean 'flickr8k'"),
        (":x", "expected FORMAT:PATH"),
        ("", "expected FORMAT:PATH"),
        ("coco", r"Did you mean 'coco:coco'\?"),
        ("coco:", r"Did you mean 'coco:coco'\?"),
        ("coco:a.json@nowhere", "'nowhere' is not a folder"),
    ],
)
def test_spec_invalid_is_refused(spec, message):
    assert_refused(spec, message)


def test_spec_existing_path_with_at_sign_is_not_divided(tmp_path):
    touch(tmp_path / "me@home", "a.jpg")
    spec = write_rows(tmp_path / "me@home" / "rows.jsonl", [{"image": "a.jpg", "caption": "A."}])
    assert captions_by_name(read_captions(spec, split="train")) == {"a.jpg": ("A.",)}


def test_spec_with_split_placeholder_reads_the_split(tmp_path):
    for split in ("train", "val"):
        touch(tmp_path / split, f"{split}.jpg")
        row = {"image": f"{split}.jpg", "caption": f"For {split}."}
        write_rows(tmp_path / f"{split}.jsonl", [row])
    spec = f"jsonl:{tmp_path}/{{split}}.jsonl@{tmp_path}/{{split}}"
    assert captions_by_name(read_captions(spec, split="dev")) == {"val.jpg": ("For val.",)}
    assert read_captions(spec, split="train").source == spec


# Flickr8k


@pytest.fixture
def flickr(tmp_path):
    """Three images: a.jpg of train, b.jpg of dev, and c.jpg of no split."""
    touch(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg")
    lines = [f"{name}.jpg#{i}\t{name} caption {i} ." for name in "cab" for i in range(2)]
    (tmp_path / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("a.jpg\n")
    (tmp_path / "Flickr_8k.devImages.txt").write_text("b.jpg\n")
    return tmp_path


def test_flickr8k_split_holds_the_listed_images(flickr):
    train = read_captions(f"flickr8k:{flickr}", split="train")
    assert captions_by_name(train) == {"a.jpg": ("a caption 0 .", "a caption 1 .")}
    assert train.images[0].path == flickr / "images" / "a.jpg"
    assert (train.split, len(train.problems), train.problems.report()) == ("train", 0, "")


@pytest.mark.parametrize("name", ["dev", "val", "validation"])
def test_flickr8k_dev_aliases_name_one_split(flickr, name):
    split = read_captions(f"flickr8k:{flickr}", split=name)
    assert (list(captions_by_name(split)), split.split) == (["b.jpg"], "val")


def test_flickr8k_layout_of_the_archives_is_read(flickr):
    (flickr / "images").rename(flickr / "Flicker8k_Dataset")
    (flickr / "Flickr8k_text").mkdir()
    for text in flickr.glob("*.txt"):
        text.rename(flickr / "Flickr8k_text" / text.name)
    split = read_captions(f"flickr8k:{flickr}", split="train")
    assert split.images[0].path == flickr / "Flicker8k_Dataset" / "a.jpg"


def test_flickr8k_ids_do_not_depend_on_the_split(flickr):
    splits = [read_captions(f"flickr8k:{flickr}", split=split) for split in ("train", "dev")]
    # Positions of a.jpg and b.jpg in sorted order, although the captions begin with c.jpg.
    assert [image.image_id for split in splits for image in split.images] == [0, 1]


def test_flickr8k_byte_order_mark_and_crlf_are_ignored(flickr):
    before = read_captions(f"flickr8k:{flickr}", split="train")
    for text in flickr.glob("*.txt"):
        text.write_bytes(b"\xef\xbb\xbf" + text.read_bytes().replace(b"\n", b"\r\n"))
    assert read_captions(f"flickr8k:{flickr}", split="train") == before


def test_flickr8k_unusable_items_are_reported(flickr):
    with (flickr / "Flickr8k.token.txt").open("a") as file:
        file.write("lost.jpg#0\tMissing on disk.\n")
        file.write("stray.jpg.1#0\tIn no list and missing on disk.\n")
        file.write("a.jpg#2\t  \n")
        file.write("a.jpg#0\tAnother caption 0.\n")
    touch(flickr / "images", "bare.jpg")
    train = "a.jpg\nlost.jpg\nbare.jpg\na.jpg\n\n"
    (flickr / "Flickr_8k.trainImages.txt").write_text(train)
    split = read_captions(f"flickr8k:{flickr}", split="train")
    assert captions_by_name(split) == {"a.jpg": ("a caption 0 .", "a caption 1 .")}
    assert split.problems.found == {
        "repeated captions": ("a.jpg#0",),
        "captions of unknown images": ("stray.jpg.1#0",),
        "empty captions": ("a.jpg#2",),
        "images missing on disk": (str(flickr / "images" / "lost.jpg"),),
        "images without captions": ("bare.jpg",),
        "repeated images": ("a.jpg",),
    }
    assert len(split.problems) == 6


@pytest.mark.parametrize("bad", ["a.jpg caption", "a.jpg\tcaption", "a.jpg#x\tcaption", "#1\ta"])
def test_flickr8k_malformed_line_is_refused_with_its_number(flickr, bad):
    path = flickr / "Flickr8k.token.txt"
    path.write_text(path.read_text() + "\n" + bad + "\n")
    assert_refused(f"flickr8k:{flickr}", r"token\.txt, line 8: expected NAME\.jpg#NUMBER<TAB>")


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("test", r"no split 'test'.*Its splits: train \(1 image\), val.*another split"),
        ("trian", r"no split 'trian'.*Did you mean 'train'"),
    ],
)
def test_flickr8k_missing_split_is_refused(flickr, split, message):
    assert_refused(f"flickr8k:{flickr}", message, split=split)


def test_flickr8k_missing_text_or_images_are_refused(flickr):
    assert_refused(f"flickr8k:{flickr}/nothing", r"cannot find Flickr8k\.token\.txt in .*nothing")
    (flickr / "images").rename(flickr / "elsewhere")
    assert_refused(f"flickr8k:{flickr}", r"cannot find the images.*Name their folder after an @")
    named = read_captions(f"flickr8k:{flickr}@{flickr}/elsewhere", split="train")
    assert named.images[0].path == flickr / "elsewhere" / "a.jpg"


def test_flickr8k_text_not_utf8_is_refused_with_its_line(flickr):
    path = flickr / "Flickr8k.token.txt"
    path.write_bytes(path.read_bytes() + b"a.jpg#7\tA caf\xe9.\n")
    assert_refused(f"flickr8k:{flickr}", "line 7: not UTF-8")


def test_flickr8k_split_without_usable_images_is_refused(flickr):
    (flickr / "images" / "a.jpg").unlink()
    message = r"no usable images:\nimages missing on disk \(1\): .*a\.jpg"
    assert_refused(f"flickr8k:{flickr}", message)


# COCO


@pytest.fixture
def coco():
    return {
        "images": [{"id": 42, "file_name": "x.jpg"}, {"id": 7, "file_name": "y.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 7, "caption": "A y."},
            {"id": 2, "image_id": 42, "caption": " An x.\n"},
            {"id": 3, "image_id": 7, "caption": "Another y."},
        ],
    }


def test_coco_tiny_splits_equal_their_files(capsys):
    ids = []
    for split in ("train", "val", "test"):
        content = json.loads((TINY / "annotations" / f"captions_{split}.json").read_text())
        expected = {image["id"]: (image["file_name"], []) for image in content["images"]}
        for annotation in content["annotations"]:
            expected[annotation["image_id"]][1].append(annotation["caption"])
        found = read_captions(f"coco:{TINY}", split=split)
        assert {
            image.image_id: (image.path.name, list(image.captions)) for image in found.images
        } == expected
        assert all(len(image.captions) == 5 for image in found.images)
        assert not found.problems.found
        ids += [image.image_id for image in found.images]
    assert len(ids) == len(set(ids)) == 48
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("captions", "images"),
    [
        ("annotations/captions_val2017.json", "val2017"),
        ("annotations/captions_val2014.json", "val2014"),
        ("annotations/captions_val2014.json", "images/val2014"),
        ("annotations/captions_val.json", "images"),
        ("captions_val2017.json", "val2017"),
    ],
)
def test_coco_official_layouts_are_found(tmp_path, coco, captions, images):
    touch(tmp_path / images, "x.jpg", "y.jpg")
    write_json(tmp_path / captions, coco)
    for spec in (f"coco:{tmp_path}", f"coco:{tmp_path / captions}"):
        found = read_captions(spec, split="val").images
        assert [(image.path, image.image_id, image.captions) for image in found] == [
            (tmp_path / images / "x.jpg", 42, ("An x.",)),
            (tmp_path / images / "y.jpg", 7, ("A y.", "Another y.")),
        ]


def test_coco_unusable_items_are_reported(tmp_path, coco):
    touch(tmp_path / "images", "x.jpg", "bare.jpg")
    coco["images"] += [{"id": 8, "file_name": "bare.jpg"}, {"id": 42, "file_name": "x.jpg"}]
    coco["annotations"] += [
        {"id": 4, "image_id": 99, "caption": "Of an unknown image."},
        {"id": 2, "image_id": 42, "caption": "A second with number 2."},
        {"id": 5, "image_id": 42, "caption": ""},
    ]
    path = write_json(tmp_path / "captions.json", coco)
    split = read_captions(f"coco:{path}", split="train")
    assert captions_by_name(split) == {"x.jpg": ("An x.", "A second with number 2.")}
    assert split.problems.found == {
        "repeated images": ("id 42",),
        "repeated captions": ("id 2",),
        "captions of unknown images": ("image 99 (caption 4)",),
        "images missing on disk": (str(tmp_path / "images" / "y.jpg"),),
        "empty captions": ("x.jpg#2",),
        "images without captions": ("bare.jpg",),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"captions\.json: not valid JSON .*incomplete"),
        ("[" * 200_000, "not valid JSON"),
        ("[1]", r"captions\.json: expected an object, found \[1\]"),
        ("[" + "9" * 5000 + "]", "not valid JSON"),
        ('{"images": []}', r"captions\.json: missing field annotations\."),
        ('{"images": [{"id": 1}], "annotations": []}', r"images\[0\]: missing field file_name"),
        ('{"images": [3], "annotations": []}', r"images\[0\]: expected an object, found 3"),
        (
            '{"images": [{"id": "1", "file_name": "a"}], "annotations": []}',
            r'images\[0\]\.id: expected an integer, found "1"',
        ),
        (
            '{"images": [], "annotations": [{"id": 1, "image_id": 2, "bbox": []}]}',
            r"annotations\[0\]: missing field caption\.",
        ),
        ('{"images": [], "annotations": []}', r"no usable images:\nthe data set lists no images"),
    ],
)
def test_coco_malformed_file_is_refused(tmp_path, text, message):
    path = tmp_path / "captions.json"
    path.write_text(text)
    assert_refused(f"coco:{path}@{tmp_path}", message)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("no.json", "train", r"cannot read .*no\.json': no such file"),
        ("", "val", r"Searched: annotations/captions_val2017\.json"),
        ("", "test", "COCO does not publish the captions of its test images"),
    ],
)
def test_coco_missing_file_is_refused(tmp_path, name, split, message):
    assert_refused(f"coco:{tmp_path}/{name}", message, split=split)


# Karpathy's split files

ENTRY = {"filename": "a.jpg", "imgid": 1, "split": "train", "sentences": [{"raw": "a"}]}


@pytest.fixture
def karpathy(tmp_path):
    entries = [
        {"filename": f"{name}.jpg", "imgid": i, "split": name, "sentences": [{"raw": f"{name}."}]}
        for i, name in enumerate(("train", "restval", "val", "test"))
    ]
    touch(tmp_path / "images", *(entry["filename"] for entry in entries))
    return write_json(tmp_path / "dataset_flickr8k.json", {"images": entries})


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", ["train.jpg"]),
        ("dev", ["val.jpg"]),
        ("test", ["test.jpg"]),
        ("train+restval", ["train.jpg", "restval.jpg"]),
    ],
)
def test_karpathy_split_holds_its_images(karpathy, split, names):
    assert list(captions_by_name(read_captions(f"karpathy:{karpathy}", split=split))) == names


def test_karpathy_unknown_split_is_refused_with_known_ones(karpathy):
    assert_refused(
        f"karpathy:{karpathy}",
        r"no split 'tset'\. Its splits: train \(1 image\), restval",
        split="tset",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filepath": None}, r"images\[0\]\.filepath: expected a string, found null"),
        ({"filepath": 3}, r"images\[0\]\.filepath: expected a string, found 3"),
        ({"filepath": "a\0b"}, "missing on disk"),
        ({"sentences": [{"tokens": []}]}, r"images\[0\]\.sentences\[0\]: missing field raw"),
    ],
)
def test_karpathy_malformed_entry_is_refused(tmp_path, change, message):
    path = write_json(tmp_path / "dataset.json", {"images": [ENTRY | change]})
    assert_refused(f"karpathy:{path}@{tmp_path}", message)


def test_karpathy_coco_ids_and_folders_are_used(tmp_path):
    entry = {"filepath": "val2014", "cocoid": 9, "sentences": [{"raw": "One."}, {"raw": "Two. "}]}
    touch(tmp_path / "coco" / "val2014", "a.jpg")
    path = write_json(tmp_path / "dataset_coco.json", {"images": [ENTRY | entry]})
    (image,) = read_captions(f"karpathy:{path}@{tmp_path}/coco", split="train").images
    assert image.path == tmp_path / "coco" / "val2014" / "a.jpg"
    assert (image.image_id, image.captions) == (9, ("One.", "Two."))


# JSON Lines and CSV


def test_jsonl_rows_of_one_image_are_joined(tmp_path):
    touch(tmp_path, "a.jpg", "deep/b.jpg")
    (tmp_path / "rows.jsonl").write_text(
        '\ufeff{"image": "deep/b.jpg", "captions": ["B one.", "B two."], "text": "T."}\n\n'
        '{"image": "a.jpg", "caption": "Un café\u2028à deux."}\n'
        '{"image": "deep/b.jpg", "caption": "B three."}\n',
        encoding="utf-8",
    )
    split = read_captions(f"jsonl:{tmp_path}/rows.jsonl", split="train")
    assert [(i.path, i.captions, i.image_id) for i in split.images] == [
        (tmp_path / "deep" / "b.jpg", ("B one.", "B two.", "B three."), 1),
        (tmp_path / "a.jpg", ("Un café\u2028à deux.",), 0),
    ]


def test_jsonl_rows_with_splits_are_selected(tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg")
    rows = [
        {"image": "a.jpg", "caption": "A.", "split": "train"},
        {"image": "b.jpg", "caption": "B.", "split": "validation"},
    ]
    spec = write_rows(tmp_path / "rows.jsonl", rows)
    assert captions_by_name(read_captions(spec, split="dev")) == {"b.jpg": ("B.",)}
    assert_refused(spec, r"no split 'test'.*Its splits: train \(1 image\), val", split="test")
    write_rows(tmp_path / "rows.jsonl", [*rows, {"image": "a.jpg", "caption": "A."}])
    assert_refused(spec, "line 3: the split is missing, but other rows have one")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "a.jpg"', "line 2: not valid JSON .*download it again"),
        ("[]", "line 2: expected an object"),
        ('{"file": "a.jpg"}', "line 2: no field with the image: .* found file. Write each row as"),
        ('{"file_name": 3, "text": "A."}', "line 2: file_name: expected a string, found 3"),
        (
            '{"file_name": "a.jpg", "text": 3}',
            "line 2: expected a caption or a list of captions, found 3",
        ),
        ('{"image": "a.jpg"}', "line 2: no field with the captions: .* Write each row as"),
        (
            '{"image": "a.jpg", "captions": [1]}',
            "line 2: expected a caption or a list of captions, found 1",
        ),
        (
            '{"image": "a.jpg", "caption": "A.", "split": 1}',
            "line 2: split: expected a string, found 1",
        ),
    ],
)
def test_jsonl_malformed_line_is_refused(tmp_path, line, message):
    (tmp_path / "rows.jsonl").write_text('{"image": "a.jpg", "caption": "A."}\n' + line)
    assert_refused(f"jsonl:{tmp_path}/rows.jsonl", message)


def test_csv_layout_of_kaggle_is_read(tmp_path):
    touch(tmp_path / "Images", "a.jpg", "b.jpg")
    table = tmp_path / "captions.txt"
    table.write_text(
        '\ufeffimage,caption\nb.jpg,A dog .\nb.jpg,"A dog , and a ""friend"" ."\na.jpg, A cat .\n',
        encoding="utf-8",
    )
    split = read_captions(f"csv:{table}", split="train")
    assert [(i.path.name, i.captions, i.image_id) for i in split.images] == [
        ("b.jpg", ("A dog .", 'A dog , and a "friend" .'), 1),
        ("a.jpg", ("A cat .",), 0),
    ]


def test_csv_with_splits_next_to_its_images_is_read(tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "Images").mkdir()  # exists, but does not hold the images
    table = tmp_path / "captions.csv"
    table.write_text("split,image,caption\ntrain,a.jpg,A.\ndev,b.jpg,B.\n")
    assert captions_by_name(read_captions(f"csv:{table}", split="val")) == {"b.jpg": ("B.",)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: no field with the image: expected one of image, file_name, .* found none"),
        ("file_name,image\n", "no field with the captions: .* found file_name, image"),
        ("a.jpg,A dog.\n", r"line 1: no field with the image: .* found a\.jpg, A dog\."),
        ("image,caption\na.jpg,A dog, running\n", r"line 2: expected 2 columns .*double quotes"),
        ("image,caption\na.jpg\n", "line 2: expected 2 columns"),
        ('image,caption\na.jpg,"A dog\n', r"near line \d: .*missing double quote"),
    ],
)
def test_csv_malformed_file_is_refused(tmp_path, text, message):
    table = tmp_path / "captions.csv"
    table.write_text(text)
    assert_refused(f"csv:{table}", message)


@pytest.mark.parametrize(
    ("row", "caption"),
    [
        ({"file_name": "a.jpg", "text": "T."}, "T."),
        ({"image": "a.jpg", "text": "T."}, "T."),
        ({"file_name": "a.jpg", "caption": "C."}, "C."),
        ({"file_name": "x.jpg", "text": "T.", "image": "a.jpg", "caption": "C."}, "C."),
    ],
)
def test_hugging_face_names_are_read_if_ours_are_missing(tmp_path, row, caption):
    touch(tmp_path, "a.jpg")
    write_rows(tmp_path / "metadata.jsonl", [{**row, "split": "train"}])
    table = f"{','.join(row)},split\n{','.join(row.values())},train\n"
    (tmp_path / "metadata.csv").write_text(table)
    for form in ("jsonl", "csv"):
        split = read_captions(f"{form}:{tmp_path}/metadata.{form}", split="train")
        assert captions_by_name(split) == {"a.jpg": (caption,)}


# Problems


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("jsonl", '{"image": "images\\\\a.jpg", "caption": "A dog."}\n'),
        ("csv", "image,caption\nimages\\a.jpg,A dog.\n"),
    ],
)
def test_separators_of_windows_are_read(kind, text, tmp_path):
    touch(tmp_path / "images", "a.jpg")
    (tmp_path / f"data.{kind}").write_text(text)
    split = read_captions(f"{kind}:{tmp_path}/data.{kind}", split="train")
    assert [image.path for image in split.images] == [tmp_path / "images" / "a.jpg"]


def test_problem_report_names_a_few_and_counts_the_rest(tmp_path):
    touch(tmp_path, "0.jpg")
    rows = [{"image": f"{i}.jpg", "caption": "A."} for i in range(9)]
    spec = write_rows(tmp_path / "rows.jsonl", rows)
    missing = [str(tmp_path / f"{i}.jpg") for i in range(1, 9)]
    assert read_captions(spec, split="train").problems.report() == (
        f"images missing on disk (8): {', '.join(missing[:5])} and 3 more"
    )


def test_folder_and_dangling_link_are_missing_images(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    (tmp_path / "b.jpg").symlink_to(tmp_path / "gone.jpg")
    touch(tmp_path, "real.jpg")
    (tmp_path / "c.jpg").symlink_to(tmp_path / "real.jpg")
    rows = [{"image": f"{name}.jpg", "caption": "A."} for name in "abc"]
    split = read_captions(write_rows(tmp_path / "rows.jsonl", rows), split="train")
    assert (list(captions_by_name(split)), len(split.problems)) == (["c.jpg"], 2)


def test_each_image_folder_is_listed_once(tmp_path, monkeypatch):
    names = [f"{i % 2}/{i}.jpg" for i in range(50)]
    touch(tmp_path, *names)
    rows = [{"image": name, "caption": "A."} for name in names]
    spec = write_rows(tmp_path / "rows.jsonl", rows)
    listed, scan = [], source.os.scandir
    monkeypatch.setattr(source.os, "scandir", lambda path: listed.append(path) or scan(path))
    assert len(read_captions(spec, split="train").images) == 50
    assert sorted(listed) == [str(tmp_path / "0"), str(tmp_path / "1")]
