"""The job: known results bypass the loader, rows keep the order of the inputs."""

import hashlib
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from captioning.bulk import content as content_module
from captioning.bulk import job as job_module
from captioning.bulk.content import ImageContent
from captioning.bulk.job import CaptionJob, JobOutput, JobSpeed
from captioning.bulk.journal import Journal, JournalEntry
from captioning.bulk.rows import RelativeNames
from captioning.bulk.writers.base import CaptionRow, ImageWriter, Writer
from captioning.decoding import BeamSearch
from captioning.errors import OutputError
from captioning.images.image_ref import ImageRef
from captioning.images.loader import ImageLoader, PixelBatch
from captioning.inference.results import Caption, CaptionResult

SEARCH = BeamSearch(width=2, max_length=8)


def make_result(image, text="known"):
    return CaptionResult(image, (Caption(text, (text,), -1.0, True, ()),))


def make_image(name):
    return ImageRef(name, name.encode())


class RowList(Writer):
    """Keeps rows in memory."""

    def __init__(self):
        self.rows = []

    def write(self, row):
        self.rows.append(row)

    def flush(self):
        pass

    def close(self, *, keep_existing_if_longer=False):
        pass

    def abandon(self):
        pass


class CaptionFiles(ImageWriter):
    """One output per image, in memory; ``bad`` cannot be written."""

    def __init__(self, **existing):
        self.files = {image: list(captions) for image, captions in existing.items()}

    def has_caption(self, image):
        return image in self.files

    def read_captions(self, image):
        return self.files.get(image, [])

    def write(self, row):
        if row.image == "bad":
            raise OutputError("the folder is read-only")
        if row.ok:
            self.files[row.image] = list(row.captions)


class Loaded:
    """A captioner whose captions are the images' names; records what enters the loader."""

    def __init__(self, captioner):
        self.captioner = captioner
        self.images = []
        self.calls = 0

    def caption_batches(self, images, loader, *, search):
        self.calls += 1
        batch = []
        for image in images:
            self.images.append(image.name)
            batch.append(make_result(image.name, f"new {image.name}"))
            if len(batch) == loader.batch_size:
                yield tuple(batch)
                batch = []
        if batch:
            yield tuple(batch)


@pytest.fixture
def start_job(captioner, tmp_path, monkeypatch):
    """Return a job over stand-ins of the model and the output; ``known`` are in its journal."""

    opened = []

    def start(writer, known=(), **options):
        loaded = Loaded(captioner)
        loader = ImageLoader(captioner.checkpoint.model.encoder.preprocessing, 4, 0)
        journal = None
        if not isinstance(writer, ImageWriter):
            journal = Journal(tmp_path / "journal", {})
            journal.put(
                JournalEntry(image, ImageContent(make_image(image)), make_result(image))
                for image in known
            )
            journal.close()
            journal = Journal(tmp_path / "journal", {})
            opened.append(journal)
        output = JobOutput(writer, RelativeNames(None), journal, **options)
        job = CaptionJob(captioner, loader, SEARCH, output)
        monkeypatch.setattr(job, "captioner", loaded)
        return job, loaded

    yield start
    for journal in opened:
        journal.close()


def test_known_results_do_not_enter_the_loader(start_job):
    writer = RowList()
    names = [f"{number}" for number in range(30)]
    known = [name for name in names if int(name) % 3]
    job, loaded = start_job(writer, known)
    batches = list(job.run(make_image(name) for name in names))
    assert loaded.images == [name for name in names if name not in known]
    assert [row.image for row in writer.rows] == names
    assert [row.captions[0] for row in writer.rows] == [
        "known" if name in known else f"new {name}" for name in names
    ]
    assert [row for batch in batches for row in batch] == writer.rows
    assert (job.counts.captioned, job.counts.resumed, job.counts.done) == (30, 20, 30)


def test_many_known_results_keep_memory_bounded(start_job, monkeypatch):
    monkeypatch.setattr(job_module, "_MAX_PENDING", 10)
    writer = RowList()
    names = [f"{number}" for number in range(200)]
    new = {"0", "57", "58", "199"}
    job, loaded = start_job(writer, set(names) - new)
    read = 0

    def images():
        nonlocal read
        for name in names:
            read += 1
            yield make_image(name)
            assert read - len(writer.rows) <= 11  # rows wait for the caption of image 0

    list(job.run(images()))
    assert loaded.images == ["0", "57", "58", "199"]
    assert [row.image for row in writer.rows] == names


