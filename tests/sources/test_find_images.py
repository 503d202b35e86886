"""Finding images by name: order, what is skipped, and what ends as an error row."""

import http.server
import io
import os
import random
import re
import shutil
import socket
import subprocess
import tarfile
import threading

import fsspec
import pytest
from drawn_images import draw

from captioning.errors import ConfigError
from captioning.file_patterns import expand_braces
from captioning.sources.find import SourceConfig, find_images, find_stream_images
from captioning.sources.given_names import read_name_list
from captioning.sources.skipped import SkippedCounts

DEEP = SourceConfig(recursive=True)


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
    """A stand-in for the result of os.scandir."""

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


def paths(names, config=None):
    return [image.name for image in find_images([str(name) for name in names], config)]


def names(found, folder):
    return [os.path.relpath(path, folder) for path in found]


# --- folders, files and patterns -----------------------------------------------------------------


def test_folder_yields_natural_order_and_counts_skipped(folder):
    skipped = SkippedCounts()
    found = [image.name for image in find_images([str(folder)], skipped=skipped)]
    assert names(found, folder) == ["photo1.png", "photo2.JPG", "photo10.jpg", "Äther.webp"]
    assert skipped.files == {".txt": 1, "hidden": 2}
    assert skipped.folders == {".cache": 1}


def test_recursive_enters_subfolders(folder):
    assert names(paths([folder], DEEP), folder)[4:] == [
        "deep/photo3.gif",
        "deep/deeper/photo4.tiff",
        "other/photo6.heic",
    ]


def test_names_keep_their_order_and_repeats(folder):
    last, first = folder / "photo10.jpg", folder / "photo1.png"
    found = paths([last, first, last, folder / "deep"])
    assert names(found, folder) == ["photo10.jpg", "photo1.png", "photo10.jpg", "deep/photo3.gif"]


def test_folder_order_is_independent_of_scandir(tmp_path, monkeypatch):
    made = ["a.jpg", "A.jpg", "b1.jpg", "B1.jpg", "b01.jpg", "b10.jpg", "b9.jpg", "٣.jpg"]
    for name in made:
        (tmp_path / name).touch()
    expected = paths([tmp_path])
    scan = os.scandir

    for seed in range(5):

        def shuffled(path, seed=seed):
            entries = list(scan(path))
            random.Random(seed).shuffle(entries)
            return Listing(entries)

        monkeypatch.setattr(os, "scandir", shuffled)
        assert paths([tmp_path]) == expected
    assert len(expected) == len(made)


def test_pattern_expands_unless_the_file_exists(folder):
    assert names(paths([folder / "photo1*"]), folder) == ["photo1.png", "photo10.jpg"]
    (folder / "photo[1].jpg").touch()
    assert names(paths([folder / "photo[1].jpg"]), folder) == ["photo[1].jpg"]
    listed = paths([folder / "photo*"], SourceConfig(patterns=False))
    assert names(listed, folder) == ["photo*"]
    assert "deep/deeper/photo4.tiff" in names(paths([folder / "**/*.tiff"]), folder)


@pytest.mark.parametrize("kind", ["pattern", "url"])
def test_pattern_without_extension_means_images_and_archives(kind, place, tmp_path):
    write_archive(tmp_path / "s.tar", {"1.jpg": b"x"})
    files = ["a.jpg", "a.txt", "b.PNG", "x.jpg/1.jpg", "@eaDir/1.jpg", "deep/1.jpg"]
    top = place("folder" if kind == "pattern" else kind, *files)
    if kind == "pattern":
        shutil.copy(tmp_path / "s.tar", top)
    else:
        fsspec.filesystem("memory").pipe("/share/s.tar", (tmp_path / "s.tar").read_bytes())
    found, skipped = find_below(f"{top}/*")
    assert found == ["1.jpg", "a.jpg", "b.PNG"]
    assert skipped.files == {".txt": 1}
    assert skipped.folders == {"@eaDir": 1}
    assert skipped.subfolders == 2
    assert find_below(f"{top}/*.txt")[0] == ["a.txt"]


