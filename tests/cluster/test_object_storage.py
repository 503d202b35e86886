"""Inputs and outputs in object storage, with moto's server in place of Amazon S3."""

import io
import json
import tarfile

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_captioner import write_photos

from captioning.bulk.cluster.storage import OutputFolder
from captioning.errors import OutputError

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def uploaded(bucket, tmp_path):
    """Upload images as files, in a tar archive, and in Parquet; return the paths of the images."""
    photos = write_photos(tmp_path / "photos", 4)
    photos[2].write_bytes(b"")
    for path in photos:
        bucket.put(f"photos/a/{path.name}", path.read_bytes())
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as file:
        for path in photos:
            file.add(path, path.name)
    bucket.put("archives/1.tar", archive.getvalue())
    table = io.BytesIO()
    urls = [f"{bucket.url}/photos/a/{path.name}" for path in photos]
    pq.write_table(pa.table({"url": urls}), table)
    bucket.put("urls.parquet", table.getvalue())
    return photos


def test_bucket_is_read_and_written(caption, uploaded, bucket, captioner):
    url = bucket.url
    inputs = (f"{url}/photos", f"{url}/archives/*.tar", f"{url}/urls.parquet", "-r")
    ran = caption(*inputs, "-o", f"{url}/out", "--partition-size", 3, "--json")
    assert ran.code == 1, ran.err
    assert json.loads(ran.out)["output"] == f"{url}/out"
    parts = sorted(name for name in bucket.names() if name.startswith("out/part-"))
    rows = pd.concat([pd.read_parquet(io.BytesIO(bucket.get(name))) for name in parts])
    names = [path.name for path in uploaded]
    files = [f"{url}/photos/a/{name}" for name in names]
    assert [*rows["file_name"]] == [*files, *(f"{url}/archives/1.tar/{n}" for n in names), *files]
    texts = [None if path == uploaded[2] else captioner(path).text for path in uploaded]
    assert [*rows["text"].astype(object).where(rows["text"].notna(), None)] == texts * 3
    bucket.delete("out/.captioning/done/00001.json")
    before = {name: bucket.get(name) for name in parts}
    assert caption(*inputs, "-o", f"{url}/out", "--partition-size", 3).code == 1
    assert {name: bucket.get(name) for name in parts} == before
    assert caption(*inputs, "-o", f"{url}/out", "--limit", 1, "--overwrite").code == 0
    assert [name for name in bucket.names() if "part-" in name] == ["out/part-00000.parquet"]


def test_missing_bucket_is_an_error_with_advice(caption, tmp_path, bucket):
    (photo,) = write_photos(tmp_path, 1)
    ran = caption(photo, "-o", "s3://there-is-no-such-bucket/out")
    assert ran.code == 1
    assert "cannot use the folder 's3://there-is-no-such-bucket/out'" in ran.err
    ran = caption(photo, "-o", "s4://bucket/out")
    assert ran.code == 1
    assert "cannot use the folder 's4://bucket/out'" in ran.err


def test_full_disk_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    folder = OutputFolder(str(tmp_path))

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OutputError, match="No space left on device"):
        folder.write_part(0, b"rows", {})
    assert list(tmp_path.rglob("*.parquet")) == []
