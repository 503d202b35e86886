"""The HTTP interface: captions, errors, limits, and who may use it."""

import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from captioning.decoding import METHODS, BeamSearch, Sampling
from captioning.errors import ConfigError
from captioning.inference.captioner import Captioner
from captioning.inference.generation import CaptionGenerator
from captioning.web.limits import ServerLimits
from captioning.web.server import open_address

FAST = {"workers": 0, "max_seconds": 600.0}
JPEG = {"Content-Type": "image/jpeg"}
TOKEN = "0123456789abcdef"


def texts(reply):
    """Return the captions of each image."""
    assert reply.status_code == 200, reply.text
    results = reply.json()["results"]
    return [[caption["text"] for caption in result["captions"]] for result in results]


def expected(captioner, images, search=None):
    return [[c.text for c in captioner.caption(image, search=search).captions] for image in images]


@pytest.mark.parametrize(
    "kind", ["image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded", ""]
)
def test_raw_body_is_captioned(client, captioner, photo, kind):
    headers = {"Content-Type": kind} if kind else {}
    reply = client.post("/caption", content=photo, headers=headers)
    assert texts(reply) == expected(captioner, [photo])
    (caption,) = reply.json()["results"][0]["captions"]
    found = captioner.caption(photo).captions[0]
    assert caption["log_prob"] == pytest.approx(found.log_prob, abs=1e-4)
    assert caption["words"] == list(found.words)


def test_form_captions_all_images_and_names_bad_ones(client, captioner, images):
    files = [("image", (Path(path).name, Path(path).read_bytes())) for path in images]
    reply = client.post("/caption", files=files, data={"search": "beam", "n": "2"})
    results = reply.json()["results"]
    bad = {"image4.png", "image7.png", "image8.png"}
    assert {each["image"] for each in results if each["error"]} == bad
    assert [each["image"] for each in results] == [Path(path).name for path in images]
    good = [path for path in images if Path(path).name not in bad]
    search = BeamSearch(width=2, n=2, max_length=8)
    assert [t for t in texts(reply) if t] == expected(captioner, good, search)


def test_settings_of_the_query_choose_the_search(client, model, photo):
    query = "search=sampling&seed=7&n=3&temperature=2&forbidden_words=a&forbidden_words=the"
    search = Sampling(n=3, temperature=2.0, max_length=8, forbidden_words=("a", "the"))
    seeded = Captioner.from_pretrained(model, device="cpu", backend="torch", seed=7)
    reply = client.post(f"/caption?{query}", content=photo, headers=JPEG)
    assert texts(reply) == expected(seeded, [photo], search)


def test_workers_decode_images_and_report_damaged_ones(open_client, captioner, images):
    with open_client(ServerLimits(workers=1, max_seconds=600)) as client:
        reply = client.post("/caption", content=Path(images[0]).read_bytes(), headers=JPEG)
        assert texts(reply) == expected(captioner, [images[0]])
        damaged = client.post("/caption", content=Path(images[6]).read_bytes(), headers=JPEG)
    assert damaged.status_code == 422
    assert "it is incomplete or damaged" in damaged.json()["error"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("width=x", "width is 'x'; it must be a whole number."),
        ("width=0", "width is 0; it must be a whole number from 1"),
        ("search=bean", "it must be one of greedy, beam, diverse, sampling. Did you mean 'beam'"),
        ("search=greedy&width=2", "'width' is not a setting of greedy search."),
        ("temperature=1", "'temperature' is not a setting of beam search."),
        ("search=sampling&temperature=nan", "temperature is nan; it must be a number from"),
        ("width=2&width=3", "width is given 2 times. Give it once."),
        ("seed=-1", "seed is -1"),
        ("block_repeated_words=maybe", "it must be true or false."),
        ("required_words=zebra", "zebra"),
        ("n=201", "the search has 201 hypotheses per image; this server allows 200."),
        ("max_length=101", "this server allows 100 words."),
        ("rerank_weight=1", "this model has no n-gram reranker"),
    ],
)
def test_wrong_setting_is_status_422(client, photo, query, message):
    reply = client.post(f"/caption?{query}", content=photo, headers=JPEG)
    assert reply.status_code == 422
    assert message in reply.json()["error"]


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (400, {"content": b""}),
        (400, {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}),
        (413, {"content": bytes(2_000_001), "headers": JPEG}),
        (413, {"content": iter([bytes(1_000_000)] * 3), "headers": JPEG}),
        (413, {"files": [("image", bytes(2_000_000))]}),
        (400, {"files": [("image", b"x")] * 3}),
        (415, {"content": b"x", "headers": {"Content-Type": "text/html"}}),
        (422, {"content": b"\x89PNG\r\n", "headers": JPEG}),
    ],
)
def test_wrong_body_has_its_status(open_client, status, request_):
    with open_client(ServerLimits(max_body=2, max_images=2, **FAST)) as client:
        reply = client.post("/caption", **request_)
        assert reply.status_code == status
        assert reply.json()["error"].endswith((".", "?"))
        assert client.service.budget.size == client.service.budget.requests == 0