def test_unmatched_pattern_yields_an_error(folder, memory):
    for pattern in (f"{folder}/*.nef", f"{folder}/s-*.tar", f"{memory}/*.nef"):
        (found,) = find_images([pattern])
        assert (found.name, found.error) == (
            pattern,
            f"no file matches '{pattern}'. Check the pattern.",
        )
    (listed,) = find_images([f"{folder}/*.nef"], SourceConfig(patterns=False))
    assert listed.error == ""


def test_subfolders_count_only_those_that_can_be_entered(folder, memory, tmp_path):
    def count(name, **options):
        list(find_images([str(name)], SourceConfig(**options), skipped := SkippedCounts()))
        return skipped.subfolders

    assert count(folder) == 2  # deep, other; not .cache
    assert count(folder, recursive=True) == 0
    assert count(folder / "deep" / "deeper") == 0
    assert (count(memory), count(f"{memory}/deep")) == (1, 0)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "away").symlink_to(folder / "deep")
    assert count(tmp_path / "links") == 0
    assert count(tmp_path / "links", follow_links=True) == 1


def test_named_file_is_yielded_whatever_its_extension(folder):
    named = [folder / "notes.txt", folder / ".hidden.jpg", "nowhere.jpg"]
    assert paths(named) == [str(name) for name in named]


def test_broken_link_with_image_name_is_yielded(folder):
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    assert names(paths([folder]), folder)[0] == "gone.jpg"


def test_folder_with_image_name_is_a_folder(folder):
    (folder / "album.jpg").mkdir()
    (folder / "album.jpg" / "inside.png").touch()
    skipped = SkippedCounts()
    found = [image.name for image in find_images([str(folder)], skipped=skipped)]
    assert "album.jpg" not in names(found, folder)
    assert skipped.subfolders == 3
    assert "album.jpg/inside.png" in names(paths([folder], DEEP), folder)
    assert names(paths([folder / "*.jpg"]), folder) == ["photo10.jpg"]
    assert names(paths([folder / "al*.jpg"]), folder) == ["album.jpg/inside.png"]


