"""Models on the hub, with a server on this machine in its place."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from captioning.errors import CheckpointError
from captioning.inference.captioner import Captioner

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """The requests of a download: the list of a model's files, and the files."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server = self.server
        path = self.path.partition("?")[0]
        server.requests.append((self.command, path))
        listed = re.fullmatch(r"/api/models/owner/(\w+)(?:/(revision|tree)/([\w.]+))?", path)
        file = re.fullmatch(rf"/owner/model/resolve/{COMMIT}/([\w.]+)", path)
        if listed and listed[1] == "gated":
            self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        elif listed and listed[1] != "model":
            self.answer(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif listed and listed[3] not in (None, "main", "v1", COMMIT):
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif listed:
            files = [{"rfilename": name, "type": "file"} for name in server.files]
            if listed[2] == "tree":
                content = [
                    {"type": "file", "path": name, "size": len(text), "oid": "0" * 40}
                    for name, text in server.files.items()
                ]
            else:
                content = {"id": "owner/model", "sha": COMMIT, "siblings": files}
            self.answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})
        elif file and file[1] in server.files:
            content = server.files[file[1]]
            headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            broken = self.command == "GET" and file[1] == server.broken
            self.answer(500 if broken else 200, content, headers)
        else:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})

    def answer(self, status, content, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(model, tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files = {path.name: path.read_bytes() for path in model.iterdir()}
    server.requests, server.broken = [], ""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", address, raising=False)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name", ["owner/model", "owner/model@v1"])
def test_model_on_the_hub_captions_as_before(hub, captioner, images, name):
    loaded = Captioner.from_pretrained(name, device="cpu", precision="float32")
    assert loaded(images[0]).text == captioner(images[0]).text
    revision = name.partition("@")[2] or "main"
    assert ("GET", f"/api/models/owner/model/revision/{revision}") in hub.requests


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("owner/wrong", "no such model, or it is private. Check the name"),
        ("owner/gated", "its authors restrict access"),
        ("owner/model@v9", "not this revision"),
    ],
)
def test_missing_model_on_the_hub_is_explained(name, reason):
    with pytest.raises(CheckpointError, match=reason):
        Captioner.from_pretrained(name)


def test_interrupted_download_continues(hub, captioner, images):
    hub.broken = "model.safetensors"
    with pytest.raises(CheckpointError, match="finished files are kept"):
        Captioner.from_pretrained("owner/model")
    hub.broken = ""
    hub.requests.clear()
    loaded = Captioner.from_pretrained("owner/model", device="cpu", precision="float32")
    assert loaded(images[0]).text == captioner(images[0]).text
    fetched = [path.rpartition("/")[2] for method, path in hub.requests if method == "GET"]
    assert "model.safetensors" in fetched
    assert "vocabulary.json" not in fetched


def test_refused_upload_is_explained(hub, captioner):
    with pytest.raises(CheckpointError, match=r"cannot upload the model to owner/model: .*token"):
        captioner.push_to_hub("owner/model")
