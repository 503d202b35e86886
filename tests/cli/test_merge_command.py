"""``captioning merge``: partitions of a run become one output."""

import os
from pathlib import Path

import pytest
from caption_runs import read_rows, run_command
from small_captioner import write_photos

from captioning.bulk.journal import Journal, journal_path, read_metadata


@pytest.fixture
def partitions(caption, photos, tmp_path):
    """Caption the folder of the images in partitions; return their outputs."""

    def run(count, *words, folder=tmp_path, suffix=".jsonl", codes=(0,)):
        paths = [folder / f"part-{number}{suffix}" for number in range(1, count + 1)]
        for number, path in enumerate(paths, 1):
            inputs = words or (photos[0].parent,)
            ran = caption(*inputs, "--partition", f"{number}/{count}", "-o", path)
            assert ran.code in codes
        return paths

    return run


def test_merged_partitions_equal_one_run(caption, partitions, photos, tmp_path, capsys):
    images = write_photos(photos[0].parent, 8)
    for number in (1, 2, 7):
        images[number].write_bytes(b"")
    assert caption(photos[0].parent, "-o", tmp_path / "whole.jsonl").code == 1
    partitions(3, codes=(0, 1))
    paths = list(tmp_path.glob("part-*.jsonl"))  # with the lists of failed images, as in a shell
    for suffix in ("jsonl", "csv"):
        assert run_command("merge", *paths[::-1], "-o", tmp_path / f"all.{suffix}") == 0
    err = capsys.readouterr().err
    assert "Merged 3 partitions: 8 rows." in err
    assert "all.csv.failed.jsonl lists 3 failed images." in err
    for suffix in (".jsonl", ".jsonl.failed.jsonl"):
        whole = (tmp_path / f"whole{suffix}").read_bytes()
        assert (tmp_path / f"all{suffix}").read_bytes() == whole
    assert run_command("merge", *paths, "--overwrite") == 0
    assert "--overwrite has no effect on standard output." in capsys.readouterr().err
    (tmp_path / "part-3.jsonl.failed.jsonl").unlink()
    assert run_command("merge", *paths, "-o", tmp_path / "new.jsonl") == 1
    assert "part-3.jsonl' has 1 row, but its run had 2 images. Copy" in capsys.readouterr().err


def test_partition_without_images_is_complete(caption, partitions, photos, tmp_path):
    paths = partitions(3, photos[0])
    assert run_command("merge", *paths, "-o", tmp_path / "all.jsonl") == 0
    assert len(read_rows(tmp_path / "all.jsonl")) == 1
    (tmp_path / "empty").mkdir()
    empty = caption(tmp_path / "empty", "--partition", "2/3", "-o", tmp_path / "x.jsonl")
    assert empty.code == 2
    assert "no images found in" in empty.err