def test_unreadable_folder_yields_an_error(folder, monkeypatch):
    scan = os.scandir

    def closed(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    found = list(find_images([str(folder)], DEEP))
    (error,) = (image.error for image in found if image.error)
    assert error.startswith(f"cannot open folder '{folder / 'deep'}': Permission denied.")
    assert names([image.name for image in found], folder)[-1] == "other/photo6.heic"


def test_non_utf8_name_round_trips(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff\xfe.jpg")
    path.touch()
    assert [os.fsencode(each) for each in paths([tmp_path])] == [os.fsencode(path)]


def test_find_images_is_lazy(folder):
    def endless():
        while True:
            yield str(folder)

    found = find_images(endless())
    assert [next(found).name for _ in range(40)]


# --- system folders and exclusion ----------------------------------------------------------------

SYSTEM_FOLDERS = [
    *("@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", ".@__thumb"),
    *("$RECYCLE.BIN", "$Recycle.Bin", "RECYCLER", "System Volume Information", "lost+found"),
    *(".Trash-1000", ".Trashes", ".Spotlight-V100", ".fseventsd", ".AppleDouble", "__MACOSX"),
    *(".thumbnails", ".picasaoriginals", ".dtrash", "Holiday Previews.lrdata", "node_modules"),
    *(".stversions", ".dropbox.cache", ".git", "thumbs", "@Transcode", "Network Trash Folder"),
    *("appdata_oc1a2b", "files_trashbin", "_vti_cnf", "[Originals]"),
]
KINDS_OF_TOP = ["folder", "pattern", "archive", "url", "url pattern"]


@pytest.fixture
def place(request, tmp_path):
    """Return a function that puts files into a folder, an archive or a URL, and names it."""

    def put(kind, *files):
        if kind == "archive":
            write_archive(tmp_path / "s.tar", {f"./{file}": b"x" for file in files})
            return str(tmp_path / "s.tar")
        if kind.startswith("url"):
            system = fsspec.filesystem("memory")
            request.addfinalizer(lambda: system.rm("/share", recursive=True))
            for file in files:
                system.pipe(f"/share/{file}", b"x")
            return "memory://share" + ("/**/*.jpg" if "pattern" in kind else "")
        for file in files:
            (tmp_path / "share" / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "share" / file).touch()
        return f"{tmp_path}/share" + ("/**/*.jpg" if kind == "pattern" else "")

    return put


def find_below(name, *exclude):
    """Return the images as paths below what was named, and the counts."""
    skipped = SkippedCounts()
    found = list(find_images([name], SourceConfig(recursive=True, exclude=exclude), skipped))
    assert not any(image.error for image in found)
    top = re.compile(r"(.*?/)?(share/s\.tar|share|s\.tar)/(\./)?")
    return sorted(top.sub("", image.name) for image in found), skipped


@pytest.mark.parametrize("system_folder", SYSTEM_FOLDERS)
@pytest.mark.parametrize("kind", KINDS_OF_TOP)
def test_system_folder_is_skipped_and_counted(kind, system_folder, place):
    inside = [f"a/{system_folder}/1.jpg", f"a/{system_folder}/2.jpg/SYNOPHOTO_THUMB_M.jpg"]
    found, skipped = find_below(place(kind, "a/1.jpg", *inside))
    assert found == ["a/1.jpg"]
    if not (kind == "pattern" and system_folder.startswith(".")):  # glob does not list these
        assert skipped.folders == {system_folder: 1}


@pytest.mark.parametrize("kind", ["folder", "archive", "url"])
def test_photo_library_is_read_from_its_originals(kind, place):
    library = "Photos Library.photoslibrary"
    parts = ["originals/0/A.jpg", "resources/derivatives/A_1.jpg", "Thumbnails/A.jpg"]
    found, skipped = find_below(place(kind, *(f"{library}/{part}" for part in parts)))
    assert found == [f"{library}/originals/0/A.jpg"]
    assert skipped.folders == {"resources": 1, "Thumbnails": 1}


def test_system_folder_named_by_the_user_is_read(place):
    top = place("folder", "@eaDir/1.jpg", "@eaDir/@eaDir/2.jpg", ".git/3.jpg")
    assert names(paths([f"{top}/@eaDir", f"{top}/.git"], DEEP), top) == [
        "@eaDir/1.jpg",
        ".git/3.jpg",
    ]
    assert names(paths([f"{top}/@eaDir/*.jpg", f"{top}/.gi[t]/*"]), top) == ["@eaDir/1.jpg"]


TREE = ("a.jpg", "b.png", "raw/c.jpg", "2024/raw/d.jpg", "2024/party/e.jpg", "2024/#1/f.jpg")


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["*.png"], "a.jpg raw/c.jpg 2024/raw/d.jpg 2024/party/e.jpg 2024/#1/f.jpg"),
        (["raw/"], "a.jpg b.png 2024/party/e.jpg 2024/#1/f.jpg"),
        (["raw"], "a.jpg b.png 2024/party/e.jpg 2024/#1/f.jpg"),
        (["/raw"], "a.jpg b.png 2024/raw/d.jpg 2024/party/e.jpg 2024/#1/f.jpg"),
        (["2024/party"], "a.jpg b.png raw/c.jpg 2024/raw/d.jpg 2024/#1/f.jpg"),
        (["./2024"], "a.jpg b.png raw/c.jpg"),
        (["#1"], "a.jpg b.png raw/c.jpg 2024/raw/d.jpg 2024/party/e.jpg"),
        (["2024/**/[de].jpg"], "a.jpg b.png raw/c.jpg 2024/#1/f.jpg"),
        (["*.jpg", "!a.jpg"], "a.jpg b.png"),
        (["*"], ""),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "archive", "url"])
def test_exclude_leaves_out_what_matches(kind, patterns, left, place):
    found, skipped = find_below(place(kind, *TREE), *patterns)
    assert found == sorted(left.split())
    assert skipped.excluded[patterns[0]] >= 1


