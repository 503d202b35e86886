"""Forms of captions that other projects publish."""

import json
import tracemalloc

import pytest
from pycocotools.coco import COCO

from captioning.datasets import read_captions
from captioning.errors import DataError

CAPTIONS = {"a.jpg": ("A dog , running .", 'A "big" dog .'), "b.jpg": ("A cat .", "Two cats .")}


@pytest.fixture
def folder(tmp_path):
    for name in CAPTIONS:
        (tmp_path / "flickr30k_images").mkdir(exist_ok=True)
        (tmp_path / "flickr30k_images" / name).touch()
    return tmp_path


def write(folder, name, lines):
    (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return folder / name


def captions_by_name(data, split="train"):
    return {image.path.name: image.captions for image in read_captions(data, split=split).images}


def assert_read(data):
    assert captions_by_name(data) == CAPTIONS
    assert [image.image_id for image in read_captions(data, split="train").images] == [0, 1]


def list_pairs():
    return [(name, number, text) for name in CAPTIONS for number, text in enumerate(CAPTIONS[name])]


# Flickr30k


@pytest.fixture
def results_csv(folder):
    rows = [f"{name}| {number}| {text}" for name, number, text in list_pairs()]
    return write(folder, "results.csv", ["image_name| comment_number| comment", *rows])


def test_flickr30k_results_csv_is_read(folder, results_csv):
    for data in (f"flickr30k:{folder}", f"flickr30k:{results_csv}", f"csv:{results_csv}"):
        assert_read(data)


def test_flickr30k_line_without_its_second_bar_is_read(folder, results_csv):
    """Such a line is in the published file."""
    with results_csv.open("a") as file:
        file.write("b.jpg| 4   A cat runs across the grass .\n")
    captions = captions_by_name(f"flickr30k:{folder}")
    assert captions["b.jpg"] == (*CAPTIONS["b.jpg"], "A cat runs across the grass .")
    with results_csv.open("a") as file:
        file.write("b.jpg, A cat\n")
    with pytest.raises(DataError, match=r"results.csv, line 7: expected NAME.jpg\| NUMBER\|"):
        captions_by_name(f"flickr30k:{folder}")


def test_flickr30k_token_file_is_read(folder):
    lines = [f"{name}#{number}\t{text}" for name, number, text in list_pairs()]
    path = write(folder, "results_20130124.token", lines)
    for data in (f"flickr30k:{folder}", f"flickr30k:{path}"):
        assert_read(data)


def test_flickr30k_without_its_files_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot find results_20130124"):
        captions_by_name(f"flickr30k:{tmp_path}")


def test_flickr30k_table_of_hugging_face_is_read(folder):
    cells = (json.dumps(texts).replace('"', '""') for texts in CAPTIONS.values())
    rows = [
        f'"{cell}","[0, 1]",{split},{name},7'
        for cell, name, split in zip(cells, CAPTIONS, ("train", "val"), strict=True)
    ]
    path = write(folder, "f.csv", ["raw,sentids,split,filename,img_id", *rows])
    assert captions_by_name(f"csv:{path}") == {"a.jpg": CAPTIONS["a.jpg"]}
    assert captions_by_name(f"csv:{path}", "val") == {"b.jpg": CAPTIONS["b.jpg"]}


# JSON lists


def test_json_list_of_blip_is_read(folder):
    train = [
        {"image": name, "caption": text, "image_id": name[:1]} for name, _, text in list_pairs()
    ]
    val = [{"image": f"flickr30k_images/{name}", "caption": CAPTIONS[name]} for name in CAPTIONS]
    (folder / "train.json").write_text(json.dumps(train))
    (folder / "val.json").write_text(json.dumps(val))
    assert_read(f"json:{folder}/train.json")
    assert_read(f"json:{folder}/val.json")


def test_json_list_with_odd_numbers_and_surrogates_is_read(folder):
    (folder / "a.json").write_text('\ufeff[{"image": "a.jpg", "caption": "\\ud83d A.", "x": NaN}]')
    assert captions_by_name(f"json:{folder}/a.json") == {"a.jpg": ("\ud83d A.",)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[{"image": "a.jpg", "caption": "A."}, {"image": 1, "caption": "A."}]',
            "row 2: image: exp",
        ),
        ('[{"image": "a.jpg", "caption": "A."}, 3]', "row 2: expected an object, found 3"),
        ('[{"image": "a.jpg", "caption": "A."}', "not valid JSON"),
        ('"x"', "expected a list of rows, found 'x'"),
    ],
)
def test_json_list_malformed_is_refused(text, message, folder):
    (folder / "a.json").write_text(text)
    with pytest.raises(DataError, match=message):
        captions_by_name(f"json:{folder}/a.json")


