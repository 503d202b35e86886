from pathlib import Path

import pytest
from captioning.bulk.writers.formats import open_writer

from captioning.bulk.writers.sidecars import SidecarNames
from captioning.errors import OutputError
from captioning.inference.results import Caption, CaptionResult


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "a.png", "A.gif", "b.jpg", "sub/b.jpg", "c.dat"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def named(folder, names, output=None, ending=".txt"):
    sidecars = SidecarNames(output, ending)
    paths = [sidecars.path_for(str(folder / name)) for name in names]
    return [str(path.relative_to(output or folder)) for path in paths]


def test_a_text_file_has_the_name_of_its_photo():
    assert SidecarNames(None, ".txt").path_for("x/a.jpg") == Path("x/a.txt")
    assert SidecarNames(None, ".txt").path_for("b.jpeg") == Path("b.txt")
    assert SidecarNames(Path("out"), ".caption").path_for("x/a.jpg") == Path("out/a.caption")


def test_photos_of_one_stem_do_not_share_a_text_file_whichever_are_captioned(folder):
    names = ["a.jpg", "a.png", "A.gif", "b.jpg"]
    expected = ["a.jpg.txt", "a.png.txt", "A.gif.txt", "b.txt"]  # where case does not count
    for order in (names, names[::-1]):
        assert dict(zip(order, named(folder, order), strict=True)) == dict(
            zip(names, expected, strict=True)
        )
    assert named(folder, ["a.png"]) == ["a.png.txt"]


def test_a_name_that_a_photo_has_of_right_is_not_given_to_another(folder):
    (folder / "a.jpg.gif").touch()
    found = named(folder, ["a.jpg.gif", "a.jpg", "a.png"])
    assert len(set(found)) == 3
    (folder / "c.jpg").touch()  # c.dat is no image by its name, but both may be named
    assert len(set(named(folder, ["c.dat", "c.jpg"]))) == 2


def test_photos_of_one_name_from_many_folders_do_not_share_a_text_file(folder):
    names = ["b.jpg", "sub/b.jpg", "b.jpg"]
    assert named(folder, names) == ["b.txt", "sub/b.txt", "b.txt"]
    assert named(folder, names, folder / "out") == ["b.txt", "b.jpg.txt", "b.txt"]
    assert named(folder, names, folder / "out", "") == ["b.jpg", "b-2.jpg", "b.jpg"]


def test_five_thousand_photos_of_one_name_are_told_apart():
    names = [f"{folder}/a.jpg" for folder in range(4000)] + [f"b{n}.jpg" for n in range(1000)]
    assert len(set(named(Path("x"), names, Path("out")))) == 5000


def test_a_folder_that_cannot_be_made_is_told(folder):
    with pytest.raises(OutputError, match="cannot be a folder for the captions"):
        open_writer("txt", folder / "a.jpg")


def test_a_name_as_long_as_names_can_be_is_written(tmp_path):
    photo = tmp_path / ("x" * 251 + ".jpg")
    with open_writer("txt", None) as writer:
        assert writer.wants(str(photo))
        caption = Caption("a dog", ("a", "dog"), -1.0, True, ())
        writer.write(CaptionResult(str(photo), (caption, caption)))
    assert photo.with_suffix(".txt").read_text() == "a dog\na dog\n"
    assert len(list(tmp_path.iterdir())) == 1