def test_exclude_takes_paths_as_the_user_names_them(place, monkeypatch, tmp_path):
    place("folder", *TREE)
    monkeypatch.chdir(tmp_path)
    for pattern in ("share/2024", "./share/2024/"):
        for top in ("share", "./share", "share/"):
            found, _ = find_below(top, pattern)
            assert found == ["a.jpg", "b.png", "raw/c.jpg"]
    assert find_below("share/**/*.jpg", "raw/")[0] == ["2024/#1/f.jpg", "2024/party/e.jpg", "a.jpg"]
    listed = SourceConfig(patterns=False, exclude=("raw/", "*.png"))
    assert paths([f"share/{file}" for file in TREE[:4]], listed) == ["share/a.jpg"]


def test_exclude_named_folder_needs_its_name(place, tmp_path):
    top = place("folder", *TREE)
    config = SourceConfig(recursive=True, exclude=("raw", tmp_path.name))
    assert len(paths([top], config)) == 4  # a folder above the named one does not count
    assert paths([f"{top}/raw"], config) == []


@pytest.mark.parametrize("pattern", ["", " ", "/", "!", "raw\\"])
def test_exclude_invalid_pattern_is_refused(pattern):
    with pytest.raises(ConfigError, match=r"--exclude.*such as '\*\.png'"):
        list(find_images(["a.jpg"], SourceConfig(exclude=(pattern,))))


def test_notices_list_the_most_frequent_first():
    skipped = SkippedCounts()
    files = ["IMG.CR2"] * 1100 + ["a.mov"] * 100 + [".x.jpg", "README", "a.b", "a.c", "Dr. A and B"]
    for file in [*files, ".p.jpg.icloud"]:
        skipped.count_file(file)
    for folder in ["@eaDir"] * 10 + ["new\nline"]:
        skipped.count_folder(folder)
    skipped.excluded.update({"*.png": 3, "raw/": 0, "!kept.png": 0})
    skipped.subfolders = 1
    skipped.count_without_images("empty.tar")
    assert list(skipped.notices()) == [
        "Skipped 1,206 files, hidden or not an image: 1,100 .cr2, 100 .mov, 2 without extension, "
        "1 hidden, 1 .b, 2 others.",
        "  A .cr2 file is a camera raw image. Export it as JPEG.",
        "  A .mov file is a video. Export a frame as an image.",
        "  A .icloud file is an iCloud placeholder or a property list, not an image. Download the "
        "image in Finder first.",
        "Skipped 11 system or hidden folders: 10 @eaDir, 1 new\\nline. To caption one, name it.",
        "Excluded files and folders: 3 '*.png'.",
        "Skipped 1 subfolder. Add --recursive to include it.",
        "No images found in empty.tar.",
        "Nothing matches --exclude 'raw/'.",
    ]
    assert "Nothing matches" not in "".join(skipped.notices(complete=False))


# --- links ---------------------------------------------------------------------------------------


def test_links_out_of_the_folder_need_follow_links(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for path in (inside, inside / "sub", outside):
        path.mkdir()
    for path in (inside / "a.jpg", outside / "b.jpg"):
        path.touch()
    (inside / "sub" / "to-a.jpg").symlink_to(inside / "a.jpg")
    (inside / "to-b.jpg").symlink_to(outside / "b.jpg")
    (inside / "to-out").symlink_to(outside)
    (inside / "round").symlink_to(inside)
    (inside / "sub" / "up").symlink_to("..")
    found = list(find_images([str(inside)], DEEP))
    assert names([each.name for each in found], inside) == ["a.jpg", "to-b.jpg", "sub/to-a.jpg"]
    assert [bool(each.error) for each in found] == [False, True, False]
    assert f"it is a link out of its folder, to '{outside / 'b.jpg'}'. Add -" in found[1].error
    followed = list(find_images([str(inside)], SourceConfig(True, follow_links=True)))
    assert names([each.name for each in followed], inside) == [
        *("a.jpg", "to-b.jpg", "sub/to-a.jpg", "to-out/b.jpg"),
    ]
    assert not any(each.error for each in followed)
    assert not next(iter(find_images([str(inside / "to-b.jpg")]))).error  # it was named itself


# --- lists ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a.jpg\nb c.jpg\n", ["a.jpg", "b c.jpg"]),
        (b"a.jpg\r\nb.jpg\r\n\r\nlast.jpg", ["a.jpg", "b.jpg", "last.jpg"]),
        (b"two\nlines.jpg\0b.jpg\0", ["two\nlines.jpg", "b.jpg"]),
        (b"\xff.jpg\n", [os.fsdecode(b"\xff.jpg")]),
        (b"", []),
        (b"\n\n", []),
        (b"\xef\xbb\xbfa.jpg\n", ["a.jpg"]),
    ],
)
def test_name_list_splits_at_newline_or_nul(content, expected):
    assert list(read_name_list(io.BytesIO(content))) == expected


