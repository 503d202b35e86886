"""Captioning on a real Ray cluster of two simulated nodes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import create_autospec

import pytest
from caption_runs import read_rows, run_command
from code_blocks import read_blocks
from output_rows import read_folder, sort_rows
from small_captioner import write_photos

import captioning
from captioning.bulk.cluster import run as cluster_run
from captioning.inference import captioner as captioner_module

pytestmark = [
    pytest.mark.xdist_group("ray"),  # one cluster is enough
    pytest.mark.filterwarnings("ignore"),  # of Ray and the packages that it imports
]


@pytest.fixture
def photos(tmp_path):
    photos = write_photos(tmp_path / "photos", 40)
    photos[6].write_bytes(photos[5].read_bytes()[:300])
    return photos


@pytest.fixture
def expected(photos, model, tmp_path):
    """Rows of the engine of one machine."""
    output = tmp_path / "plain.jsonl"
    flags = ("--model", model, "--workers", "0", "--precision", "float32")
    assert run_command("caption", photos[0].parent, "-o", output, *flags) == 1
    (failed,) = read_rows(tmp_path / "plain.jsonl.failed.jsonl")
    rows = read_rows(output)
    rows.insert(failed.pop("index"), failed)
    # The names start in the folder of the output.
    return [{**row, "file_name": f"../{row['file_name']}"} for row in rows]


def without_nulls(rows):
    kept = [{name: value for name, value in row.items() if value is not None} for row in rows]
    return [{name: value for name, value in row.items() if name != "sha256"} for row in kept]


def test_rows_on_two_nodes_equal_those_of_one_machine(
    cluster, caption, photos, expected, tmp_path, monkeypatch
):
    import ray

    real, ended = cluster_run.caption_partitions, []
    # Both actors get partitions at the start.
    monkeypatch.setattr(ray.data.DataContext.get_current(), "wait_for_min_actors_s", 300)
    node = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)

    def kill_node_after_first(*args):
        for counts in real(*args):
            ended.append(counts)
            if len(ended) == 1:
                cluster.remove_node(node, allow_graceful=False)
            yield counts

    monkeypatch.setattr(cluster_run, "caption_partitions", kill_node_after_first)
    photos[0].with_name("photo41.jpg").write_bytes(photos[0].read_bytes())
    write_photos(photos[0].parent, 1, start=42)
    earlier = tmp_path / "earlier.jsonl"
    earlier.write_text('{"file_name": "photos/photo42.jpg", "text": "a dog"}\n')
    flags = ("--partition-size", 4, "--min-actors", 2, "--max-actors", 2, "--json")
    flags += ("--skip-duplicates", "--skip-rows-of", earlier)
    ran = caption(photos[0].parent, "-o", tmp_path / "out", *flags)
    assert ran.code == 1, ran.err
    assert "1 of 41 images could not be captioned" in ran.err
    first, *rows, last = without_nulls(sort_rows(read_folder(tmp_path / "out")))
    assert rows == expected[1:]
    original, copy = (first, last) if "text" in first else (last, first)
    assert original["text"] == expected[0]["text"]
    assert copy["error"] == f"duplicate of '{original['file_name']}'."
    assert len(list((tmp_path / "out").glob("part-*.parquet"))) == 11
    summary = json.loads(ran.out)
    assert (summary["captioned"], summary["failed"], summary["skipped_images"]) == (39, 1, 1)
    assert (summary["partitions"], summary["interrupted"]) == (11, False)


def test_killed_run_continues_from_complete_partitions(
    cluster, bucket, caption, model, photos, expected
):
    for path in photos:
        bucket.put(f"photos/{path.name}", path.read_bytes())
    words = [f"{bucket.url}/photos", "-o", f"{bucket.url}/out", "--format", "jsonl"]
    words += ["--partition-size", "5", "--json"]
    code = f"import sys; sys.path[:] = {sys.path!r}; from captioning.cli.main import main; main()"
    flags = ["--engine", "ray", "--model", model, "--workers", "1"]
    killed = subprocess.Popen(
        [sys.executable, "-c", code, "caption", *map(str, [*words, *flags])],
        env={**os.environ, "RAY_ADDRESS": cluster.address},
    )
    while killed.poll() is None and not complete_partitions(bucket):
        time.sleep(0.2)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    complete = complete_partitions(bucket)
    assert 0 < len(complete) < 8
    ran = caption(*words)
    assert ran.code == 1, ran.err
    assert json.loads(ran.out)["from_earlier_runs"] >= 5 * len(complete)
    assert len(complete_partitions(bucket)) == 8
    parts = [bucket.get(name) for name in bucket.names() if name.startswith("out/part-")]
    rows = [json.loads(line) for part in parts for line in part.splitlines()]
    assert len(rows) == 40
    assert {Path(row["file_name"]).name: row["text"] for row in rows} == {
        Path(row["file_name"]).name: row.get("text") for row in expected
    }


def complete_partitions(bucket):
    return [name for name in bucket.names() if name.startswith("out/.captioning/done/")]


def test_caption_dataset_adds_captions_to_rows(cluster, model, photos, expected):
    import ray

    rows = ray.data.from_items(
        [{"path": str(path), "bytes": path.read_bytes()} for path in photos[4:8]]
    )
    captioned = captioning.caption_dataset(rows, model, workers=1, batch_size=2).take_all()
    by_path = {Path(row["path"]).name: row for row in captioned}
    assert len(captioned) == 4
    for row in expected[4:8]:
        found = by_path[Path(row["file_name"]).name]
        assert "bytes" not in found
        assert (found["text"], found["log_prob"]) == (row.get("text"), row.get("log_prob"))
        assert found["error"] == row.get("error")
        made_by = json.loads(found["captioner"])
        assert (made_by["model"], made_by["version"]) == ("Small", captioning.__version__)


def test_documented_program_reads_captions_and_writes(model, monkeypatch):
    import ray

    (block,) = [b for b in read_blocks("docs/caption-a-bucket.md") if b.language == "python"]
    rows = create_autospec(ray.data.Dataset, instance=True)
    monkeypatch.setattr(ray.data, "read_parquet", create_autospec(ray.data.read_parquet))
    ray.data.read_parquet.return_value = rows
    rows.map_batches.return_value = create_autospec(ray.data.Dataset, instance=True)
    monkeypatch.setattr(captioner_module, "DEFAULT_MODEL", model)
    exec(compile(block.code, block.place, "exec"), {})
    captioned = rows.map_batches.return_value
    captioned.write_parquet.assert_called_once_with("s3://bucket/captions")
    ray.data.read_parquet.assert_called_once_with("s3://bucket/photos")


def test_caption_dataset_refuses_fields_without_effect():
    config = captioning.ClusterConfig(skip_duplicates=True)
    with pytest.raises(captioning.ConfigError, match="does not use skip_duplicates"):
        captioning.caption_dataset(None, cluster=config)


def test_error_of_actor_ends_run_with_its_message(cluster, caption, photos, tmp_path, monkeypatch):
    real = cluster_run.write_plan

    def write_plan(folder, *args):
        plan = real(folder, *args)
        (Path(folder.url) / plan.inputs / "00000.jsonl").unlink()
        return plan

    monkeypatch.setattr(cluster_run, "write_plan", write_plan)
    ran = caption(photos[0], "-o", tmp_path / "out")
    assert ran.code == 1
    assert "/00000.jsonl' is missing. Use another -o" in ran.err
