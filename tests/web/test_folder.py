"""A folder on the page: captions, corrections, and the files that are saved."""

import csv
import json
import sqlite3
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import small_run
from small_captioner import small_checkpoint, write_photos

from captioning.bulk.journal import Journal
from captioning.datasets import read_captions
from captioning.decoding import Greedy
from captioning.errors import OutputError
from captioning.inference.captioner import Captioner
from captioning.inference.generation import CaptionGenerator
from captioning.nn.decoder_config import DecoderConfig
from captioning.sources.find import find_images
from captioning.training.run import train
from captioning.web import corrections
from captioning.web.folder import FolderSession
from captioning.web.pages import Page


@pytest.fixture
def folder(tmp_path):
    """Four images and a damaged one."""
    write_photos(tmp_path / "photos", 4)
    (tmp_path / "photos" / "photo5.jpg").write_bytes(b"\xff\xd8\xff")
    return tmp_path / "photos"


@pytest.fixture
def open_folder(open_client, folder):
    """Return a context manager: a client of a server with the folder."""

    @contextmanager
    def open_it(output=folder, **options):
        def make_page(service):
            return Page(service, FolderSession(service, find_images([str(folder)]), output))

        with open_client(make_page=make_page, **options) as client:
            yield client

    return open_it


def caption_all(client):
    client.post("/api/folder/start")
    deadline = time.monotonic() + 60
    while (status := client.get("/api/folder").json())["running"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return status


def rows(client, **query):
    found = client.get("/api/folder/rows", params=query).json()
    assert found["total"] == len(found["rows"])
    return {row["file_name"]: row for row in found["rows"]}


def correct(client, index, text):
    return client.post("/api/folder/correct", json={"id": index, "text": text})


def save(client, format_name, **options):
    return client.post("/api/folder/save", json={"format": format_name, **options})


def test_folder_is_captioned_with_progress(open_folder, folder, captioner):
    with open_folder() as client:
        assert client.get("/api/folder").json()["captioned"] == 0
        status = caption_all(client)
        assert (status["images"], status["captioned"], status["failed"]) == (5, 4, 1)
        found = rows(client)
        for number in range(1, 5):
            name = f"photo{number}.jpg"
            assert found[name]["caption"] == captioner.caption(folder / name).text
        assert "cannot read" in found["photo5.jpg"]["error"]


def test_next_session_continues_from_the_journal(open_folder, folder, monkeypatch):
    with open_folder() as client:
        caption_all(client)
        before = rows(client)
    with monkeypatch.context() as patch, open_folder() as client:
        patch.setattr(CaptionGenerator, "generate", lambda *_: 1 / 0)
        found = rows(client)
        assert {name: found[name] for name in before if name != "photo5.jpg"} == {
            name: row for name, row in before.items() if name != "photo5.jpg"
        }
    other = Captioner(small_checkpoint(search=Greedy(max_length=3)))
    with open_folder(model=other) as client:  # captions of another search
        assert client.get("/api/folder").json()["captioned"] == 0
        caption_all(client)
        assert rows(client)["photo1.jpg"]["caption"] == other.caption(folder / "photo1.jpg").text


def test_corrections_are_stored_at_once_and_undone(open_folder, folder):
    path = folder / "corrections.jsonl"
    with open_folder() as client:
        caption_all(client)
        generated = rows(client)["photo1.jpg"]["generated"]
        row = correct(client, 0, "  A dög\nruns. ").json()
        assert (row["caption"], row["state"]) == ("A dög runs.", "corrected")
        assert correct(client, 4, "not readable").json()["error"] == ""
        stored = [json.loads(line) for line in path.read_text().splitlines()]
        assert stored == [
            {"file_name": "photo1.jpg", "text": "A dög runs."},
            {"file_name": "photo5.jpg", "text": "not readable"},
        ]
        for text in ("", generated):
            correct(client, 0, "changed")
            assert correct(client, 0, text).json()["caption"] == generated
        correct(client, 1, "second")
    (folder / "photo5.jpg").unlink()
    with open_folder() as client:  # a later session
        assert rows(client, state="corrected").keys() == {"photo2.jpg"}
        correct(client, 2, "third")
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == [
        *("not readable", "second", "third"),
    ]


def test_confirmed_caption_is_not_a_correction(open_folder, folder):
    with open_folder() as client:
        caption_all(client)
        text = rows(client)["photo1.jpg"]["generated"]
        assert correct(client, 0, f" {text}\n").json()["state"] == "captioned"
        assert not (folder / "corrections.jsonl").exists()
        assert save(client, "jsonl", corrected_only=True).status_code == 422
        assert client.get("/api/folder").json()["corrected"] == 0


def test_correction_on_a_full_disk_is_an_error(open_folder, folder, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with open_folder() as client:
        correct(client, 0, "first")
        monkeypatch.setattr(corrections, "replace_atomic", fail)
        reply = correct(client, 1, "second")
        assert reply.status_code == 422
        assert "No space left on device. Free some space" in reply.json()["error"]
        assert rows(client, state="corrected").keys() == {"photo1.jpg"}
    assert len((folder / "corrections.jsonl").read_text().splitlines()) == 1


def test_damaged_file_of_corrections_is_refused_and_kept(open_folder, folder):
    path = folder / "corrections.jsonl"
    path.write_text("not JSON\n")
    with pytest.raises(OutputError, match="cannot read captions from line 1"), open_folder():
        pass
    assert path.read_text() == "not JSON\n"


def test_second_session_of_a_folder_is_refused(open_folder):
    with open_folder(), pytest.raises(OutputError, match="another run is using"), open_folder():
        pass


def test_filter_finds_captions_and_names(open_folder):
    with open_folder() as client:
        caption_all(client)
        correct(client, 0, "A ZEBRA")
        assert rows(client, text="zebra").keys() == {"photo1.jpg"}
        assert rows(client, text="PHOTO2").keys() == {"photo2.jpg"}
        assert rows(client, state="captioned").keys() == {f"photo{i}.jpg" for i in (2, 3, 4)}
        assert rows(client, state="failed").keys() == {"photo5.jpg"}
        assert client.get("/api/folder/rows?state=odd").status_code == 422
        assert client.get("/api/folder/rows?offset=4").json()["rows"][0]["id"] == 4


def test_corrections_are_training_data(open_folder, folder, tmp_path):
    write_photos(folder, 12)
    with open_folder() as client:
        for index in range(12):
            correct(client, index, f"a {'dog' if index % 2 else 'cat'} sits on the snow")
    data = f"jsonl:{folder / 'corrections.jsonl'}"
    found = {image.path.name: image.captions for image in read_captions(data, split="train").images}
    assert len(found) == 12
    assert found["photo2.jpg"] == ("a dog sits on the snow",)
    small = DecoderConfig(embedding_size=8, hidden_size=8)
    run = small_run.config(tmp_path / "run", epochs=1)
    result = train(replace(run, data=(data,), val_fraction=0.25, decoder=small))
    text = Captioner.from_pretrained(result.model_dir).caption(folder / "photo1.jpg").text
    assert set(text.split()) <= {"a", "dog", "cat", "sits", "on", "the", "snow"}


def test_saved_files_hold_corrections_and_captions(open_folder, folder):
    with open_folder() as client:
        assert save(client, "jsonl").status_code == 422  # no caption yet
        caption_all(client)
        correct(client, 0, "a zebra")
        generated = rows(client)["photo2.jpg"]["caption"]
        assert save(client, "jsonl").json()["written"] == 4
        assert save(client, "csv").json()["failed"] == 1
        lines = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
        with (folder / "captions.csv").open(newline="") as file:
            table = list(csv.DictReader(file))
        for found in (lines, table):
            texts = {row["file_name"]: row["text"] for row in found}
            assert len(texts) == 4
            assert (texts["photo1.jpg"], texts["photo2.jpg"]) == ("a zebra", generated)
        reply = save(client, "jsonl", corrected_only=True)
        assert (reply.status_code, "exists" in reply.json()["error"]) == (409, True)
        assert len((folder / "captions.jsonl").read_text().splitlines()) == 4
        assert save(client, "jsonl", corrected_only=True, overwrite=True).json()["written"] == 1
        assert len((folder / "captions.jsonl").read_text().splitlines()) == 1


def test_saved_sidecars_keep_existing_ones_unless_told(open_folder, folder):
    (folder / "photo2.txt").write_text("mine\n")
    with open_folder() as client:
        caption_all(client)
        correct(client, 0, "a zebra")
        result = save(client, "txt").json()
        assert (result["written"], result["kept"], result["failed"]) == (3, 1, 0)
        assert (folder / "photo1.txt").read_text() == "a zebra\n"
        assert (folder / "photo2.txt").read_text() == "mine\n"
        assert save(client, "txt", overwrite=True).json()["written"] == 4
        assert (folder / "photo2.txt").read_text() != "mine\n"


@pytest.mark.parametrize(
    ("format_name", "name", "content"),
    [
        ("jsonl", "captions.jsonl", None),
        ("csv", "captions.csv", b"\0"),
        ("txt", "photo1.txt", b"\0x"),
    ],
)
def test_obstacle_to_saving_is_explained_for_a_page(
    open_folder, folder, format_name, name, content
):
    (folder / name).mkdir() if content is None else (folder / name).write_bytes(content)
    with open_folder() as client:
        correct(client, 0, "a zebra")
        error = save(client, format_name, overwrite=True).json()["error"]
    assert name in error
    assert error.endswith("Check the file and its folder, or choose another format.")
    assert " -o" not in error
    assert not error.startswith("-o")


def test_full_disk_while_captioning_is_explained_for_a_page(open_folder, monkeypatch):
    full = sqlite3.OperationalError("database or disk is full")
    with open_folder() as client:
        monkeypatch.setattr(Journal, "_write", lambda self, *_: self._fail(full))
        error = caption_all(client)["error"]
    assert (
        "disk is full. Free some space, or make the file writable. Then use the button above;"
        in error
    )


def test_unreadable_images_are_explained_for_a_page(open_folder, folder, tmp_path):
    (photo,) = write_photos(tmp_path / "other", 1, size=(400, 400))
    (folder / "photo5.jpg").write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])
    (folder / "photo6.jpg").symlink_to(photo)
    with open_folder() as client:
        caption_all(client)
        errors = {name: row["error"] for name, row in rows(client, state="failed").items()}
        closer = client.get("/api/folder/image?id=5")
        (folder / "photo1.jpg").unlink()
        missing = client.get("/api/folder/image?id=0")
    assert errors["photo5.jpg"].endswith("Download it again.")
    assert errors["photo6.jpg"].endswith("Copy the image into the folder.")
    assert (closer.status_code, closer.json()["error"]) == (422, errors["photo6.jpg"])
    assert (missing.status_code, "Move the image back." in missing.json()["error"]) == (422, True)


