"""One file per image: the name of each file, and its lines."""

from pathlib import Path

import pytest

from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.registry import open_writer
from captioning.bulk.writers.sidecars import OutputPaths
from captioning.errors import OutputError


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "a.png", "A.gif", "b.jpg", "sub/b.jpg", "c.dat"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def assigned(folder, names, output=None, suffix=".txt"):
    paths = OutputPaths(output, suffix)
    found = [paths.path_for(str(folder / name)) for name in names]
    return [str(path.relative_to(output or folder)) for path in found]


def test_output_path_has_the_stem_of_its_image():
    assert OutputPaths(None, ".txt").path_for("x/a.jpg") == Path("x/a.txt")
    assert OutputPaths(None, ".txt").path_for("b.jpeg") == Path("b.txt")
    assert OutputPaths(Path("out"), ".caption").path_for("x/a.jpg") == Path("out/a.caption")


def test_output_paths_of_equal_stems_differ_in_any_order(folder):
    names = ["a.jpg", "a.png", "A.gif", "b.jpg"]
    expected = ["a.jpg.txt", "a.png.txt", "A.gif.txt", "b.txt"]
    for order in (names, names[::-1]):
        found = dict(zip(order, assigned(folder, order), strict=True))
        assert found == dict(zip(names, expected, strict=True))
    assert assigned(folder, ["a.png"]) == ["a.png.txt"]


def test_output_paths_of_odd_names_differ(folder):
    (folder / "a.jpg.gif").touch()
    assert len(set(assigned(folder, ["a.jpg.gif", "a.jpg", "a.png"]))) == 3
    (folder / "c.jpg").touch()
    assert len(set(assigned(folder, ["c.dat", "c.jpg"]))) == 2


def test_output_paths_in_a_shared_folder_are_numbered(folder):
    names = ["b.jpg", "sub/b.jpg", "b.jpg"]
    assert assigned(folder, names) == ["b.txt", "sub/b.txt", "b.txt"]
    assert assigned(folder, names, folder / "out") == ["b.txt", "b.jpg.txt", "b.txt"]
    assert assigned(folder, names, folder / "out", "") == ["b.jpg", "b-2.jpg", "b.jpg"]
    many = [f"{number}/a.jpg" for number in range(4000)] + [f"b{n}.jpg" for n in range(1000)]
    assert len(set(assigned(Path("x"), many, Path("out")))) == 5000


def test_output_folder_that_cannot_be_created_is_refused(folder):
    with pytest.raises(OutputError, match="cannot create folder"):
        open_writer("txt", folder / "a.jpg")


@pytest.mark.parametrize("format_name", ["txt", "caption", "xmp"])
def test_caption_file_is_written_read_and_replaced(tmp_path, format_name):
    image = str(tmp_path / ("x" * 246 + ".jpg"))  # as long as file names can be
    with open_writer(format_name, None) as writer:
        assert not writer.has_caption(image)
        assert writer.read_captions(image) == []
        writer.write(CaptionRow(image, "x.jpg", error="an image that failed"))
        assert not writer.has_caption(image)
        for captions in (("a dog", "a cat"), ("a bird",)):
            writer.write(CaptionRow(image, "x.jpg", captions, (-1.0,) * len(captions)))
            assert writer.has_caption(image)
            assert writer.read_captions(image) == list(captions)
    assert [path.suffix for path in tmp_path.iterdir()] == [f".{format_name}"]


@pytest.mark.parametrize("content", [b"\0binary", b"x" * (1 << 20) + b"x"])
def test_caption_file_that_is_not_text_is_unchanged(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    with (
        open_writer("txt", None) as writer,
        pytest.raises(OutputError, match="not a text file"),
    ):
        writer.write(CaptionRow(str(tmp_path / "a.jpg"), "a.jpg", ("a dog",), (-1.0,)))
    assert (tmp_path / "a.txt").read_bytes() == content


def test_damaged_xmp_has_no_caption_and_is_unchanged(tmp_path):
    (tmp_path / "a.xmp").write_bytes(b"not xmp")
    image = str(tmp_path / "a.jpg")
    with open_writer("xmp", None) as writer:
        assert not writer.has_caption(image)
        for call in (
            lambda: writer.read_captions(image),
            lambda: writer.write(CaptionRow(image, "a.jpg", ("a dog",), (-1.0,))),
        ):
            with pytest.raises(OutputError, match="damaged"):
                call()
    assert (tmp_path / "a.xmp").read_bytes() == b"not xmp"