@pytest.mark.parametrize("field", ["filename", "filepath", "image_path", "path", "image_name"])
@pytest.mark.parametrize(
    ("captions", "value"),
    [
        ("sentences", [{"raw": "A.", "tokens": ["a"]}, {"raw": "B.", "tokens": ["b"]}]),
        ("text", ["A.", "B."]),
        ("caption", '["A.", "B."]'),
    ],
)
def test_row_fields_of_other_programs_are_read(field, captions, value, folder):
    row = {field: "a.jpg", captions: value}
    write(folder, "a.jsonl", [json.dumps(row)])
    assert captions_by_name(f"jsonl:{folder}/a.jsonl") == {"a.jpg": ("A.", "B.")}


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ("json", b'[{"image": "a.jpg", "caption": "caf\xe9"}]'),
        ("json", b'[{"image": "a.jpg", "caption": "caf\xe9", "score": NaN}]'),
        ("coco", b'{"images": [], "annotations": [{"caption": "caf\xe9"}]}'),
    ],
)
def test_json_that_is_not_utf_8_is_refused(form, content, folder):
    (folder / "rows.json").write_bytes(content)
    with pytest.raises(DataError, match=r"not UTF-8 text .* iconv"):
        read_captions(f"{form}:{folder}/rows.json", split="train")


def test_caption_of_many_brackets_is_read_as_text(folder):
    caption = "[" * 100_000
    write(folder, "rows.jsonl", [json.dumps({"image": "a.jpg", "caption": caption})])
    data = f"jsonl:{folder}/rows.jsonl@{folder}/flickr30k_images"
    assert captions_by_name(data) == {"a.jpg": (caption,)}


def test_caption_in_brackets_is_one_caption(folder):
    for text in ("[laughs] A dog.", "[1, 2]", "[]"):
        write(folder, "a.jsonl", [json.dumps({"image": "a.jpg", "caption": text})])
        assert captions_by_name(f"jsonl:{folder}/a.jsonl") == {"a.jpg": (text,)}


# Tables with tabs


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("prefix", ["", "http://x.org/p/"])
def test_tsv_without_header_is_read_by_its_cells(order, prefix, folder):
    """Conceptual Captions has the caption first, and Conceptual 12M the URL."""
    pairs = [(f"{prefix}{name}", text) for name, _, text in list_pairs()]
    path = write(folder, "cc.tsv", ["\t".join(pair[i] for i in order) for pair in pairs])
    assert captions_by_name(f"tsv:{path}@{folder}/flickr30k_images") == CAPTIONS


def test_tsv_with_header_is_read(folder):
    rows = [f"{name}\tx\t{text}" for name, _, text in list_pairs()]
    path = write(folder, "t.tsv", ["filepath\tscore\ttitle", *rows])
    assert_read(f"tsv:{path}")


def test_tsv_urls_without_a_folder_of_images_are_explained(tmp_path):
    path = write(tmp_path, "cc.tsv", ["A dog.\thttp://x/a%20b.jpg?size=1"])
    with pytest.raises(
        DataError, match=r"named by URLs. Download them.*img2dataset.*tsv:.*@FOLDER"
    ):
        captions_by_name(f"tsv:{path}")
    (tmp_path / "a b.jpg").touch()
    assert captions_by_name(f"tsv:{path}") == {"a b.jpg": ("A dog.",)}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["A dog.\tA cat."], "line 1: expected a header"),
        (["a.jpg\tA dog.", "b.jpg"], "line 2: expected 2 columns as in the first line, found 1"),
    ],
)
def test_tsv_malformed_is_refused(lines, message, folder):
    path = write(folder, "t.tsv", lines)
    with pytest.raises(DataError, match=message):
        captions_by_name(f"tsv:{path}")


# COCO


def test_coco_equals_what_pycocotools_reads(tmp_path):
    images = [{"id": i * 7 % 50, "file_name": f"{i}.jpg", "license": 1} for i in range(50)]
    annotations = [
        {"id": i, "image_id": i * 11 % 50, "caption": f"Caption {i} é."} for i in range(300)
    ]
    for image in images:
        (tmp_path / image["file_name"]).touch()
    content = {"info": {"year": 2014}, "images": images, "annotations": annotations}
    path = tmp_path / "c.json"
    path.write_text(json.dumps(content))
    coco = COCO(path)
    found = read_captions(f"coco:{path}@{tmp_path}", split="train").images
    assert [(image.image_id, image.path.name, list(image.captions)) for image in found] == [
        (i["id"], i["file_name"], [a["caption"] for a in coco.imgToAnns[i["id"]]])
        for i in coco.loadImgs([image["id"] for image in images])
    ]


# Memory


def test_json_lines_are_read_in_bounded_memory(tmp_path):
    (tmp_path / "a.jpg").touch()
    row = json.dumps({"image": "a.jpg", "caption": "", "other": "x" * 1000})
    path = write(tmp_path, "a.jsonl", [row] * 5000)
    write(tmp_path, "a.jsonl", [*[row] * 5000, json.dumps({"image": "a.jpg", "caption": "A."})])
    tracemalloc.start()
    split = read_captions(f"jsonl:{path}", split="train")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(split.images), split.images[0].captions) == (1, ("A.",))
    assert peak < path.stat().st_size / 2