def test_wrong_paths_and_methods_are_json_errors(client):
    assert client.get("/nothing").status_code == 404
    reply = client.get("/caption")
    assert (reply.status_code, list(reply.json())) == (405, ["error"])


@pytest.fixture
def held(monkeypatch):
    """Hold the model until the event is set; ``started`` counts its batches."""
    event, sizes = threading.Event(), []
    real = CaptionGenerator.generate

    def generate(self, images, method=None):
        sizes.append(len(images))
        event.wait(60)
        return real(self, images, method)

    monkeypatch.setattr(CaptionGenerator, "generate", generate)
    event.sizes = sizes
    yield event
    event.set()


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_simultaneous_requests_are_one_batch(open_client, captioner, images, held):
    good = [images[i] for i in (0, 1, 2, 4, 5)]
    contents = [Path(path).read_bytes() for path in good]
    wanted = None
    with open_client() as client, ThreadPoolExecutor(5) as pool:
        first = pool.submit(client.post, "/caption", content=contents[0], headers=JPEG)
        wait_until(lambda: held.sizes == [1])
        others = [
            pool.submit(client.post, "/caption", content=content, headers=JPEG)
            for content in contents[1:]
        ]
        wait_until(lambda: len(client.service.model._tasks) == 4)
        held.set()
        replies = [texts(future.result()) for future in (first, *others)]
        assert held.sizes == [1, 4]
        wanted = [expected(captioner, [path]) for path in good]
    assert replies == wanted


def test_full_queue_is_status_503(open_client, photo, held):
    limits = ServerLimits(max_waiting=1, **FAST)
    with open_client(limits) as client, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.post, "/caption", content=photo, headers=JPEG)
        wait_until(lambda: held.sizes == [1])
        busy = client.post("/caption", content=photo, headers=JPEG)
        assert (busy.status_code, busy.headers["Retry-After"]) == (503, "1")
        held.set()
        assert slow.result().status_code == 200
        assert client.post("/caption", content=photo, headers=JPEG).status_code == 200


def test_slow_model_is_status_504(open_client, photo, held):
    with open_client(ServerLimits(workers=0, max_seconds=0.2)) as client:
        late = client.post("/caption", content=photo, headers=JPEG)
        assert (late.status_code, late.headers["Retry-After"]) == (504, "1")
        assert "no result within 0.2 seconds" in late.json()["error"]
        held.set()
        assert client.service.budget.requests == 0


def test_memory_of_all_uploads_is_bounded(open_client, photo, monkeypatch):
    monkeypatch.setattr(ServerLimits, "total_bytes", 100)
    with open_client() as client:
        reply = client.post("/caption", content=photo, headers=JPEG)
    assert reply.status_code == 503
    assert "the uploads of other requests fill its memory" in reply.json()["error"]


def test_failure_of_the_model_is_500_and_the_next_works(open_client, photo, monkeypatch):
    with open_client(raise_server_exceptions=False) as client:
        with monkeypatch.context() as patch:
            patch.setattr(CaptionGenerator, "generate", lambda *_: 1 / 0)
            reply = client.post("/caption", content=photo, headers=JPEG)
            assert (reply.status_code, list(reply.json())) == (500, ["error"])
        assert client.post("/caption", content=photo, headers=JPEG).status_code == 200
        assert client.get("/health").json() == {"status": "ok"}


def test_health_reports_a_dead_model(open_client):
    with open_client() as client:
        client.service.model.close()
        assert client.get("/health").status_code == 503