@pytest.mark.parametrize("end", [b"\n", b"\0"])
def test_name_list_reads_in_bounded_chunks(end):
    listed = [f"{number:x}" * (number % 40 + 1) for number in range(20_000)]

    class Stream(io.BytesIO):
        largest = 0

        def read1(self, size=-1):
            self.largest = max(self.largest, size)
            return super().read(min(size, random.Random(self.tell()).randint(50, 5000)))

    stream = Stream(end.join(name.encode() for name in listed) + end)
    assert list(read_name_list(stream)) == listed
    assert 0 < stream.largest <= 1 << 16


def test_name_list_yields_while_being_written():
    reader, writer = os.pipe()
    with open(reader, "rb") as stream, open(writer, "wb", buffering=0) as producer:  # noqa: PTH123
        found = read_name_list(stream)
        for name in (b"a.jpg", b"b.jpg"):
            producer.write(name + b"\n")
            assert next(found) == name.decode()


def test_name_list_of_powershell_is_converted():
    for encoding in ("utf-16", "utf-16-be"):
        text = "\ufeff" * (encoding != "utf-16") + "Fotos\\ä.jpg\r\n🐕.jpg\r\n"
        stream = io.BytesIO(text.encode(encoding))
        stream.read1 = lambda _, stream=stream: stream.read(5)  # ends inside characters
        assert list(read_name_list(stream)) == ["Fotos\\ä.jpg", "🐕.jpg"]


def find_stdin(content):
    return list(find_stream_images(io.BytesIO(content), SourceConfig(), SkippedCounts()))


def draw_as(form):
    draw(1).save(buffer := io.BytesIO(), form)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        *map(
            draw_as, ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "ICO", "TGA"]
        ),
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
        b"<!DOCTYPE html><html>",
        b"\x1aE\xdf\xa3\x93B\x82\x88matroska",
    ],
)
def test_file_content_on_stdin_is_one_image(content):
    (image,) = find_stdin(content)
    assert image.content == content
    assert image.name != find_stdin(content + b"\n")[0].name  # a resumed run must notice
    assert image.name == find_stdin(content)[0].name


@pytest.mark.parametrize("first", ["BMW.jpg", "GIF8.gif", "ID3/a.jpg", "RIFF.webp", "P1 a.jpg"])
def test_list_on_stdin_may_start_like_a_file(first):
    for end in ("\n", "\0"):
        found = find_stdin(f"{first}{end}b.jpg{end}".encode())
        assert [image.name for image in found] == [first, "b.jpg"]


def test_file_content_on_stdin_has_a_limit(monkeypatch):
    monkeypatch.setattr("captioning.sources.find.MAX_IMAGE_BYTES", 10**5)
    (image,) = find_stdin(b"\xff\xd8\xff\xe0" + bytes(2 * 10**5))
    assert "it has more than 100,000 bytes, the limit for an image" in image.error


# --- names as users write them -------------------------------------------------------------------