def test_job_without_images_writes_nothing(start_job):
    writer = RowList()
    job, _ = start_job(writer)
    assert [row for batch in job.run([]) for row in batch] == writer.rows == []


def test_job_encloses_captions_and_journal_keeps_them_plain(start_job, tmp_path):
    writer = RowList()
    job, _ = start_job(writer, prefix="(", suffix=")")
    list(job.run([make_image("a")]))
    assert writer.rows == [CaptionRow("a", "a", ("(new a)",), (-1.0,))]
    job.output.journal.close()
    known = ImageContent(make_image("a"))
    with closing(Journal(tmp_path / "journal", {})) as journal:
        assert journal.get("a", known, "a").text == "new a"


@pytest.mark.parametrize(
    ("existing", "files", "skipped"),
    [
        ("keep", {"a": ["mine"], "b": ["new b"]}, 1),
        ("replace", {"a": ["new a"], "b": ["new b"]}, 0),
        ("append", {"a": ["mine", "new a"], "b": ["new b"]}, 0),
    ],
)
def test_job_keeps_replaces_or_appends(existing, files, skipped, start_job):
    writer = CaptionFiles(a=["mine"])
    job, _ = start_job(writer, existing=existing)
    list(job.run([ImageRef("a"), ImageRef("b")]))
    assert writer.files == files
    assert job.counts.skipped == skipped
    assert job.counts.kept_caption == ("The caption of 'a' is 'mine'." if skipped else "")
    assert job.counts.done == 2


def test_job_output_of_one_image_fails_alone(start_job):
    writer = CaptionFiles()
    job, _ = start_job(writer)
    (rows, _) = job.run([ImageRef("a"), ImageRef("bad"), ImageRef("c")])
    failed = replace(rows[1], captions=(), log_probs=(), error="the folder is read-only")
    assert rows[1] == failed
    assert set(writer.files) == {"a", "c"}
    assert (job.counts.captioned, job.counts.failed) == (2, 1)


def test_job_without_journal_hashes_no_image(start_job, monkeypatch):
    hashed = []
    monkeypatch.setattr(
        job_module, "ImageContent", lambda image: hashed.append(image) or ImageContent(image)
    )
    writer = CaptionFiles()
    job, _ = start_job(writer)
    list(job.run([ImageRef("a", b"content")]))
    assert writer.files == {"a": ["new a"]}
    assert hashed == []


def test_journal_takes_digests_from_the_readers(captioner, images, tmp_path, monkeypatch):
    def read_again(name, stamp):
        raise AssertionError(f"{name} is read again")

    monkeypatch.setattr(content_module, "digest_file", read_again)
    loader = ImageLoader(captioner.checkpoint.model.encoder.preprocessing, 2, 1)
    journal = Journal(tmp_path / "journal", {})
    output = JobOutput(RowList(), RelativeNames(None), journal)
    list(CaptionJob(captioner, loader, SEARCH, output).run(ImageRef(name) for name in images[:5]))
    journal.close()
    with closing(sqlite3.connect(tmp_path / "journal")) as database:
        rows = dict(database.execute("SELECT image, digest FROM results"))
    readable = [*images[:3], images[4]]
    assert rows == {
        name.encode(): hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in readable
    }


def test_job_reports_which_stage_waited(start_job, monkeypatch):
    clock = iter([100.0, 110.0, 120.0])
    monkeypatch.setattr(job_module.time, "monotonic", lambda: next(clock))
    job, loaded = start_job(CaptionFiles())
    empty = torch.zeros(0, 3, 1, 1, dtype=torch.uint8)
    batches = [
        PixelBatch((ImageRef("a"), ImageRef("b")), empty, ("", ""), waited=2.0, reading=1.0),
        PixelBatch((ImageRef("c"),), empty, ("",), waited=3.0, reading=4.0),
    ]

    def caption_batches(images, loader, *, search):
        list(images)
        for batch in batches:
            loader.on_batch(batch)
            yield tuple(make_result(image.name) for image in batch.images)

    monkeypatch.setattr(loaded, "caption_batches", caption_batches)
    list(job.run([ImageRef("a"), ImageRef("b"), ImageRef("c")]))
    assert job.speed == JobSpeed(3, 20.0, model_waited=0.25, readers_waited=0.75)
