"""URLs that cannot be read: each reason is named, and a busy server is asked again."""

import http.server
import io
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import threading
import time
from email.utils import formatdate

import pytest
from drawn_images import draw
from fsspec.registry import _registry
from required_tools import require_tool

from captioning.images.loader import ImageLoader
from captioning.images.preprocessing import Preprocessing
from captioning.sources import http_files, urls
from captioning.sources.find import SourceConfig, find_images

PREPROCESSING = Preprocessing(size=8, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
BUFFER = io.BytesIO()
draw(1).save(BUFFER, "PNG")
PNG = BUFFER.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the path says: ``/429,0;200.jpg`` is 429 with Retry-After 0, then 200."""

    requests: dict[str, int]
    content = PNG

    def do_GET(self):
        number = self.requests[self.path] = self.requests.get(self.path, 0) + 1
        answers = self.path.rpartition("/")[2].rpartition(".")[0].split(";")
        answer, _, wait = answers[min(number, len(answers)) - 1].partition(",")
        if hasattr(self, f"send_{answer}"):
            getattr(self, f"send_{answer}")()
            return
        body = self.content if answer == "200" else b""
        self.send_response(int(answer))
        if wait:
            self.send_header("Retry-After", formatdate(time.time() - 9) if wait == "past" else wait)
        if answer.startswith("30"):
            self.send_header("Location", self.path)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_page(self):
        self._send(b"<!DOCTYPE html><html><body>Please log in</body></html>")

    def send_empty(self):
        self._send(b"")

    def send_cut(self):
        self._send(PNG[:50], len(PNG))

    def send_noise(self):
        self.wfile.write(b"SSH-2.0-OpenSSH_9.9\r\n")

    def send_nothing(self):
        self.close_connection = True

    def send_late(self):
        self.server.closing.wait(20)

    def _send(self, body, length=None):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("OwnHandler", (Handler,), {"requests": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        running.closing = threading.Event()
        running.home = f"http://127.0.0.1:{running.server_port}"
        running.asked = handler.requests
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.closing.set()
        running.shutdown()


def read(url, time_limit=20.0):
    """Return the error of one URL, as a run shows it; empty if the image is read."""
    found = find_images([url], SourceConfig(time_limit=time_limit))
    loader = ImageLoader(PREPROCESSING, workers=0, time_limit=time_limit)
    (batch,) = loader.batches(found)
    (error,) = batch.errors
    return error


@pytest.mark.parametrize(
    ("path", "reason", "advice"),
    [
        ("401.jpg", r"HTTP status 401 \(Unauthorized\)", "in a browser"),
        ("403.jpg", r"HTTP status 403 \(Forbidden\)", "in a browser"),
        ("404.jpg", r"HTTP status 404 \(Not Found\)", "Check the URL"),
        ("410.jpg", r"HTTP status 410 \(Gone\)", "was removed"),
        ("429,0.jpg", r"HTTP status 429 \(Too Many Requests\)", "later. --workers 1 sends fewer"),
        ("500.jpg", r"HTTP status 500 \(Internal Server Error\)", "later"),
        ("503,0.jpg", r"HTTP status 503 \(Service Unavailable\)", "later"),
        ("599.jpg", r"HTTP status 599 \(unknown\)", "later"),
        ("302.jpg", "redirects in a circle", "Check the URL"),
        ("page.jpg", r"a web page \(HTML\)", "the URL of the image itself"),
        ("empty.jpg", r"file is empty \(0 bytes\)", "Check the URL"),
        ("cut.jpg", "connection ended before the end of the file", "later"),
        ("noise.jpg", "does not answer in HTTP", "Check the URL"),
        ("nothing.jpg", "closed the connection", "later"),
        ("404.tar", r"HTTP status 404 \(Not Found\)", "Check the URL"),
        ("cut.tar", "connection ended before the end of the file", "later"),
    ],
)
def test_http_failure_names_its_reason(path, reason, advice, server):
    url = f"{server.home}/{path}"
    assert re.fullmatch(rf"cannot (fetch|read) '{url}.*{reason}.*\. .*({advice}).*\.", read(url))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1/a.jpg", "127.0.0.1:1 refuses the connection. Check host and port"),
        ("http://localhost:1/a.jpg", "localhost:1 refuses the connection. Check host and port"),
        ("http://no.such.invalid/a.jpg", "unknown host 'no.such.invalid'"),
        ("http://127.0.0.1:99999/a.jpg", "the URL is not valid (Port out of range 0-65535). Check"),
        ("http:///a.jpg", "the URL is not valid"),
        ("htp://host/a.jpg", "unknown protocol 'htp'. Did you mean 'http'?"),
        ("memory://none.jpg", "no such file. Check the URL."),
        ("nonsense://host/a.jpg", "unknown protocol 'nonsense'. Check the URL."),
    ],
)
def test_unreachable_url_names_its_reason(url, reason):
    error = read(url)
    assert error.startswith("cannot ")
    assert f"'{url}': {reason}" in error or f"{reason}" in error


def test_missing_package_of_a_protocol_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)  # other tests have used it
    error = read("s3://bucket/a.jpg")
    assert error.startswith("cannot open 's3://bucket/a.jpg': Install s3fs")


def test_https_url_of_a_plain_server_is_named(server):
    place = f"127.0.0.1:{server.server_port}"
    assert f"no secure connection to {place} ([SSL: WRONG" in read(f"https://{place}/a.jpg")


@require_tool("openssl", bool(shutil.which("openssl")))
def test_untrusted_certificate_is_named(server, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = f"-nodes -days 2 -subj /CN=localhost -keyout {key} -out {certificate}"
    command = f"openssl req -x509 -newkey rsa:2048 {options}"
    subprocess.run(command.split(), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    error = read(f"https://localhost:{server.server_port}/200.jpg")
    assert "certificate verify failed: self-signed certificate). Check host, port" in error


def test_image_beyond_the_size_limit_is_named(server, monkeypatch):
    monkeypatch.setattr(urls, "MAX_IMAGE_BYTES", 100)
    error = read(f"{server.home}/200.jpg")
    assert error.endswith("it has more than 100 bytes, the limit for an image. Shrink it.")


def test_silent_server_is_a_time_out(server):
    error = read(f"{server.home}/late.jpg", time_limit=0.5)
    assert error.endswith("no answer within 0.5 seconds. Try again, or raise the time limit.")


@pytest.mark.parametrize("path", ["429,0;200.jpg", "503,past;502,0;504,0;200.jpg"])
def test_busy_server_is_asked_again(path, server):
    assert read(f"{server.home}/{path}") == ""
    assert server.asked == {f"/{path}": path.count(";") + 1}


def test_busy_server_is_asked_again_for_an_archive(server, monkeypatch):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        info = tarfile.TarInfo("a.png")
        info.size = len(PNG)
        archive.addfile(info, io.BytesIO(PNG))
    monkeypatch.setattr(server.RequestHandlerClass, "content", packed.getvalue())
    assert read(f"{server.home}/429,0;200.tar") == ""


def test_waits_between_requests_grow(server, monkeypatch):
    waits = []
    monkeypatch.setattr(http_files.time, "sleep", waits.append)
    assert "HTTP status 503" in read(f"{server.home}/503.jpg")
    assert waits == [1.0, 2.0, 4.0]
    assert server.asked == {"/503.jpg": 4}


def test_wait_beyond_the_time_limit_is_not_begun(server):
    assert "HTTP status 429" in read(f"{server.home}/429,3600.jpg")
    assert server.asked == {"/429,3600.jpg": 1}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 500, 501])
def test_other_failures_are_not_tried_again(status, server):
    assert f"HTTP status {status}" in read(f"{server.home}/{status}.jpg")
    assert server.asked == {f"/{status}.jpg": 1}


def test_proxy_of_the_environment_is_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.home)
    assert read("http://host.invalid/200.jpg") == ""
    assert server.asked == {"http://host.invalid/200.jpg": 1}