@pytest.fixture
def odd_folder(tmp_path, monkeypatch):
    for name in ("my photo.jpg", "a#b?c.jpg", "photos [2024]/1.jpg", "photos 2/2.jpg", "[abc].jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PHOTOS", "photos [2024]")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("file://{}/my%20photo.jpg", "{}/my photo.jpg"),
        ("file://localhost{}/my%20photo.jpg", "{}/my photo.jpg"),
        ("FILE:{}/my%20photo.jpg", "{}/my photo.jpg"),
        ("file://{}/a%23b%3Fc.jpg", "{}/a#b?c.jpg"),
        ("file://{}/a#b?c.jpg", "{}/a#b?c.jpg"),
        ("file://{}/gone%20.jpg", "{}/gone .jpg"),
        ("file://{}/photos%20%5B2024%5D", "{}/photos [2024]/1.jpg"),
        ("photos [2024]\\1.jpg", "photos [2024]/1.jpg"),
        ("  my photo.jpg\t", "my photo.jpg"),
        ('"my photo.jpg"', "my photo.jpg"),
        ("~/my photo.jpg", "{}/my photo.jpg"),
        ("$PHOTOS/1.jpg", "photos [2024]/1.jpg"),
        ("./[abc].jpg", "./[abc].jpg"),
        ("photos [2024]", "photos [2024]/1.jpg"),
        (" https://h/a.jpg ", "https://h/a.jpg"),
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_name_means_the_file_that_exists(listed, given, found, odd_folder):
    given, found = given.format(odd_folder), found.format(odd_folder)
    assert paths([given], SourceConfig(patterns=not listed)) == [found]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("photos [2024]/*.jpg", ["photos [2024]/1.jpg"]),
        ("photos [2024]/[0-9].jpg", ["photos [2024]/1.jpg"]),
        ("photos [2]/*.jpg", ["photos 2/2.jpg"]),
        ("*[[]2024]/*.jpg", ["photos [2024]/1.jpg"]),
        ("photo? [2024]/?.jpg", ["photos 2/2.jpg"]),
        ("*os [2024]*", ["photos 2/2.jpg"]),
        ("*abc].jpg", ["[abc].jpg"]),
        ("~/photos 2/*", ["{}/photos 2/2.jpg"]),
        ("photos 2\\*.jpg", ["photos 2/2.jpg"]),
        ("file://{}/photos%202/*.jpg", ["{}/photos 2/2.jpg"]),
    ],
)
def test_brackets_of_existing_names_are_literal(pattern, found, odd_folder):
    expected = [each.format(odd_folder) for each in found]
    assert paths([pattern.format(odd_folder)]) == expected


def test_brackets_of_existing_urls_are_literal():
    system = fsspec.filesystem("memory")
    system.pipe("/photos [2024]/1.jpg", b"1")
    assert fetched(find_images(["memory://photos [2024]", "memory://photos [2024]/1.jpg"])) == [
        *(b"1", b"1")
    ]
    system.rm_file("/photos [2024]/1.jpg")


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "s-{000000..000011}.tar",
            "{a,b}.jpg",
            "{a,b}/{1..3}.jpg",
            "{8..11}",
            "{08..11}",
            "{3..1}",
        ),
        *(
            "{1..9..3}",
            "{a..c}",
            "{a,{b,c}}",
            "{a,b{1,2}}",
            "{a}.jpg",
            "{}",
            "{,a}b",
            "x{1..2}{a,b}",
        ),
        *("{-1..1}", "a{b", "{A..C}"),
    ],
)
def test_braces_expand_as_in_bash(pattern):
    quoted = f"printf '%s\\n' {pattern}"
    ran = subprocess.run(["bash", "-c", quoted], capture_output=True, text=True, check=True)
    assert list(expand_braces(pattern)) == ran.stdout.splitlines()


def test_brace_pattern_of_archives_and_urls_is_expanded(tmp_path, memory):
    for number in (0, 1, 3):
        write_archive(tmp_path / f"s-{number:03}.tar", {"1.jpg": b"x"})
    found = list(find_images([f"{tmp_path}/s-{{000..003}}.tar", f"{memory}/p{{9.png,10.jpg}}"]))
    assert [bool(each.error) for each in found] == [False, False, True, False, False, False]
    assert found[2].error == f"cannot read '{tmp_path}/s-002.tar': no such file. Check the path."
    (tmp_path / "{a,b}.jpg").touch()
    assert names(paths([tmp_path / "{a,b}.jpg"]), tmp_path) == ["{a,b}.jpg"]
    assert paths(["{a,b}.jpg"], SourceConfig(patterns=False)) == ["{a,b}.jpg"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "the path is empty"),
        ("  ", "the path is empty"),
        ('{"image": "a.jpg"}', "it is a line of JSON, not a path. Give one path per line"),
        ("a.jpg,a dog", "It looks like a line of a table"),
        ('"my/a.jpg";2', "It looks like a line of a table"),
        ("a.jpg\ta dog", "It looks like a line of a table"),
    ],
)
def test_name_that_is_no_path_yields_an_error(name, reason):
    (found,) = find_images([name])
    assert found.error.startswith(f"cannot read '{name}': ")
    assert reason in found.error


