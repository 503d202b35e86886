"""Images inside tar archives, Parquet files and memory, compared with Hugging Face datasets."""

import io
import json
import tarfile
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from captioning.datasets import CaptionData, read_captions
from captioning.errors import DataError
from captioning.features.content_digests import stamp_image
from tests.drawn_images import draw

datasets = pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

COUNT = 6
CAPTIONS = [[f"Image {i}.", f"A photo of {i}."][: 1 + i % 2] for i in range(COUNT)]


def encode(number, kind="PNG"):
    buffer = io.BytesIO()
    draw(number).save(buffer, kind)
    return buffer.getvalue()


def read_content(image):
    return image.content if isinstance(image.content, bytes) else image.content()


def as_pairs(split):
    """Return the pixels and captions of each image, in order."""
    images = (Image.open(io.BytesIO(read_content(image))).convert("RGB") for image in split.images)
    return [
        (np.asarray(pixels).tobytes(), image.captions)
        for pixels, image in zip(images, split.images, strict=True)
    ]


EXPECTED = [(np.asarray(draw(i)).tobytes(), tuple(CAPTIONS[i])) for i in range(COUNT)]


@pytest.fixture
def dataset():
    """The images as a Dataset of Hugging Face, with their content inside."""
    rows = {
        "image": [{"bytes": encode(i), "path": f"{i}.png"} for i in range(COUNT)],
        "captions": CAPTIONS,
    }
    features = datasets.Features(
        {"image": datasets.Image(), "captions": datasets.Sequence(datasets.Value("string"))}
    )
    return datasets.Dataset.from_dict(rows, features=features)


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


# Hugging Face datasets and Parquet


def test_dataset_of_hugging_face_is_read(dataset):
    assert as_pairs(read_captions(dataset, split="train")) == EXPECTED
    chosen = read_captions(dataset.select([4, 1]), split="train")
    assert as_pairs(chosen) == [EXPECTED[4], EXPECTED[1]]


def test_dataset_dict_has_its_splits(dataset):
    data = datasets.DatasetDict(
        train=dataset.select(range(4)), validation=dataset.select(range(4, COUNT))
    )
    assert as_pairs(read_captions(data, split="train")) == EXPECTED[:4]
    assert as_pairs(read_captions(data, split="val")) == EXPECTED[4:]


def test_dataset_of_image_files_names_them(tmp_path):
    for number in range(COUNT):
        draw(number).save(tmp_path / f"{number}.png")
    rows = ({"file_name": f"{i}.png", "text": CAPTIONS[i][0]} for i in range(COUNT))
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path), split="train", cache_dir=str(tmp_path / "cache")
    )
    ours = read_captions(f"jsonl:{tmp_path}/metadata.jsonl", split="train")
    assert read_captions(loaded, split="train").images == ours.images


def test_parquet_of_hugging_face_is_read(dataset, tmp_path):
    dataset.to_parquet(tmp_path / "one.parquet")
    table = pq.read_table(tmp_path / "one.parquet")
    pq.write_table(table, tmp_path / "data.parquet", row_group_size=2)
    split = read_captions(f"parquet:{tmp_path}/data.parquet", split="train")
    assert as_pairs(split) == EXPECTED
    assert [image.path.name for image in split.images] == [f"{i}.png" for i in range(COUNT)]
    for order in ([5, 0, 3], range(COUNT)):
        split = read_captions(f"parquet:{tmp_path}/data.parquet", split="train")
        assert [read_content(split.images[i]) for i in order] == [encode(i) for i in order]


def test_parquet_of_bytes_in_several_files_is_read(tmp_path):
    for number in range(COUNT):
        table = pyarrow.table({"jpg": [encode(number)], "caption": CAPTIONS[number][:1]})
        pq.write_table(table, tmp_path / f"train-{number}.parquet")
    split = read_captions(f"parquet:{tmp_path}/{{split}}-*.parquet", split="train")
    assert [pixels for pixels, _ in as_pairs(split)] == [pixels for pixels, _ in EXPECTED]


def test_parquet_rows_of_one_image_are_joined(tmp_path):
    image = {"bytes": encode(0), "path": "0.png"}
    pq.write_table(pyarrow.table({"image": [image] * 2, "caption": ["a", "b"]}), tmp_path / "x")
    (read,) = read_captions(f"parquet:{tmp_path}/x", split="train").images
    assert read.captions == ("a", "b")


def test_parquet_images_with_equal_names_are_refused(tmp_path):
    images = [{"bytes": encode(number), "path": "0.png"} for number in range(2)]
    pq.write_table(pyarrow.table({"image": images, "caption": ["a", "b"]}), tmp_path / "x")
    with pytest.raises(DataError, match="row 2: another image has the name"):
        read_captions(f"parquet:{tmp_path}/x", split="train")


