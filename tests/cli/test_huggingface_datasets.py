"""Captioned folders are loaded by Hugging Face ``datasets``, in one process for all of them."""

import sys
from pathlib import Path

import pytest
from caption_runs import parse_rows, read_rows, run_command

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import check_datasets_versions

    return check_datasets_versions


@pytest.fixture
def folders(script, caption, tmp_path):
    """Captioned folders by what is in them; some are converted or merged, three have failures."""
    folders = script.caption_folders(tmp_path, caption)
    for kind in ("converted, --n 3", "merged, --n 3"):
        folder = folders[kind] = tmp_path / kind
        script.draw_images(folder)
        (folder / "broken.jpg").write_bytes(b"")
    convert_rows(folders["converted, --n 3"], caption)
    merge_parts(folders["merged, --n 3"], caption)
    return folders


def convert_rows(folder, caption):
    caption(folder, "-r", "-o", folder / "rows.jsonl", "--n", "3")
    assert run_command("convert", folder / "rows.jsonl", "-o", folder / "metadata.csv") == 0


def merge_parts(folder, caption):
    parts = [folder.parent / f"part-{number}.jsonl" for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        caption(folder, "-r", "-o", part, "--partition", f"{number}/2", "--n", "3")
    assert run_command("merge", *parts, "-o", folder / "metadata.parquet") == 0


def test_imagefolder_loads_images_with_captions(script, folders, caption, tmp_path):
    images = script.draw_images(tmp_path / "alone")
    ran = caption(*images.values(), "--format", "jsonl", "--n", "3")
    expected = dict(zip(images, parse_rows(ran.out), strict=True))  # by width of the image
    loaded = script.load_folders(sys.executable, folders.values(), tmp_path / "cache")
    for kind, rows in zip(folders, loaded, strict=True):
        assert isinstance(rows, list), f"{kind}: {rows}"
        assert sorted(row["image"] for row in rows) == sorted(expected), kind
        for row in rows:
            wanted = expected[row["image"]]
            captions = row.get("captions") or [row[name] for name in row if "text" in name]
            assert captions[0] == row["text"]
            assert isinstance(row["log_prob"], float)
            if "--n" in kind:
                assert captions == wanted["captions"], kind
    for kind in ("jsonl, failed image", "csv, failed image", "merged, --n 3"):
        (failed,) = folders[kind].glob("metadata.*.failed.jsonl")
        (row,) = read_rows(failed)
        assert row["file_name"] == "broken.jpg"
        assert "broken.jpg': file is empty" in row["error"]
        assert row["index"] == 6  # in natural order of the names
