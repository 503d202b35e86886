"""Signals during a run on Ray, and what Ray prints when a run has ended its actors."""

import signal
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from caption_runs import signal_at
from output_rows import read_folder
from small_captioner import write_photos

from captioning.bulk.cluster import connection
from captioning.bulk.cluster.config import ClusterConfig


@pytest.fixture
def words(tmp_path):
    photos = write_photos(tmp_path / "photos", 5)
    return (*photos, "-o", tmp_path / "out", "--partition-size", 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_run_after_its_partition(number, in_process, caption, words, tmp_path):
    ran = signal_at("photo3.jpg", number, caption, *words)
    assert ran.code == 128 + number
    assert "interrupted; 4 images in complete partitions. To resume, run the same" in ran.err
    assert in_process == [0, 1]
    assert caption(*words).code == 0
    assert in_process == [0, 1, 2]
    assert len(read_folder(tmp_path / "out")) == 5


def test_signal_while_ray_starts_ends_run_when_it_has_started(
    in_process, caption, words, monkeypatch
):
    before = signal.getsignal(signal.SIGINT)

    @contextmanager
    def start_slowly(config):
        signal.raise_signal(signal.SIGINT)
        yield None

    with monkeypatch.context() as patch:
        patch.setattr(connection, "connect_to_ray", start_slowly)
        ran = caption(*words)
    assert ran.code == 130
    assert "interrupted; 0 images in complete partitions" in ran.err
    assert in_process == []
    assert signal.getsignal(signal.SIGINT) == before
    assert caption(*words).code == 0


def test_second_signal_interrupts_while_ray_ends(in_process, caption, words, monkeypatch):
    connect = connection.connect_to_ray

    @contextmanager
    def end_slowly(config):
        with connect(config) as ray:
            yield ray
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(connection, "connect_to_ray", end_slowly)
    ran = signal_at("photo3.jpg", signal.SIGINT, caption, *words)
    assert ran.code == 130
    assert ran.err.splitlines()[-1] == "captioning: interrupted"


def test_messages_on_actors_that_a_run_has_ended_are_dropped(monkeypatch, capsys):
    monkeypatch.setattr(
        connection, "import_ray", lambda: SimpleNamespace(is_initialized=lambda: True)
    )
    with connection.connect_to_ray(ClusterConfig()):
        print("(raylet) Task failed. The actor is dead because it was killed by `ray.kill`.")
        print("(raylet) A node", "has died.")
        print("to stderr", file=sys.stderr)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "(raylet) A node has died.\nto stderr\n"
