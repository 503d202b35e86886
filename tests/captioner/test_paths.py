import os
import random
import sys

import pytest

from captioning.captioner.paths import find_pictures


@pytest.fixture
def folder(tmp_path):
    for name in [
        "photo10.jpg",
        "photo2.JPG",
        "photo1.png",
        "Äther.webp",
        "notes.txt",
        ".hidden.jpg",
        "._photo1.png",
        "deep/photo3.gif",
        "deep/deeper/photo4.tiff",
        ".cache/photo5.jpg",
        "other/photo6.heic",
    ]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


class Listing:
    """What os.scandir gives, in an order of our own."""

    def __init__(self, entries):
        self.entries = iter(entries)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.entries)


def names(found, folder):
    return [os.path.relpath(path, folder) for path in found.paths]


def test_folder_gives_its_pictures_as_people_count(folder):
    found = find_pictures([str(folder)])
    assert names(found, folder) == ["photo1.png", "photo2.JPG", "photo10.jpg", "Äther.webp"]
    assert found.skipped == 3


def test_folders_of_folders_are_entered_on_request(folder):
    found = find_pictures([str(folder)], recursive=True)
    assert names(found, folder)[4:] == [
        "deep/photo3.gif",
        "deep/deeper/photo4.tiff",
        "other/photo6.heic",
    ]


def test_order_is_that_of_the_arguments_and_nothing_comes_twice(folder):
    last, first = str(folder / "photo10.jpg"), str(folder / "photo1.png")
    found = find_pictures([last, first, last, str(folder)])
    assert names(found, folder) == ["photo10.jpg", "photo1.png", "photo2.JPG", "Äther.webp"]


def test_order_does_not_depend_on_the_disk(tmp_path, monkeypatch):
    made = ["a.jpg", "A.jpg", "b1.jpg", "B1.jpg", "b01.jpg", "b10.jpg", "b9.jpg", "٣.jpg"]
    for name in made:
        (tmp_path / name).touch()
    expected = find_pictures([str(tmp_path)]).paths
    scan = os.scandir

    for seed in range(5):

        def shuffled(path, seed=seed):
            entries = list(scan(path))
            random.Random(seed).shuffle(entries)
            return Listing(entries)

        monkeypatch.setattr(os, "scandir", shuffled)
        assert find_pictures([str(tmp_path)]).paths == expected
    assert len(expected) == len(made)


def test_pattern_is_filled_in_and_a_name_with_brackets_is_taken_as_it_is(folder):
    found = find_pictures([str(folder / "photo1*")])
    assert names(found, folder) == ["photo1.png", "photo10.jpg"]
    (folder / "photo[1].jpg").touch()
    assert names(find_pictures([str(folder / "photo[1].jpg")]), folder) == ["photo[1].jpg"]
    listed = find_pictures([str(folder / "photo*")], patterns=False)
    assert names(listed, folder) == ["photo*"]
    assert "deep/deeper/photo4.tiff" in names(find_pictures([str(folder / "**/*.tiff")]), folder)


def test_file_that_is_named_is_always_tried(folder):
    found = find_pictures([str(folder / "notes.txt"), str(folder / ".hidden.jpg"), "nowhere.jpg"])
    assert len(found.paths) == 3
    assert found.skipped == 0


def test_what_looks_like_a_picture_gets_a_result(folder):
    (folder / "folder.jpg").mkdir()
    (folder / "folder.jpg" / "inside.png").touch()
    (folder / "dangling.jpg").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.jpg")
    flat = names(find_pictures([str(folder)]), folder)
    assert {"folder.jpg", "dangling.jpg", "pipe.jpg"} < set(flat)
    deep = names(find_pictures([str(folder)], recursive=True), folder)
    assert {"folder.jpg", "folder.jpg/inside.png"} < set(deep)


def test_links_cannot_lead_out_or_round_in_circles(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "private.jpg").touch()
    (folder / "round").symlink_to(folder)
    (folder / "out").symlink_to(outside)
    (folder / "file.jpg").symlink_to(outside / "private.jpg")
    found = names(find_pictures([str(folder)], recursive=True), folder)
    assert len(found) == 8
    assert "file.jpg" in found
    named = find_pictures([str(folder / "out")])
    assert named.paths == (str(folder / "out" / "private.jpg"),)


def test_folder_that_may_not_be_opened_gets_a_result(folder, monkeypatch):
    closed = str(folder / "deep")
    scan = os.scandir

    def guarded(path):
        if str(path) == closed:
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert closed in find_pictures([str(folder)], recursive=True).paths


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux")
def test_names_of_any_bytes_survive(tmp_path):
    odd = [b"new\nline.jpg", b"\xff\xfe.jpg", b" blank .jpg", b"-o.jpg", b"'\"$(x).jpg"]
    for name in odd:
        open(os.path.join(os.fsencode(tmp_path), name), "wb").close()  # noqa: PTH118, PTH123
    found = find_pictures([str(tmp_path)]).paths
    assert {os.path.basename(os.fsencode(path)) for path in found} == set(odd)  # noqa: PTH119
