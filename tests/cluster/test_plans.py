"""The plan of a run: how its inputs are listed once, and what resumed runs do with them."""

import io
import os
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from output_rows import read_folder
from small_captioner import write_photos

from captioning.bulk.cluster.entries import Entry, list_entries
from captioning.bulk.cluster.selection import InputImage, mark_duplicates
from captioning.bulk.cluster.storage import OutputFolder
from captioning.bulk.cluster.tables import KeptTypes
from captioning.images.image_ref import ImageRef

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", 5)


def forget_partition(output, number):
    (output / f".captioning/done/{number:05}.json").unlink()


def write_urls(path, names, **options):
    pq.write_table(pa.table({"url": [str(name) for name in names]}), path, **options)


def test_two_commands_on_one_output_share_a_listing(caption, photos, tmp_path, monkeypatch):
    real, words = OutputFolder.write_inputs, (photos[0].parent, "-o", tmp_path / "out")

    def run_another_first(self, *args):
        monkeypatch.setattr(OutputFolder, "write_inputs", real)
        photos[0].unlink()
        assert caption(*words, "--partition-size", 2).code == 0
        real(self, *args)

    monkeypatch.setattr(OutputFolder, "write_inputs", run_another_first)
    assert caption(*words, "--partition-size", 2).code == 0
    names = sorted(row["file_name"] for row in read_folder(tmp_path / "out"))
    assert names == [f"../photos/photo{number}.jpg" for number in (2, 3, 4, 5)]


def test_run_resumes_from_another_folder(caption, photos, tmp_path, monkeypatch):
    write_urls(tmp_path / "urls.parquet", (path.relative_to(tmp_path) for path in photos))
    old = tmp_path / "old.jsonl"
    old.write_text('{"file_name": "photos/photo2.jpg", "text": "a dog"}\n')
    (tmp_path / "elsewhere").mkdir()
    flags = ("-o", tmp_path / "out", "--partition-size", 2)
    monkeypatch.chdir(tmp_path)
    assert caption("urls.parquet", *flags, "--skip-rows-of", "old.jsonl").code == 0
    rows = read_folder(tmp_path / "out")
    assert len(rows) == 4
    forget_partition(tmp_path / "out", 1)
    monkeypatch.chdir(tmp_path / "elsewhere")
    ran = caption("../urls.parquet", *flags, "--skip-rows-of", "../old.jsonl")
    assert ran.code == 0, ran.err
    assert read_folder(tmp_path / "out") == rows
    ran = caption("urls.parquet", *flags, "--skip-rows-of", old)
    assert ran.code == 2  # another file
    assert "cannot resume the run" in ran.err


def test_resumed_run_says_that_the_list_is_not_read(caption, photos, tmp_path, monkeypatch):
    for names in (photos, photos[:1]):
        stream = io.BytesIO("".join(f"{path}\n" for path in names).encode())
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stream))
        ran = caption("-", "-o", tmp_path / "out")
        assert ran.code == 0
        assert len(read_folder(tmp_path / "out")) == 5
    assert "Its inputs stay the same, and standard input is not read." in ran.err


def test_unreadable_table_is_a_row_with_the_reason(caption, photos, tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"no table")
    ran = caption(tmp_path / "bad.parquet", photos[0], "-o", tmp_path / "out")
    assert ran.code == 1
    bad, good = read_folder(tmp_path / "out")
    assert bad["file_name"] == "../bad.parquet"
    assert "bad.parquet' as Parquet: " in bad["error"]
    assert good["text"]


@pytest.mark.parametrize("rows_left", [3, 0])
def test_table_that_lost_rows_keeps_their_number(caption, photos, tmp_path, rows_left):
    path = tmp_path / "a.parquet"
    contents = [each.read_bytes() for each in photos]
    pq.write_table(pa.table({"image": contents}), path, row_group_size=3)
    flags = ("-o", tmp_path / "out", "--partition-size", 2)
    assert caption(path, *flags).code == 0
    names = [row["file_name"] for row in read_folder(tmp_path / "out")]
    assert names == [f"../a.parquet/{number}" for number in range(5)]
    for number in range(2):
        forget_partition(tmp_path / "out", number)
    pq.write_table(pa.table({"image": contents[:rows_left]}), path, row_group_size=2)
    assert caption(path, *flags).code == 1
    rows = read_folder(tmp_path / "out")
    assert [row["file_name"] for row in rows] == names
    assert "has fewer rows than at the start of the run" in rows[2]["error"]
    assert [row["text"] is None for row in rows[:2]] == [not rows_left] * 2


def test_file_url_as_output_is_a_local_folder(caption, photos, tmp_path):
    assert caption(photos[0], "-o", f"{tmp_path.as_uri()}/out").code == 0
    assert len(read_folder(tmp_path / "out")) == 1


def test_entry_with_an_error_has_an_absolute_name():
    image = ImageRef("no/such*.jpg", error="no file matches")
    (entry,) = list_entries([image], None, KeptTypes((), must_agree=True), 9)
    assert entry == Entry(os.path.abspath("no/such*.jpg"), error="no file matches")  # noqa: PTH100


def test_duplicates_of_large_images_are_found_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr("captioning.bulk.cluster.selection._BYTES_AT_ONCE", 250)
    fetched = []

    def fetch(number):
        fetched.append(number)
        return bytes([number]) * 100

    images = (InputImage(ImageRef(f"s3://a/{n}", lambda n=n: fetch(n)), {}) for n in range(99))
    marked = mark_duplicates(images, lambda part, new: [(part, "")] * len(new), 0, str, readers=2)
    assert len(next(marked).digest) == 64
    assert sorted(fetched) == [0, 1, 2, 3]
