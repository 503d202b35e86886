"""Finding images by name: order, what is skipped, and what ends as an error row."""

import http.server
import io
import os
import random
import socket
import tarfile
import threading

import fsspec
import pytest

from captioning.sources.find import SourceConfig, find_images, read_name_list
from captioning.sources.image_names import SkippedCounts

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
    assert skipped.files == 4  # notes.txt, .hidden.jpg, ._photo1.png, .cache


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
    (folder / "album.jpg").mkdir()
    assert names(paths([folder / "al*"]), folder) == ["album.jpg"]


def test_unmatched_pattern_yields_an_error(folder, memory):
    for pattern in (f"{folder}/*.nef", f"{folder}/s-*.tar", f"{memory}/*.nef"):
        (found,) = find_images([pattern])
        assert (found.name, found.error) == (
            pattern,
            f"no file matches '{pattern}'. Check the pattern.",
        )
    (listed,) = find_images([f"{folder}/*.nef"], SourceConfig(patterns=False))
    assert listed.error == ""


def test_skipped_folders_counts_enterable_subfolders(folder, memory, tmp_path):
    def count(name, **options):
        list(find_images([str(name)], SourceConfig(**options), skipped := SkippedCounts()))
        return skipped.folders

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


def test_folder_or_broken_link_with_image_name_is_yielded(folder):
    (folder / "album.jpg").mkdir()
    (folder / "album.jpg" / "inside.png").touch()
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    assert names(paths([folder]), folder)[:2] == ["album.jpg", "gone.jpg"]
    assert "album.jpg/inside.png" in names(paths([folder], DEEP), folder)


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
    assert "error after 1 image: a header states a member of 1,152,921,504,606" in bad.error


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
    assert "No such file" in found.error


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
    assert skipped.files == 2
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
    with pytest.raises(OSError, match=r"none\.jpg"):
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
        with pytest.raises(OSError, match=r"none\.jpg"):
            missing.content()
        server.shutdown()
