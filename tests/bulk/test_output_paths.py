"""The file of each image: derived from the path of the image, whatever else is named."""

import os
from itertools import permutations
from pathlib import Path

import pytest

from captioning.bulk.writers.output_paths import OutputPaths


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with some images."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names):
    for name in map(Path, names):
        name.parent.mkdir(parents=True, exist_ok=True)
        name.touch()


def paths_of(images, output=None, suffix=".txt"):
    paths = OutputPaths(output, suffix)
    return [str(paths.path_for(image)) for image in images]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("DCIM/1/a.jpg", "caps/DCIM/1/a.txt"),
        ("./DCIM//1/../1/a.jpg", "caps/DCIM/1/a.txt"),
        ("{}/DCIM/1/a.jpg", "caps/DCIM/1/a.txt"),
        ("linked folder/a.jpg", "caps/DCIM/1/a.txt"),
        ("b.jpg", "caps/b.txt"),
        ("../x/a.jpg", "caps/x/a.jpg.txt"),
        ("../DCIM/1/a.jpg", "caps/_parent/DCIM/1/a.jpg.txt"),
        ("../../above.jpg", "caps/_parent/_parent/above.jpg.txt"),
        ("caps/x/c.jpg", "caps/x/c.txt"),
        ("a.tar/DCIM/1/a.jpg", "caps/a.tar/DCIM/1/a.jpg.txt"),
        ("a.tar/./b.jpg", "caps/a.tar/b.jpg.txt"),
        ("{}/a.tar/b.jpg#2", "caps/a.tar/b.jpg#2.txt"),
        ("https://h/p/a.jpg?x=1", "caps/https/h/p/a.jpg?x=1.txt"),
        ("https://h/../../a.jpg", "caps/https/h/_parent/_parent/a.jpg.txt"),
        ("s3://bucket/a.tar/b.jpg", "caps/s3/bucket/a.tar/b.jpg.txt"),
    ],
)
def test_output_folder_keeps_the_path_of_an_image(folder, image, expected):
    touch("DCIM/1/a.jpg", "b.jpg", "caps/x/c.jpg", "a.tar")
    Path("linked folder").symlink_to("DCIM/1")
    image = image.format(folder)
    assert paths_of([image], Path("caps")) == [expected]
    Path("link").symlink_to("caps")
    assert paths_of([image], Path("link")) == [expected.replace("caps", "link", 1)]
    assert paths_of([image], folder / "caps") == [str(folder / expected)]


def test_output_is_independent_of_order_and_working_directory(folder, monkeypatch):
    images = [f"{folder}/{name}" for name in ("a/x/1.jpg", "b/x/1.jpg", "b/x/1.png", "1.jpg")]
    touch(*images)
    expected = dict(zip(images, paths_of(images, folder / "caps"), strict=True))
    assert len(set(expected.values())) == 4
    monkeypatch.chdir("/")
    for order in permutations(images):
        assert paths_of(order, folder / "caps") == [expected[image] for image in order]
    assert paths_of(images[:1], folder / "caps") == [expected[images[0]]]


def test_output_keeps_the_path_from_the_closest_common_folder(folder):
    touch("DCIM/a.jpg", "out/photos/b.jpg")
    images = ["DCIM/a.jpg", "out/photos/b.jpg"]
    assert paths_of(images, Path("out/x/caps")) == [
        "out/x/caps/DCIM/a.txt",
        "out/x/caps/photos/b.txt",
    ]
    touch("out/DCIM/c.jpg")
    images.append("out/DCIM/c.jpg")
    assert paths_of(images, Path("out/caps")) == [
        f"out/caps/{name}" for name in ("_parent/DCIM/a.txt", "photos/b.txt", "DCIM/c.txt")
    ]


def test_copies_keep_the_names_of_images(folder):
    touch("a/1.jpg", "b/1.jpg", "b/1.png")
    images = ["a/1.jpg", "b/1.jpg", "b/1.png"]
    assert paths_of(images, Path("caps"), "") == ["caps/a/1.jpg", "caps/b/1.jpg", "caps/b/1.png"]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (["a.jpg", "b.JPEG"], ["a.txt", "b.txt"]),
        (["a.jpg", "a.png", "A.gif"], ["a.jpg.txt", "a.png.txt", "A.gif.txt"]),
        (["a.jpg", "a.jpg.png"], ["a.txt", "a.jpg.png.txt"]),
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg.txt", "a.png.txt", "a.jpg.png.txt"]),
        (["a.dat", "a.jpg"], ["a.dat.txt", "a.txt"]),
        (["a", "a.jpg"], ["a-ca978112ca1b.txt", "a.txt"]),
        (["a.txt", "a.jpg"], ["a.txt.txt", "a.txt"]),
        (["a.jpg", "a.JPG"], ["a.jpg-", "a.JPG-"]),
    ],
)
def test_images_with_one_stem_have_different_files(folder, images, expected):
    touch(*images)
    for image, name in zip(images, expected, strict=True):
        (found,) = paths_of([image])
        assert found.startswith(name)
    assert len({path.casefold() for path in paths_of(images)}) == len(images)


@pytest.mark.parametrize("output", [None, "caps"])
@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        (["a.xmp"], "a.xmp"),
        (["a.jpg.xmp"], "a.jpg.xmp"),
        (["a.xmp", "a.jpg.xmp"], "a.jpg.xmp"),
        (["A.XMP"], "A.XMP"),
        (["a.JPG.XMP", "a.xmp"], "a.JPG.XMP"),
        (["a.XMP", "a.xmp"], "a.xmp"),
        (["a.png.xmp", "b.xmp", "a.jpg.txt", "aa.xmp"], "a.xmp"),
    ],
)
def test_existing_file_of_an_image_is_found(folder, output, existing, expected):
    place = folder / (output or "")
    touch("a.jpg", *(place / name for name in existing))
    assert paths_of(["a.jpg"], output and place, ".xmp") == [
        str(place / expected) if output else expected
    ]


def test_xmp_of_a_camera_raw_image_is_not_that_of_a_jpeg(folder):
    touch("a.jpg", "a.CR2", "a.xmp")
    assert paths_of(["a.jpg", "a.CR2"], suffix=".xmp") == ["a.jpg.xmp", "a.xmp"]
    assert paths_of(["a.jpg"]) == ["a.txt"]


@pytest.mark.parametrize("suffix", [".txt", ".caption", ""])
def test_long_names_are_shortened_and_differ(folder, suffix):
    names = [f"{'ü' * 122}{end}.jpg" for end in ("xxxxxxx", "xxxxxxy")]
    touch(*names)
    urls = [f"https://h/{name}?{'&key=' * 60}{number}" for name in names for number in range(2)]
    found = paths_of(names + urls, Path("caps"), suffix)
    assert len(set(found)) == 6
    for path in found:
        assert len(os.fsencode(Path(path).name)) <= 255
        touch(path)
    assert paths_of(names + urls, Path("caps"), suffix) == found


def test_folders_in_any_order_are_listed_once(tmp_path, monkeypatch):
    listed, real = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or real(path))
    for number in range(20):
        (tmp_path / str(number)).mkdir()
    paths = OutputPaths(None, ".txt")
    for image in range(10):
        for number in range(20):
            paths.path_for(str(tmp_path / str(number) / f"{image}.jpg"))
    assert len(listed) == 2 * 20  # for images, and for their files