def test_metrics_count_requests_images_and_batches(client, photo):
    client.post("/caption", files=[("image", photo), ("image", b"no image")])
    client.post("/caption", content=b"", headers=JPEG)
    families = text_string_to_metric_families(client.get("/metrics").text)
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }
    assert values["captioning_requests_total", "/caption", "200"] == 1
    assert values["captioning_requests_total", "/caption", "400"] == 1
    assert values["captioning_images_total", "captioned"] == 1
    assert values["captioning_images_total", "failed"] == 1
    assert values["captioning_batch_images_sum",] == 1
    assert values["captioning_waiting_requests",] == 0


def test_openapi_names_every_setting_and_path(client):
    document = client.get("/openapi.json").json()
    routes = {route.path for route in client.app.routes}
    assert set(document["paths"]) == routes
    parameters = document["paths"]["/caption"]["post"]["parameters"]
    names = {field.name for method in METHODS.values() for field in fields(method)}
    assert {each["name"] for each in parameters} == {*names, "search", "seed"}
    assert all(each["schema"]["description"] for each in parameters)


def test_explain_returns_steps_of_the_own_caption(client, captioner, photo):
    reply = client.post("/explain", content=photo, headers=JPEG).json()
    caption = captioner.caption(photo).captions[0]
    assert reply["words"] == list(caption.words)
    assert [step["word"] for step in reply["steps"]] == [*caption.words, ""]
    assert reply["thumbnail"].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("caption=a zebra", 422, "zebra"),
        ("caption=" + "a " * 101, 422, "the caption has 101 words; the limit is 100."),
        ("width=3", 422, "'width' is not a setting."),
    ],
)
def test_explain_refuses_what_it_cannot_use(client, photo, query, status, message):
    reply = client.post(f"/explain?{query}", content=photo, headers=JPEG)
    assert reply.status_code == status
    assert message in reply.json()["error"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda photo: photo[:800], "of its rows are readable"),
        (
            lambda _: b"a.jpg\nb.jpg\n",
            "file contains text ('a.jpg\\nb.jpg'). Replace it with an image.",
        ),
        (lambda _: b"\0\0\0\x1cftypheic\0\0\0\0", "is a HEIC image. Convert it to PNG or JPEG."),
        (
            lambda _: b"version https://git-lfs.github.com/spec/v1\n",
            "Replace it with the image itself.",
        ),
    ],
)
def test_upload_errors_give_no_advice_for_a_terminal(client, photo, content, message):
    for path in ("/caption", "/explain"):
        reply = client.post(path, content=content(photo), headers=JPEG)
        assert reply.status_code == 422
        assert message in reply.json()["error"]
        assert not re.search(r"--|captioning|pip|Run:", reply.json()["error"])


def test_requests_of_other_sites_are_refused(client, photo):
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        reply = client.post("/caption", content=photo, headers={**JPEG, **headers})
        assert reply.status_code == 403
    own = {**JPEG, "Origin": "http://localhost:8080"}
    assert client.post("/caption", content=photo, headers=own).status_code == 200


def test_token_is_needed_by_all_but_health(open_client, photo):
    with open_client(token=TOKEN, any_host=True, follow_redirects=False) as client:
        assert client.get("/health", headers={"Host": "captions.example"}).status_code == 200
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Cookie": b"captioning_token=\xe9"},
        ):
            assert client.get("/metrics", headers=headers).status_code == 401
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert client.get("/metrics", headers=bearer).status_code == 200
        assert client.get("/?token=wrong").status_code == 401
        reply = client.get(f"/?token={TOKEN}")
        assert (reply.status_code, reply.headers["location"]) == (303, "/")
        assert "HttpOnly; Path=/; SameSite=strict" in reply.headers["set-cookie"]
        assert client.get("/metrics").status_code == 200  # by the cookie


def test_address_of_other_computers_gets_a_token():
    for host, has_token in (("127.0.0.1", False), ("0.0.0.0", True)):
        address = open_address(host, 0, "")
        address.socket.close()
        assert (address.is_local, bool(address.token)) == (not has_token, has_token)
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(ConfigError, match=r"Address already in use\. Use another --port"):
        open_address("127.0.0.1", taken.getsockname()[1], "")
    with pytest.raises(ConfigError, match="16 or more letters and digits"):
        open_address("127.0.0.1", 0, "short")