def test_parquet_of_paths_and_splits_is_read(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").touch()
    rows = {"file_name": ["a.jpg"] * 3, "text": list("xyz"), "split": ["train", "train", "dev"]}
    pq.write_table(pyarrow.table(rows), tmp_path / "t.parquet")
    (image,) = read_captions(f"parquet:{tmp_path}/t.parquet", split="train").images
    assert (image.path, image.captions) == (tmp_path / "images" / "a.jpg", ("x", "y"))


def test_parquet_images_have_stamps_of_their_file(dataset, tmp_path):
    path = tmp_path / "data.parquet"
    stamps = []
    for _ in range(2):
        dataset.to_parquet(path)
        images = read_captions(f"parquet:{path}", split="train").images
        stamps += [stamp_image(image.ref) for image in images]
        assert stamps[-COUNT:] == [stamp_image(image.ref) for image in images]
    assert len(set(stamps)) == 2 * COUNT
    assert None not in stamps


def test_parquet_row_without_an_image_is_an_error_of_the_image(tmp_path):
    table = pyarrow.table({"image": [encode(0), None], "caption": ["A.", "B."]})
    pq.write_table(table, tmp_path / "t.parquet")
    first, second = read_captions(f"parquet:{tmp_path}/t.parquet", split="train").images
    assert first.content() == encode(0)
    with pytest.raises(OSError, match="row 2 has no image"):
        second.content()


def test_parquet_damaged_row_group_leaves_the_others_readable(tmp_path):
    contents = [b"image %d" % number for number in range(48)]
    table = pyarrow.table({"image": contents, "caption": [f"a {n}" for n in range(48)]})
    path = tmp_path / "t.parquet"
    pq.write_table(table, path, row_group_size=16, use_dictionary=False)
    page = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    with path.open("r+b") as file:
        file.seek(page)
        file.write(b"\xff" * 16)
    images = read_captions(f"parquet:{path}", split="train").images
    for image in images[16:32]:
        with pytest.raises(OSError, match=r"cannot read row .*\. Copy the file again"):
            read_content(image)
    for row in (*range(16), *range(32, 48)):
        assert read_content(images[row]) == contents[row]


def test_parquet_images_are_not_all_in_memory(tmp_path):
    size, rows = 100_000, 400
    noise = np.random.default_rng(0)
    table = pyarrow.table(
        {"image": [noise.bytes(size) for _ in range(rows)], "caption": ["A."] * rows}
    )
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=20, compression="none")
    images = read_captions(f"parquet:{tmp_path}/t.parquet", split="train").images
    del table, noise
    before, used = pyarrow.total_allocated_bytes(), []
    tracemalloc.start()
    for image in images:
        assert len(read_content(image)) == size
        used.append(pyarrow.total_allocated_bytes() - before + tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert max(used) < size * rows / 2


# Tar archives


@pytest.fixture
def members():
    """Members of an archive: captions as text, as JSON, and as both."""
    members = {}
    for number, captions in enumerate(CAPTIONS):
        members[f"a/{number:03}.png"] = encode(number)
        if number != 2:
            members[f"a/{number:03}.txt"] = "\n".join(captions).encode() + b"\n"
        if number:
            members[f"a/{number:03}.json"] = json.dumps({"caption": captions[0]}).encode()
    return members


def test_tar_holds_what_webdataset_of_hugging_face_reads(members, tmp_path):
    members = {name.removeprefix("a/"): content for name, content in members.items()}
    members = {name: content for name, content in members.items() if not name.endswith("json")}
    members["002.txt"] = CAPTIONS[2][0].encode()
    path = write_tar(tmp_path / "t.tar", {name: members[name] for name in sorted(members)})
    loaded = datasets.load_dataset(
        "webdataset", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    expected = [
        (np.asarray(row["png"]).tobytes(), tuple(row["txt"].splitlines())) for row in loaded
    ]
    assert as_pairs(read_captions(f"tar:{path}", split="train")) == expected == EXPECTED


def test_tar_with_members_in_any_order_is_read(members, tmp_path):
    ordered = dict(sorted(members.items(), key=lambda item: item[0].rpartition(".")[2]))
    path = write_tar(tmp_path / "t.tar", ordered)
    assert sorted(as_pairs(read_captions(f"tar:{path}", split="train"))) == sorted(EXPECTED)


def test_tar_patterns_and_folders_name_several(members, tmp_path):
    (tmp_path := tmp_path / "me@home").mkdir()
    names = sorted(members)
    for number in range(2):
        part = {n: members[n] for n in names if int(n[2:5]) % 2 == number}
        write_tar(tmp_path / f"train-{number:03}.tar", part)
    found = [
        as_pairs(read_captions(f"{form}:{tmp_path}/{pattern}", split="train"))
        for form, pattern in (
            ("tar", "train-{000..001}.tar"),
            ("webdataset", "*.tar"),
            ("tar", "{split}-*.tar"),
            ("tar", ""),
        )
    ]
    assert found == [EXPECTED[::2] + EXPECTED[1::2]] * 4
    for pattern in ("{split}-*.tar", "{split}-{000..001}.tar"):
        assert CaptionData(f"tar:{tmp_path}/{pattern}").splits == ("train",)


def test_tar_names_in_braces_may_be_a_long_list(members, tmp_path):
    names = [f"{number}{'x' * 200}" for number in range(2)]
    for name in names:
        write_tar(tmp_path / f"{name}.tar", members)
    found = read_captions(f"tar:{tmp_path}/{{{','.join(names)}}}.tar", split="train")
    assert len(found.images) == 2 * COUNT
    with pytest.raises(DataError, match="no file matches"):
        read_captions(f"tar:{tmp_path}/{{{','.join(names)},other}}.tar", split="train")


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_pattern_of_braces_without_a_file_is_refused(form, members, tmp_path):
    write_tar(tmp_path / "0.tar", members)
    pq.write_table(pyarrow.table({"image": ["a.png"], "caption": ["a"]}), tmp_path / "0.parquet")
    with pytest.raises(DataError, match=r"no file matches '.*1\.\w+' \(and 1 more names\)"):
        read_captions(f"{form}:{tmp_path}/{{0..2}}.{form}", split="train")


@pytest.mark.parametrize(
    ("ids", "expected"), [((7, 3), [7, 3]), ((7, 7), [0, 1]), ((7, "a"), [0, 1])]
)
def test_tar_ids_are_used_if_they_are_different_integers(ids, expected, tmp_path):
    members = {}
    for number, image_id in enumerate(ids):
        members[f"{number}.png"] = encode(number)
        members[f"{number}.json"] = json.dumps({"caption": "A.", "image_id": image_id}).encode()
    images = read_captions(f"tar:{write_tar(tmp_path / 't.tar', members)}", split="train").images
    assert [image.image_id for image in images] == expected


def test_tar_captions_without_images_are_reported(tmp_path):
    members = {"a.png": encode(0), "a.txt": b"A.", "b.txt": b"B.", "c.png": encode(1)}
    split = read_captions(f"tar:{write_tar(tmp_path / 't.tar', members)}", split="train")
    assert split.problems.found == {
        "captions of unknown images": ("t.tar/b",),
        "images without captions": ("c.png",),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda path: path.write_bytes(b"no archive" * 100),
            "t.tar': invalid header",
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:700]), "cannot read .*t.tar'"),
        (lambda path: path.unlink(), "no file matches"),
        (
            lambda path: tarfile.open(path, "w:gz").close(),
            "looks like a compressed file. Decompress it first",
        ),
        (
            lambda path: write_tar(path, {"a.png": b"", "a.json": b"{"}),
            "captions of 'a.json' are not UTF-8 text or JSON",
        ),
    ],
)
def test_tar_damaged_is_refused(change, message, tmp_path):
    path = write_tar(tmp_path / "t.tar", {"a.txt": b"A.", "a.png": encode(0)})
    change(path)
    with pytest.raises(DataError, match=message):
        read_captions(f"tar:{path}", split="train")


