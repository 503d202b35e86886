import contextlib
import io
import json
from pathlib import Path

import pytest

from captioning.datasets import CaptionSplit, read_captions
from captioning.errors import DataError

TINY = Path(__file__).parents[2] / "data" / "tiny"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def as_names(split: CaptionSplit) -> dict[str, tuple[str, ...]]:
    return {image.path.name: image.captions for image in split.images}


@pytest.fixture
def flickr(tmp_path: Path) -> Path:
    """Three photos in the folder's own layout; b.jpg is of the dev split, c.jpg of none."""
    touch(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg")
    lines = [f"{name}.jpg#{i}\t{name} caption {i} ." for name in "cab" for i in range(2)]
    (tmp_path / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("a.jpg\n")
    (tmp_path / "Flickr_8k.devImages.txt").write_text("b.jpg\n")
    return tmp_path


@pytest.fixture
def coco_content() -> dict[str, list[dict]]:
    return {
        "images": [{"id": 42, "file_name": "x.jpg"}, {"id": 7, "file_name": "y.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 7, "caption": "A y."},
            {"id": 2, "image_id": 42, "caption": " An x.\n"},
            {"id": 3, "image_id": 7, "caption": "Another y."},
        ],
    }


class TestSpec:
    @pytest.mark.parametrize("spec", ["data/tiny", "cocoa:x", "coco:", ":x", ""])
    def test_a_spec_without_a_known_format_is_refused_with_the_formats(self, spec: str) -> None:
        with pytest.raises(DataError, match=r"FORMAT:PATH was expected.*flickr8k, coco, karpathy"):
            read_captions(spec, split="train")

    def test_the_nearest_format_is_offered(self) -> None:
        with pytest.raises(DataError, match="Did you mean 'flickr8k'"):
            read_captions("flickr:x", split="train")

    @pytest.mark.parametrize("spec", ["coco", "coco:"])
    def test_a_format_alone_is_shown_with_a_path(self, spec: str) -> None:
        with pytest.raises(DataError, match=r"names no captions.* Did you mean 'coco:coco'\?"):
            read_captions(spec, split="train")

    def test_an_image_folder_that_does_not_exist_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="nowhere is no folder"):
            read_captions(f"coco:{tmp_path}/a.json@{tmp_path}/nowhere", split="train")

    def test_an_at_sign_in_an_existing_name_is_no_image_folder(self, tmp_path: Path) -> None:
        touch(tmp_path / "me@home", "a.jpg")
        rows = tmp_path / "me@home" / "rows.jsonl"
        rows.write_text('{"image": "a.jpg", "caption": "An a."}')
        assert as_names(read_captions(f"jsonl:{rows}", split="train")) == {"a.jpg": ("An a.",)}

    def test_the_split_is_filled_in(self, tmp_path: Path) -> None:
        for split in ("train", "val"):
            touch(tmp_path / split, f"{split}.jpg")
            line = json.dumps({"image": f"{split}.jpg", "caption": f"For {split}."})
            (tmp_path / f"{split}.jsonl").write_text(line)
        spec = f"jsonl:{tmp_path}/{{split}}.jsonl@{tmp_path}/{{split}}"
        assert as_names(read_captions(spec, split="dev")) == {"val.jpg": ("For val.",)}
        assert read_captions(spec, split="train").source == spec


class TestFlickr8k:
    def test_a_split_holds_its_list_and_no_other_photo(self, flickr: Path) -> None:
        train = read_captions(f"flickr8k:{flickr}", split="train")
        assert as_names(train) == {"a.jpg": ("a caption 0 .", "a caption 1 .")}
        assert train.images[0].path == flickr / "images" / "a.jpg"
        assert (train.split, len(train.problems), train.problems.report()) == ("train", 0, "")

    @pytest.mark.parametrize("name", ["dev", "val", "validation"])
    def test_dev_and_val_are_one_split(self, flickr: Path, name: str) -> None:
        split = read_captions(f"flickr8k:{flickr}", split=name)
        assert (list(as_names(split)), split.split) == (["b.jpg"], "val")

    def test_the_original_archives_are_read_as_they_unpack(self, flickr: Path) -> None:
        (flickr / "images").rename(flickr / "Flicker8k_Dataset")
        (flickr / "Flickr8k_text").mkdir()
        for text in flickr.glob("*.txt"):
            text.rename(flickr / "Flickr8k_text" / text.name)
        split = read_captions(f"flickr8k:{flickr}", split="train")
        assert split.images[0].path == flickr / "Flicker8k_Dataset" / "a.jpg"

    def test_ids_are_places_among_all_sorted_names_in_every_split(self, flickr: Path) -> None:
        ids = [
            image.image_id
            for split in ("train", "dev")
            for image in read_captions(f"flickr8k:{flickr}", split=split).images
        ]
        assert ids == [0, 1]  # a.jpg, b.jpg among a, b, c, though the token file begins with c

    def test_a_byte_order_mark_and_windows_line_ends_change_nothing(self, flickr: Path) -> None:
        before = read_captions(f"flickr8k:{flickr}", split="train")
        for text in flickr.glob("*.txt"):
            text.write_bytes(b"\xef\xbb\xbf" + text.read_bytes().replace(b"\n", b"\r\n"))
        assert read_captions(f"flickr8k:{flickr}", split="train") == before

    def test_what_cannot_be_used_is_named(self, flickr: Path) -> None:
        with (flickr / "Flickr8k.token.txt").open("a") as file:
            file.write("lost.jpg#0\tNowhere to be seen.\n")
            file.write("stray.jpg.1#0\tIn no list and not on disk.\n")
            file.write("a.jpg#2\t  \n")
            file.write("a.jpg#0\tAnother caption 0.\n")
        touch(flickr / "images", "bare.jpg")
        list_ = flickr / "Flickr_8k.trainImages.txt"
        list_.write_text("a.jpg\nlost.jpg\nbare.jpg\na.jpg\n\n")
        split = read_captions(f"flickr8k:{flickr}", split="train")
        assert as_names(split) == {"a.jpg": ("a caption 0 .", "a caption 1 .")}
        assert split.problems.found == {
            "captions numbered twice": ("a.jpg#0",),
            "captions of unknown images": ("stray.jpg.1#0",),
            "empty captions": ("a.jpg#2",),
            "images missing on disk": (str(flickr / "images" / "lost.jpg"),),
            "images without captions": ("bare.jpg",),
            "images listed twice": ("a.jpg",),
        }
        assert len(split.problems) == 6

    def test_a_photo_in_no_split_list_is_no_problem(self, flickr: Path) -> None:
        assert "c.jpg" in (flickr / "Flickr8k.token.txt").read_text()
        assert not read_captions(f"flickr8k:{flickr}", split="train").problems.found

    @pytest.mark.parametrize(
        "bad", ["a.jpg caption", "a.jpg\tcaption", "a.jpg#x\tcaption", "#1\ta"]
    )
    def test_a_malformed_line_is_named_by_its_number(self, flickr: Path, bad: str) -> None:
        path = flickr / "Flickr8k.token.txt"
        path.write_text(path.read_text() + "\n" + bad + "\n")
        with pytest.raises(DataError, match=r"token\.txt, line 8: NAME\.jpg#NUMBER<TAB>caption"):
            read_captions(f"flickr8k:{flickr}", split="train")

    def test_a_missing_split_list_is_named(self, flickr: Path) -> None:
        with pytest.raises(DataError, match=r"no Flickr_8k\.testImages\.txt in .*another split"):
            read_captions(f"flickr8k:{flickr}", split="test")

    def test_an_unknown_split_is_refused(self, flickr: Path) -> None:
        with pytest.raises(DataError, match=r"no split 'trian'.*Did you mean 'train'"):
            read_captions(f"flickr8k:{flickr}", split="trian")

    def test_missing_captions_and_photos_are_named(self, flickr: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no Flickr8k\.token\.txt in .*nothing"):
            read_captions(f"flickr8k:{tmp_path}/nothing", split="train")
        (flickr / "images").rename(flickr / "elsewhere")
        with pytest.raises(DataError, match=r"no folder of images.*Name it with @"):
            read_captions(f"flickr8k:{flickr}", split="train")
        named = read_captions(f"flickr8k:{flickr}@{flickr}/elsewhere", split="train")
        assert named.images[0].path == flickr / "elsewhere" / "a.jpg"

    def test_text_that_is_not_utf8_is_named_by_its_line(self, flickr: Path) -> None:
        path = flickr / "Flickr8k.token.txt"
        path.write_bytes(path.read_bytes() + b"a.jpg#7\tA caf\xe9.\n")
        with pytest.raises(DataError, match="line 7: not UTF-8"):
            read_captions(f"flickr8k:{flickr}", split="train")

    def test_no_usable_photo_at_all_is_an_error_that_says_why(self, flickr: Path) -> None:
        (flickr / "images" / "a.jpg").unlink()
        with pytest.raises(
            DataError, match=r"no usable image:\nimages missing on disk \(1\): .*a\.jpg"
        ):
            read_captions(f"flickr8k:{flickr}", split="train")


class TestCoco:
    @pytest.mark.parametrize("split", ["train", "val", "test"])
    def test_the_tiny_set_equals_its_json(self, split: str) -> None:
        content = json.loads((TINY / "annotations" / f"captions_{split}.json").read_text())
        expected = {image["id"]: (image["file_name"], []) for image in content["images"]}
        for annotation in content["annotations"]:
            expected[annotation["image_id"]][1].append(annotation["caption"])
        read = read_captions(f"coco:{TINY}", split=split)
        found = {i.image_id: (i.path.name, list(i.captions)) for i in read.images}
        assert found == expected
        assert all(len(captions) == 5 for _, captions in found.values())
        assert not read.problems.found

    def test_the_tiny_splits_share_no_image(self) -> None:
        ids = [
            image.image_id
            for split in ("train", "val", "test")
            for image in read_captions(f"coco:{TINY}", split=split).images
        ]
        assert len(ids) == len(set(ids)) == 48

    def test_captions_are_matched_by_id_in_the_order_of_the_file(
        self, tmp_path: Path, coco_content: dict
    ) -> None:
        touch(tmp_path / "photos", "x.jpg", "y.jpg")
        path = write_json(tmp_path / "captions.json", coco_content)
        split = read_captions(f"coco:{path}@{tmp_path}/photos", split="train")
        assert [(i.image_id, i.captions) for i in split.images] == [
            (42, ("An x.",)),
            (7, ("A y.", "Another y.")),
        ]

    @pytest.mark.parametrize(
        ("captions", "photos"),
        [
            ("annotations/captions_val2017.json", "val2017"),
            ("annotations/captions_val2014.json", "val2014"),
            ("annotations/captions_val2014.json", "images/val2014"),
            ("annotations/captions_val.json", "images"),
            ("captions_val2017.json", "val2017"),
        ],
    )
    def test_the_official_layouts_are_found(
        self, tmp_path: Path, coco_content: dict, captions: str, photos: str
    ) -> None:
        touch(tmp_path / photos, "x.jpg", "y.jpg")
        write_json(tmp_path / captions, coco_content)
        for spec in (f"coco:{tmp_path}", f"coco:{tmp_path / captions}"):
            images = read_captions(spec, split="val").images
            assert [image.path for image in images] == [
                tmp_path / photos / "x.jpg",
                tmp_path / photos / "y.jpg",
            ]

    def test_what_cannot_be_used_is_named(self, tmp_path: Path, coco_content: dict) -> None:
        touch(tmp_path / "images", "x.jpg", "bare.jpg")
        coco_content["images"] += [
            {"id": 8, "file_name": "bare.jpg"},
            {"id": 42, "file_name": "x.jpg"},
        ]
        coco_content["annotations"] += [
            {"id": 4, "image_id": 99, "caption": "Of an unknown image."},
            {"id": 2, "image_id": 42, "caption": "A second with number 2."},
            {"id": 5, "image_id": 42, "caption": ""},
        ]
        path = write_json(tmp_path / "captions.json", coco_content)
        split = read_captions(f"coco:{path}", split="train")
        assert as_names(split) == {"x.jpg": ("An x.", "A second with number 2.")}
        assert split.problems.found == {
            "images listed twice": ("id 42",),
            "captions numbered twice": ("id 2",),
            "captions of unknown images": ("image 99 (caption 4)",),
            "images missing on disk": (str(tmp_path / "images" / "y.jpg"),),
            "empty captions": ("x.jpg#2",),
            "images without captions": ("bare.jpg",),
        }

    def test_nothing_is_printed(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            read_captions(f"coco:{TINY}", split="val")
        assert printed.getvalue() == ""

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", r"captions\.json is no JSON: .*only in part"),
            ("[" * 200_000, r"is no JSON"),
            ("[1]", r"no COCO caption: an object .* a list was found"),
            ("[" + "9" * 5000 + "]", r"is no JSON"),
            ('{"images": []}', r'"images" and "annotations" were expected.*\[\'images\'\]'),
            ('{"images": [{"id": 1}], "annotations": []}', r'images\[0\]: "file_name" of type str'),
            ('{"images": [3], "annotations": []}', r"images\[0\]: an object was expected, 3 was"),
            (
                '{"images": [{"id": "1", "file_name": "a"}], "annotations": []}',
                r'images\[0\]: "id" of type int was expected, \'1\' was found',
            ),
            (
                '{"images": [], "annotations": [{"id": 1, "image_id": 2, "bbox": []}]}',
                r'annotations\[0\]: "caption" of type str was expected, only \[\'bbox\'',
            ),
            ('{"images": [], "annotations": []}', r"no usable image:\nit lists no image"),
        ],
    )
    def test_a_malformed_file_is_refused_by_name(
        self, tmp_path: Path, text: str, message: str
    ) -> None:
        path = tmp_path / "captions.json"
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_captions(f"coco:{path}@{tmp_path}", split="train")

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no\.json cannot be read: No such file"):
            read_captions(f"coco:{tmp_path}/no.json", split="train")
        with pytest.raises(DataError, match=r"looked for annotations/captions_val2017\.json"):
            read_captions(f"coco:{tmp_path}", split="val")
        with pytest.raises(DataError, match="COCO publishes no captions of its test images"):
            read_captions(f"coco:{tmp_path}", split="test")


class TestKarpathy:
    @pytest.fixture
    def karpathy(self, tmp_path: Path) -> Path:
        entries = [
            {
                "filename": f"{name}.jpg",
                "imgid": i,
                "split": name,
                "sentences": [{"raw": f"{name}."}],
            }
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
    def test_a_split_holds_its_own(self, karpathy: Path, split: str, names: list[str]) -> None:
        assert list(as_names(read_captions(f"karpathy:{karpathy}", split=split))) == names

    @pytest.mark.parametrize("filepath", [None, 3])
    def test_a_folder_that_is_no_name_is_refused(self, tmp_path: Path, filepath: object) -> None:
        entry = {"filename": "a.jpg", "imgid": 1, "split": "train", "sentences": [{"raw": "a"}]}
        path = write_json(tmp_path / "d.json", {"images": [{**entry, "filepath": filepath}]})
        with pytest.raises(DataError, match='"filepath" of type str was expected'):
            read_captions(f"karpathy:{path}@{tmp_path}", split="train")

    def test_a_folder_with_a_zero_byte_has_no_images(self, tmp_path: Path) -> None:
        entry = {"filename": "a.jpg", "imgid": 1, "split": "train", "sentences": [{"raw": "a"}]}
        path = write_json(tmp_path / "d.json", {"images": [{**entry, "filepath": "a\0b"}]})
        with pytest.raises(DataError, match="missing on disk"):
            read_captions(f"karpathy:{path}@{tmp_path}", split="train")

    def test_coco_numbers_and_folders_are_used(self, tmp_path: Path) -> None:
        entry = {
            "filename": "COCO_val2014_9.jpg",
            "filepath": "val2014",
            "imgid": 0,
            "cocoid": 9,
            "split": "val",
            "sentences": [{"raw": "One."}, {"raw": "Two. "}],
        }
        touch(tmp_path / "coco" / "val2014", "COCO_val2014_9.jpg")
        path = write_json(tmp_path / "dataset_coco.json", {"images": [entry]})
        (image,) = read_captions(f"karpathy:{path}@{tmp_path}/coco", split="val").images
        assert image.path == tmp_path / "coco" / "val2014" / "COCO_val2014_9.jpg"
        assert (image.image_id, image.captions) == (9, ("One.", "Two."))

    def test_an_unknown_split_is_refused_with_those_there_are(self, karpathy: Path) -> None:
        with pytest.raises(DataError, match=r"no split tset; it has train \(1 image\), restval"):
            read_captions(f"karpathy:{karpathy}", split="tset")

    def test_a_malformed_entry_is_named(self, tmp_path: Path) -> None:
        entry = {"filename": "a.jpg", "imgid": 0, "split": "train", "sentences": [{"tokens": []}]}
        path = write_json(tmp_path / "dataset.json", {"images": [entry]})
        with pytest.raises(DataError, match=r'images\[0\], sentences\[0\]: "raw" of type str'):
            read_captions(f"karpathy:{path}", split="train")


class TestTables:
    def test_json_lines_give_one_or_many_captions(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.jpg", "deep/b.jpg")
        rows = tmp_path / "rows.jsonl"
        rows.write_text(
            '\ufeff{"image": "deep/b.jpg", "captions": ["B one.", "B two."]}\n\n'
            '{"image": "a.jpg", "caption": "Un café\u2028à deux."}\n'
            '{"image": "deep/b.jpg", "caption": "B three."}\n',
            encoding="utf-8",
        )
        split = read_captions(f"jsonl:{rows}", split="train")
        assert [(i.path, i.captions, i.image_id) for i in split.images] == [
            (tmp_path / "deep" / "b.jpg", ("B one.", "B two.", "B three."), 1),
            (tmp_path / "a.jpg", ("Un café\u2028à deux.",), 0),
        ]

    def test_rows_with_a_split_are_chosen_by_it(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.jpg", "b.jpg")
        rows = tmp_path / "rows.jsonl"
        rows.write_text(
            '{"image": "a.jpg", "caption": "A.", "split": "train"}\n'
            '{"image": "b.jpg", "caption": "B.", "split": "validation"}\n'
        )
        assert as_names(read_captions(f"jsonl:{rows}", split="dev")) == {"b.jpg": ("B.",)}
        with pytest.raises(DataError, match="no split 'test'; it has train, val"):
            read_captions(f"jsonl:{rows}", split="test")
        rows.write_text(rows.read_text() + '{"image": "a.jpg", "caption": "A."}')
        with pytest.raises(DataError, match="line 3: no split is given"):
            read_captions(f"jsonl:{rows}", split="train")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"image": "a.jpg"', r"line 2: no JSON .*One object per line"),
            ("[]", r"line 2: an object was expected"),
            ('{"file": "a.jpg"}', r'line 2: "image" of type str was expected, only'),
            ('{"file_name": 3, "text": "A."}', r'line 2: "file_name" of type str was expected, 3'),
            ('{"file_name": "a.jpg", "text": 3}', r"line 2: a list of captions or one caption"),
            ('{"image": "a.jpg"}', r"line 2: a list of captions or one caption was expected"),
            ('{"image": "a.jpg", "captions": [1]}', r"line 2: a list of captions"),
            ('{"image": "a.jpg", "captions": "A."}', r"line 2: a list of captions"),
            ('{"image": "a.jpg", "caption": "A.", "split": 1}', r'line 2: "split" of type str'),
        ],
    )
    def test_a_malformed_line_is_named(self, tmp_path: Path, line: str, message: str) -> None:
        rows = tmp_path / "rows.jsonl"
        rows.write_text('{"image": "a.jpg", "caption": "A."}\n' + line)
        with pytest.raises(DataError, match=message):
            read_captions(f"jsonl:{rows}", split="train")

    def test_csv_is_read_as_kaggle_writes_it(self, tmp_path: Path) -> None:
        touch(tmp_path / "Images", "a.jpg", "b.jpg")
        table = tmp_path / "captions.txt"
        table.write_text(
            "\ufeffimage,caption\n"
            "b.jpg,A dog .\n"
            'b.jpg,"A dog , and a ""friend"" ."\n'
            "a.jpg, A cat .\n",
            encoding="utf-8",
        )
        split = read_captions(f"csv:{table}", split="train")
        assert [(i.path.name, i.captions, i.image_id) for i in split.images] == [
            ("b.jpg", ("A dog .", 'A dog , and a "friend" .'), 1),
            ("a.jpg", ("A cat .",), 0),
        ]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", r"line 1: a header with the columns image and caption .* was expected, \[\] was"),
            ("file_name,image\n", r"image and caption \(or file_name and text\) was expected"),
            ("a.jpg,A dog.\n", r"line 1: a header .* \['a\.jpg', 'A dog\.'\] was found"),
            ("image,caption\na.jpg,A dog, running\n", r"line 2: 2 columns .*double quotes"),
            ("image,caption\na.jpg\n", r"line 2: 2 columns were expected"),
            ('image,caption\na.jpg,"A dog\n', r"near line \d: .*Was a double quote left open"),
        ],
    )
    def test_a_malformed_table_is_refused(self, tmp_path: Path, text: str, message: str) -> None:
        table = tmp_path / "captions.csv"
        table.write_text(text)
        with pytest.raises(DataError, match=message):
            read_captions(f"csv:{table}", split="train")

    def test_csv_may_give_splits_and_lie_beside_its_images(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.jpg", "b.jpg")
        (tmp_path / "Images").mkdir()  # not where these images are
        table = tmp_path / "captions.csv"
        table.write_text("split,image,caption\ntrain,a.jpg,A.\ndev,b.jpg,B.\n")
        assert as_names(read_captions(f"csv:{table}", split="val")) == {"b.jpg": ("B.",)}

    @pytest.mark.parametrize(
        ("row", "caption"),
        [
            ({"file_name": "a.jpg", "text": "T."}, "T."),
            ({"image": "a.jpg", "text": "T."}, "T."),
            ({"file_name": "a.jpg", "caption": "C."}, "C."),
            ({"file_name": "x.jpg", "text": "T.", "image": "a.jpg", "caption": "C."}, "C."),
        ],
    )
    def test_hugging_faces_names_stand_for_ours(
        self, tmp_path: Path, row: dict[str, str], caption: str
    ) -> None:
        touch(tmp_path, "a.jpg")
        (tmp_path / "metadata.jsonl").write_text(json.dumps({**row, "split": "train"}))
        table = f"{','.join(row)},split\n{','.join(row.values())},train\n"
        (tmp_path / "metadata.csv").write_text(table)
        for form in ("jsonl", "csv"):
            split = read_captions(f"{form}:{tmp_path}/metadata.{form}", split="train")
            assert as_names(split) == {"a.jpg": (caption,)}

    def test_many_captions_come_before_one(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.jpg")
        row = {"file_name": "a.jpg", "text": "T.", "captions": ["One.", "Two."]}
        (tmp_path / "rows.jsonl").write_text(json.dumps(row))
        split = read_captions(f"jsonl:{tmp_path}/rows.jsonl", split="train")
        assert as_names(split) == {"a.jpg": ("One.", "Two.")}


class TestProblems:
    def test_the_report_names_a_few_and_counts_the_rest(self, tmp_path: Path) -> None:
        touch(tmp_path, "0.jpg")
        rows = [json.dumps({"image": f"{i}.jpg", "caption": "A."}) for i in range(9)]
        (tmp_path / "rows.jsonl").write_text("\n".join(rows))
        problems = read_captions(f"jsonl:{tmp_path}/rows.jsonl", split="train").problems
        missing = [str(tmp_path / f"{i}.jpg") for i in range(1, 9)]
        assert problems.report() == (
            f"images missing on disk (8): {', '.join(missing[:5])} and 3 more"
        )

    def test_a_folder_and_a_dangling_link_are_no_images(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").mkdir()
        (tmp_path / "b.jpg").symlink_to(tmp_path / "gone.jpg")
        touch(tmp_path, "real.jpg")
        (tmp_path / "c.jpg").symlink_to(tmp_path / "real.jpg")
        rows = [json.dumps({"image": f"{name}.jpg", "caption": "A."}) for name in "abc"]
        (tmp_path / "rows.jsonl").write_text("\n".join(rows))
        split = read_captions(f"jsonl:{tmp_path}/rows.jsonl", split="train")
        assert (list(as_names(split)), len(split.problems)) == (["c.jpg"], 2)

    def test_each_folder_is_listed_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = [f"{i % 2}/{i}.jpg" for i in range(50)]
        touch(tmp_path, *names)
        rows = [json.dumps({"image": name, "caption": "A."}) for name in names]
        (tmp_path / "rows.jsonl").write_text("\n".join(rows))
        from captioning.datasets import split

        listed: list[Path] = []
        scan = split.os.scandir
        monkeypatch.setattr(split.os, "scandir", lambda path: listed.append(path) or scan(path))
        assert len(read_captions(f"jsonl:{tmp_path}/rows.jsonl", split="train").images) == 50
        assert sorted(listed) == [tmp_path / "0", tmp_path / "1"]