def test_merge_incomplete_set_of_partitions_is_refused(caption, photos, tmp_path, capsys):
    def merge(*names):
        words = [name if name.startswith("-") else tmp_path / name for name in names]
        assert run_command("merge", *words)
        return capsys.readouterr().err

    for number in (1, 2):
        caption(*photos, "-o", tmp_path / f"{number}.jsonl", "--partition", f"{number}/2")
    caption(*photos, "-o", tmp_path / "other.jsonl", "--partition", "2/2", "--width", "1")
    caption(*photos[:2], "-o", tmp_path / "fewer.jsonl", "--partition", "2/2")
    caption(*photos, "-o", tmp_path / "whole.jsonl")
    assert "no partitions given" in merge()
    assert "partition 2/2 is missing. Pass all 2 files." in merge("1.jsonl")
    assert "3.jsonl': no such file. Check the path." in merge("1.jsonl", "3.jsonl")
    assert "are both partition 1/2" in merge("1.jsonl", "1.jsonl")
    assert "different models, settings or inputs" in merge("1.jsonl", "other.jsonl")
    assert "different models, settings or inputs" in merge("1.jsonl", "fewer.jsonl")
    assert "whole.jsonl' is not a partition" in merge("1.jsonl", "whole.jsonl")
    assert "exists. Use --overwrite" in merge("1.jsonl", "2.jsonl", "-o", "whole.jsonl")
    assert "is also an input" in merge("1.jsonl", "2.jsonl", "-o", "1.jsonl", "--overwrite")
    photo = os.path.relpath(photos[0], tmp_path)
    assert "is an image or another" in merge("1.jsonl", "2.jsonl", "-o", photo, "--overwrite")
    assert "ends in .jsonl, .csv" in merge("1.jsonl", "2.jsonl", "-o", "page.html")
    assert not (tmp_path / "page.html").exists()
    content = (tmp_path / "1.jsonl").read_text()
    (tmp_path / "1.jsonl").write_text(content.splitlines()[0] + "\n")
    assert "1.jsonl' has 1 row, but its run had 2 images. Copy" in merge("1.jsonl", "2.jsonl")
    journal_file = tmp_path / ".1.jsonl.journal"
    journal = Journal(journal_file, read_metadata(journal_file)["settings"])
    journal.set_metadata(finished=None)
    journal.close()
    assert "1.jsonl' is not complete" in merge("1.jsonl", "2.jsonl")


def test_merge_of_damaged_partition_leaves_no_output(partitions, tmp_path):
    paths = partitions(2)
    with paths[1].open("a") as file:
        file.write("broken\n")
    assert run_command("merge", *paths, "-o", tmp_path / "all.jsonl") == 1
    assert not (tmp_path / "all.jsonl").exists()
    for older in (False, True):
        if older:
            (tmp_path / "all.csv").write_text("an older merge\n")
        assert run_command("merge", *paths, "-o", tmp_path / "all.csv", "--overwrite")
        assert [path.name for path in tmp_path.glob("all*")] == ["all.csv"] * older
    assert (tmp_path / "all.csv").read_text() == "an older merge\n"


@pytest.mark.parametrize("suffix", [".csv", ".json", ".html"])
def test_merge_of_other_formats_is_refused(suffix, partitions, tmp_path, capsys):
    paths = partitions(2, suffix=suffix)
    assert run_command("merge", *paths, "-o", tmp_path / "all.csv") == 2
    assert f"part-1{suffix}' does not hold JSON lines. Run" in capsys.readouterr().err
    assert not [*tmp_path.glob("all*")]


def merge_and_list_files(paths, output):
    assert run_command("merge", *paths, "-o", output) == 0
    return [row["file_name"] for row in read_rows(output)]


def test_merge_from_another_folder_finds_the_images(partitions, photos, tmp_path, monkeypatch):
    write_photos(photos[0].parent, 3)
    monkeypatch.chdir(photos[0].parent.parent)
    (tmp_path / "parts").mkdir()
    paths = partitions(2, photos[0].parent.name, folder=tmp_path / "parts")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    names = merge_and_list_files(paths, Path("all.jsonl"))
    assert len(names) == len(list(photos[0].parent.iterdir())) > 2
    assert all(Path(name).is_file() for name in names)


def test_merge_of_moved_partitions_finds_absolute_paths(partitions, photos, tmp_path):
    home = tmp_path / "collected" / "from machines"
    home.mkdir(parents=True)
    for part in partitions(2):
        for path in (part, journal_path(part)):
            path.rename(home / path.name)
    names = merge_and_list_files(sorted(home.glob("*.jsonl")), home / "all.jsonl")
    assert len(names) == len(photos)
    assert all((home / name).is_file() for name in names)


def test_merge_follows_links_to_partitions(partitions, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos[0].parent.parent)
    (tmp_path / "links").mkdir()
    links = []
    for part in partitions(2, photos[0].parent.name):
        links.append(tmp_path / "links" / part.name)
        links[-1].symlink_to(part)
    names = merge_and_list_files(links, tmp_path / "all.jsonl")
    assert len(names) == len(photos)
    assert all((tmp_path / name).is_file() for name in names)
