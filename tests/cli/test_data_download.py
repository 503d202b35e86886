"""``captioning data download`` from a local server: resumed, damaged and unsafe archives."""

import errno
import hashlib
import io
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import get_args, get_type_hints

import pytest

from captioning.cli import data_download
from captioning.cli.main import main
from captioning.datasets import FORMS, download, public_archives, read_captions, unpack
from captioning.datasets.public_archives import PUBLIC_DATA, PublicArchive, PublicData

TINY = Path(__file__).parents[2] / "data" / "tiny"
MEMBERS = sorted(path for path in TINY.rglob("*") if path.is_file())


def zip_bytes(members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return content.getvalue()


TINY_ZIP = zip_bytes(
    [(path.relative_to(TINY).as_posix(), path.read_bytes()) for path in MEMBERS]
    + [("./", b""), ("__MACOSX/images/._000001.png", b"metadata")]
)


def md5(content):
    return f"md5:{hashlib.md5(content).hexdigest()}"


class Server(ThreadingHTTPServer):
    """Serves byte ranges of one file, and keeps the requests.

    Attributes:
        content: The file.
        statuses: Statuses of the next responses; after these, 200 and 206.
        cut_after: Bytes after which the next responses end.
        ranges: Whether ranges are supported.
        pause: Seconds between pieces of 4 kB.
        requests: ``Range`` header of each request.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.statuses, self.cut_after = TINY_ZIP, [], []
        self.ranges, self.pause, self.requests = True, 0.0, []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, size = self.server, len(self.server.content)
        server.requests.append(self.headers.get("Range"))
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        start, end = 0, size
        if server.ranges and "Range" in self.headers:
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) + 1 if last else size
        self.send_response(206 if end - start < size else 200)
        if end - start < size:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        content = server.content[start:end]
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        content = content[: server.cut_after.pop(0) if server.cut_after else None]
        with suppress(ConnectionError):  # the client was killed
            for first in range(0, len(content), 4096):
                self.wfile.write(content[first : first + 4096])
                time.sleep(server.pause)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch):
    monkeypatch.setattr(download, "_WAITS", (0.0, 0.0))


def describe(url, **changes):
    settings = {
        "content": {"images": 48, "annotations/captions_train.json": 1},
        "size": len(TINY_ZIP),
        "checksum": md5(TINY_ZIP),
        **changes,
    }
    archive = PublicArchive(f"{url}/tiny.zip", **settings)
    return PublicData("Tiny", "No terms.", (archive,), "coco:{}")


@pytest.fixture
def fetch(server, monkeypatch, capsys, tmp_path):
    """Run the command for a description of the served archive; return exit code and output."""

    def run(*words, url=server.url, **changes):
        monkeypatch.setitem(PUBLIC_DATA, "coco", describe(url, **changes))
        with pytest.raises(SystemExit) as stop:
            main(["data", "download", "coco", "-o", str(tmp_path / "data"), "--yes", *words])
        return stop.value.code, *capsys.readouterr()

    return run


def read_files(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


EXPECTED = {path.relative_to(TINY).as_posix(): path.read_bytes() for path in MEMBERS}


@pytest.mark.parametrize("unknown", [{}, {"size": None}])
def test_download_unpacks_data_that_can_be_read(fetch, server, tmp_path, unknown):
    code, out, err = fetch(**unknown)
    assert (code, out) == (0, f"--data coco:{tmp_path}/data\n")
    assert "No terms." in err
    assert read_files(tmp_path / "data") == EXPECTED
    assert len(read_captions(out.split()[1], split="train").images) == 32
    server.requests.clear()
    assert fetch(**unknown)[:2] == (code, out)  # nothing is missing
    assert server.requests == []


def test_download_continues_after_lost_connections(fetch, server, tmp_path):
    server.cut_after = [10_000, 0, 5_000, 0, 1]
    assert fetch("--keep-archives")[0] == 0
    starts = [0, 10_000, 10_000, 15_000, 15_000, 15_001]
    ranges = [f"bytes={start}-" if start else None for start in starts]
    assert server.requests == ranges
    assert read_files(tmp_path / "data") == {**EXPECTED, "tiny.zip": TINY_ZIP}


def test_download_that_stays_cut_keeps_what_it_has(fetch, server, tmp_path):
    server.cut_after = [10_000] + [0] * 2
    code, _, err = fetch()
    assert code == 1
    assert "the connection ended before the end of the file" in err
    assert f"10,000 of {len(TINY_ZIP):,} bytes are kept. Run the same command again" in err
    server.requests.clear()
    assert fetch()[0] == 0
    assert server.requests == ["bytes=10000-"]
    assert read_files(tmp_path / "data") == EXPECTED


def test_download_without_ranges_starts_again(fetch, server, tmp_path):
    server.ranges, server.cut_after = False, [10_000]
    assert fetch()[0] == 0
    assert read_files(tmp_path / "data") == EXPECTED


def test_download_of_busy_server_is_tried_again(fetch, server):
    server.statuses = [503, 429]
    assert fetch()[0] == 0
    assert len(server.requests) == 3


@pytest.mark.parametrize("size", [len(TINY_ZIP), None])
def test_download_of_missing_file_is_not_tried_again(fetch, server, size):
    server.statuses = [404]
    code, _, err = fetch(size=size)
    assert code == 1
    assert "HTTP status 404 (Not Found). Try another --mirror." in err
    assert len(server.requests) == 1


def test_download_without_network_names_the_reason(fetch, server):
    server.server_close()
    code, _, err = fetch()
    assert code == 1
    assert "Connection refused. Check your network connection." in err


def test_download_with_wrong_checksum_is_deleted(fetch, server, tmp_path):
    server.content = bytes([TINY_ZIP[0] ^ 1]) + TINY_ZIP[1:]
    code, _, err = fetch()
    assert code == 1
    assert "'tiny.zip' is damaged: its MD5 sum is" in err
    assert read_files(tmp_path / "data") == {}


def test_download_of_archive_with_damaged_file_is_refused(fetch, server, tmp_path):
    position = TINY_ZIP.index(MEMBERS[0].read_bytes()) + 100
    changed = bytes([TINY_ZIP[position] ^ 1])
    server.content = TINY_ZIP[:position] + changed + TINY_ZIP[position + 1 :]
    code, _, err = fetch(checksum=md5(server.content))
    assert code == 1
    assert "Bad CRC-32" in err
    assert read_files(tmp_path / "data") == {}
    server.content = TINY_ZIP
    assert fetch()[0] == 0
    assert read_files(tmp_path / "data") == EXPECTED


def test_download_of_another_page_is_refused(fetch, server, tmp_path):
    server.content = b"<html>Please log in</html>"
    code, _, err = fetch()
    assert code == 1
    assert f"has 26 bytes, but {len(TINY_ZIP):,} were expected" in err
    assert read_files(tmp_path / "data") == {}


def test_download_from_mirror_uses_its_files(fetch, server):
    assert fetch("--mirror", f"{server.url}/", url="http://unreachable.invalid")[0] == 0


def test_download_without_space_does_not_start(fetch, server, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=2 * len(TINY_ZIP) - 1)
    monkeypatch.setattr(data_download.shutil, "disk_usage", lambda path: usage)
    code, _, err = fetch()
    assert code == 1
    assert f"about {2 * len(TINY_ZIP):,} bytes are needed" in err
    assert server.requests == []


def test_download_on_full_disk_continues_later(fetch, server, tmp_path, monkeypatch):
    real = Path.open

    def open_on_full_disk(path, mode="r", *arguments, **options):
        file = real(path, mode, *arguments, **options)
        if path.suffix == ".part" and mode == "ab":
            file.write(TINY_ZIP[:7000])
            file.close()
            raise OSError(errno.ENOSPC, "No space left on device")
        return file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_on_full_disk)
        code, _, err = fetch()
    assert code == 1
    assert "No space left on device. Make room" in err
    server.requests.clear()
    assert fetch()[0] == 0
    assert server.requests == ["bytes=7000-"]
    assert read_files(tmp_path / "data") == EXPECTED


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_download_after_kill_continues(fetch, server, tmp_path):
    server.pause = 0.01
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_data_download import *\n"
        "PUBLIC_DATA['coco'] = describe(sys.argv[2])\n"
        "main(['data', 'download', 'coco', '-o', sys.argv[3], '--yes'])"
    )
    part = tmp_path / "data" / "tiny.zip.part"
    words = [str(Path(__file__).parent), server.url, str(tmp_path / "data")]
    with subprocess.Popen([sys.executable, "-c", code, *words]) as process:
        while not (part.exists() and part.stat().st_size):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    server.pause = 0
    server.requests.clear()
    assert fetch()[0] == 0
    (start,) = server.requests
    assert start.startswith("bytes=")
    assert read_files(tmp_path / "data") == EXPECTED


def test_download_asks_first(server, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(PUBLIC_DATA, "coco", describe(server.url))
    for terminal, answer, code in ((False, "", 2), (True, "n\n", 1), (True, "y\n", 0)):
        stdin = io.StringIO(answer)
        stdin.isatty = lambda terminal=terminal: terminal
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(SystemExit) as stop:
            main(["data", "download", "coco", "-o", str(tmp_path / "data")])
        assert stop.value.code == code
        assert (tmp_path / "data").exists() == (code == 0)


# Unpacking


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt"])
def test_unpack_of_member_outside_the_folder_is_refused(tmp_path, name):
    (tmp_path / "a.zip").write_bytes(zip_bytes([("good.txt", b"1"), (name, b"2")]))
    (tmp_path / "folder").mkdir()
    with pytest.raises(unpack.DataError, match="not safe to unpack"):
        unpack.unpack(tmp_path / "a.zip", tmp_path / "folder")
    assert read_files(tmp_path) == {"a.zip": (tmp_path / "a.zip").read_bytes()}


def test_unpack_of_a_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    (tmp_path / "a.zip").write_bytes(zip_bytes([(link, b"/etc/passwd")]))
    with pytest.raises(unpack.DataError, match="is a link"):
        unpack.unpack(tmp_path / "a.zip", tmp_path)


def test_unpack_replaces_only_incomplete_files(tmp_path):
    (tmp_path / "a.zip").write_bytes(zip_bytes([("a.txt", b"new a"), ("b.txt", b"new b")]))
    (tmp_path / "a.txt").write_bytes(b"cut")
    (tmp_path / "b.txt").write_bytes(b"own b")
    unpack.unpack(tmp_path / "a.zip", tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == b"new a"
    assert (tmp_path / "b.txt").read_bytes() == b"own b"


# The table of the archives


@pytest.mark.parametrize("name", PUBLIC_DATA)
def test_public_data_has_usable_names_and_checksums(name):
    data = public_archives.PUBLIC_DATA[name]
    assert data.spec.format("a", "a").partition(":")[0] in FORMS
    for archive in data.archives:
        assert archive.name.endswith(".zip")
        algorithm, digest = archive.checksum.split(":")
        assert len(bytes.fromhex(digest)) == hashlib.new(algorithm).digest_size
    hints = get_type_hints(data_download.DataDownloadConfig)
    assert set(get_args(hints["name"])) == set(PUBLIC_DATA)