def test_named_inputs_without_images_are_counted(tmp_path, folder):
    write_archive(tmp_path / "text.tar", {"a.txt": b"x"})
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.tar").touch()
    given = [str(tmp_path / name) for name in ("text.tar", "empty", "empty.tar", "deep")]
    found = list(find_images(given, skipped=(skipped := SkippedCounts())))
    assert [*skipped.without_images] == given[:2]
    assert "empty.tar' as a tar archive: error at its start: empty file" in found[0].error


def test_listed_folder_with_image_name_is_counted(folder):
    (folder / "album.jpg").mkdir()
    (folder / "album.jpg" / "1.jpg").touch()
    listed = [f"{folder}/album.jpg", f"{folder}/album.jpg/1.jpg"]  # as `find -name '*.jpg'` does
    skipped = SkippedCounts()
    found = find_images(listed, SourceConfig(patterns=False), skipped)
    assert [image.name for image in found] == listed[1:]
    assert skipped.subfolders == 1


# --- archives ----------------------------------------------------------------------------------


def write_archive(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


MEMBERS = {"b/1.jpg": b"one", "b/1.json": b"{}", "2.png": b"two", ".3.jpg": b"no", "4.cls": b"4"}


@pytest.mark.parametrize(("ending", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tgz", "w:gz")])
def test_archive_yields_its_images_in_order(ending, mode, tmp_path):
    path = tmp_path / f"archive-000.{ending}"
    write_archive(path, MEMBERS, mode)
    found = list(find_images([str(path)]))
    assert [(each.name, each.content) for each in found] == [
        (f"{path}/b/1.jpg", b"one"),
        (f"{path}/2.png", b"two"),
    ]


@pytest.mark.parametrize("cut", [0, 100, 600, 1300])
def test_cut_archive_ends_with_an_error(cut, tmp_path):
    path = tmp_path / "archive.tar"
    write_archive(path, {f"{number}.jpg": b"x" * 900 for number in range(3)})
    path.write_bytes(path.read_bytes()[:cut])
    found = list(find_images([str(path)]))
    assert found[-1].error
    assert "as a tar archive" in found[-1].error or "ends inside it" in found[-1].error
    assert all(each.content == b"x" * 900 for each in found if not each.error)


@pytest.mark.parametrize("place", [0, 1536, 3072])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_archive_with_damaged_header_ends_with_an_error(place, damage, tmp_path):
    path = tmp_path / "archive.tar"
    write_archive(path, {f"{number}.jpg": b"x" * 900 for number in range(3)})
    content = path.read_bytes()
    assert content[place + 257 : place + 262] == b"ustar"
    changed = content[:place] + b"?" + content[place + 1 :]
    path.write_bytes(content[: place + 100] if damage == "cut" else changed)
    found = list(find_images([str(path)]))
    assert [bool(each.error) for each in found] == [False] * (place // 1536) + [True]
    assert "as a tar archive" in found[-1].error


def test_archive_with_huge_member_ends_with_an_error(tmp_path):
    write_archive(tmp_path / "s.tar", {"1.jpg": b"x", "2.jpg": b"y"})
    content = bytearray((tmp_path / "s.tar").read_bytes())
    info = tarfile.TarInfo("2.jpg")
    info.size = 2**60
    content[1024:1536] = info.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "s.tar").write_bytes(content)
    good, bad = find_images([str(tmp_path / "s.tar")])
    assert good.content == b"x"
    assert "error after 1 image: a member has a size of 1,152,921,504,606" in bad.error


def test_archive_links_and_repeated_names_are_yielded(tmp_path):
    path = tmp_path / "s.tar"
    write_archive(path, {"1.jpg": b"x"})
    with tarfile.open(path, "a") as archive:
        for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
            info = tarfile.TarInfo("link.jpg")
            info.type, info.linkname = kind, "1.jpg"
            archive.addfile(info)
    found = list(find_images([str(path)]))
    assert [each.name for each in found] == [
        f"{path}/1.jpg",
        f"{path}/link.jpg",
        f"{path}/link.jpg#2",
    ]
    assert all("it is a link to '1.jpg' inside the archive" in each.error for each in found[1:])


def test_missing_archive_yields_an_error(tmp_path):
    (found,) = find_images([str(tmp_path / "none.tar")])
    assert found.error == f"cannot read '{tmp_path}/none.tar': no such file. Check the path."


# --- remote files --------------------------------------------------------------------------------


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    for name in ("p10.jpg", "p9.png", "notes.txt", "deep/p1.gif", ".hidden.jpg"):
        system.pipe(f"/photos/{name}", name.encode())
    yield "memory://photos"
    system.rm("/photos", recursive=True)


def fetched(found):
    return [each.content() if callable(each.content) else each.content for each in found]


def test_remote_folder_behaves_like_a_local_one(memory):
    skipped = SkippedCounts()
    found = list(find_images([memory], skipped=skipped))
    assert [each.name for each in found] == ["memory:///photos/p9.png", "memory:///photos/p10.jpg"]
    assert fetched(found) == [b"p9.png", b"p10.jpg"]
    assert skipped.files == {".txt": 1, "hidden": 1}
    assert fetched(find_images([memory], DEEP))[2:] == [b"deep/p1.gif"]
    assert fetched(find_images(["memory://photos/p*.jpg"])) == [b"p10.jpg"]
    assert fetched(find_images(["memory://photos/notes.txt"])) == [b"notes.txt"]


def test_remote_archive_behaves_like_a_local_one(memory, tmp_path):
    write_archive(tmp_path / "s.tar", MEMBERS)
    fsspec.filesystem("memory").pipe("/photos/s.tar", (tmp_path / "s.tar").read_bytes())
    found = list(find_images(["memory://photos/s.tar"]))
    assert [each.name for each in found] == [
        "memory://photos/s.tar/b/1.jpg",
        "memory://photos/s.tar/2.png",
    ]
    assert fetched(found) == [b"one", b"two"]


def test_missing_remote_file_fails_when_fetched(memory):
    (found,) = find_images(["memory://photos/none.jpg"])
    with pytest.raises(OSError, match=r"no such file|404"):
        found.content()
    (unknown,) = find_images(["nonsense://photos/none.jpg"])
    assert "cannot open 'nonsense://photos/none.jpg'" in unknown.error


@pytest.mark.parametrize("url", ["ftp://127.0.0.1:1/x.jpg", "github://x", "zip://x::/none.zip"])
def test_unreachable_url_yields_an_error(url):
    (found,) = find_images([url])
    if not found.error:
        with pytest.raises(OSError, match=r"."):
            found.content()


def test_silent_server_ends_with_an_error():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        config = SourceConfig(time_limit=1.0)
        (found,) = find_images([f"http://127.0.0.1:{port}/s.tar"], config)
        assert "s.tar': no answer within 1 seconds" in found.error


def test_http_url_is_fetched(tmp_path, monkeypatch):
    (tmp_path / "a b.jpg").write_bytes(b"content" * 9999)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(tmp_path), **kwargs)

        def log_message(self, *_):
            pass

        def do_GET(self):
            if "pieces" not in self.path:
                super().do_GET()
                return
            self.send_response(200)  # of unknown length, piece by piece
            self.end_headers()
            for _ in range(99):
                self.wfile.write(b"content" * 101)
                self.wfile.flush()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}"
        assert fetched(find_images([f"{home}/a%20b.jpg"])) == [b"content" * 9999]
        assert fetched(find_images([f"{home}/pieces.jpg"])) == [b"content" * 9999]
        (missing,) = find_images([f"{home}/none.jpg"])
        with pytest.raises(OSError, match=r"no such file|404"):
            missing.content()
        server.shutdown()