def test_damaged_journal_is_refused_and_says_what_to_do(open_folder, folder):
    (folder / ".captioning-web.journal").write_bytes(b"not a database" * 100)
    with pytest.raises(OutputError, match="Delete it to start again"), open_folder():
        pass


def test_output_folder_holds_all_files(open_folder, folder, tmp_path):
    output, before = tmp_path / "out", sorted(folder.iterdir())
    output.mkdir()
    with open_folder(output) as client:
        caption_all(client)
        correct(client, 0, "a zebra")
        save(client, "jsonl")
    assert sorted(folder.iterdir()) == before
    for name in ("captions.jsonl", "corrections.jsonl"):
        first = json.loads((output / name).read_text().splitlines()[0])
        assert first["file_name"] == "../photos/photo1.jpg"


def test_images_and_thumbnails_of_the_folder_are_served(open_folder, folder):
    with open_folder() as client:
        assert client.get("/api/folder/image?id=1").content == (folder / "photo2.jpg").read_bytes()
        assert client.get("/api/folder/thumbnail?id=1").content.startswith(b"\xff\xd8")
        assert client.get("/api/folder/thumbnail?id=4").status_code == 422
        for number in ("5", "-1", "", "../x"):
            assert client.get(f"/api/folder/image?id={number}").status_code == 404


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("correct", "{", 422),
        ("correct", '{"id": 0}', 422),
        ("correct", '{"id": 9, "text": ""}', 404),
        ("correct", json.dumps({"id": 0, "text": "x" * 1001}), 422),
        ("correct", json.dumps({"id": 0, "text": "x" * 30_000}), 413),
        ("save", '{"format": "exe"}', 422),
    ],
)
def test_wrong_requests_are_explained(open_folder, path, content, status):
    with open_folder() as client:
        reply = client.post(f"/api/folder/{path}", content=content)
        assert (reply.status_code, list(reply.json())) == (status, ["error"])


def test_page_without_a_folder_says_how_to_get_one(open_client):
    with open_client(make_page=Page) as client:
        assert client.get("/api/model").json()["folder"] is False
        reply = client.get("/api/folder")
        assert (reply.status_code, "captioning web FOLDER" in reply.text) == (404, True)


def test_page_refers_only_to_files_of_the_package(open_client):
    with open_client(make_page=Page) as client:
        page = client.get("/")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        for name in ("style.css", "page.js", "folder.js"):
            assert client.get(f"/static/{name}").status_code == 200
    static = Path(corrections.__file__).parent / "static"
    for file in static.iterdir():
        assert "://" not in file.read_text(encoding="utf-8")