# Lists of Python


def test_list_of_rows_and_pairs_is_read(tmp_path):
    draw(0).save(tmp_path / "0.png")
    rows = [
        {"image": tmp_path / "0.png", "captions": CAPTIONS[0]},
        {"image": encode(1), "caption": CAPTIONS[1]},
        (draw(2), CAPTIONS[2][0]),
        (np.asarray(draw(3)), CAPTIONS[3]),
    ]
    first, *others = (split := read_captions(rows, split="train")).images
    assert (first.path, first.captions) == (tmp_path / "0.png", tuple(CAPTIONS[0]))
    found = [np.asarray(Image.open(io.BytesIO(read_content(image)))) for image in others]
    assert [pixels.tobytes() for pixels in found] == [pixels for pixels, _ in EXPECTED[1:4]]
    assert split.source.startswith("memory:4 images")
    assert read_captions([*rows[:3], (draw(3), "Other.")], split="train").source != split.source


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (42, "cannot read captioned images from int. Give a list"),
        ([1], "row 0 of the data is 1. Give a list"),
        ([{"image": "a.jpg"}], "row 0: no field with the captions"),
        ([(None, "A.")], "row 0 of the data: cannot read an image from None"),
        ([("a.jpg", 3)], "expected a caption or a list of captions, found 3"),
    ],
)
def test_list_with_a_wrong_row_is_refused(rows, message):
    with pytest.raises(DataError, match=message):
        read_captions(rows, split="train")
