"""``captioning data archive``: archives that other programs read, resumed and refused ones."""

import io
import json
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from drawn_images import draw
from PIL import Image

from captioning.cli.main import main
from captioning.datasets import CaptionData, read_captions

TINY = Path(__file__).parents[2] / "data" / "tiny"
SPLIT_BYTES = 1_000_000


@pytest.fixture
def data(tmp_path):
    """Six images of which the fourth is damaged: PNG files of noise, about 0.3 MB each."""
    lines = []
    for number in range(6):
        image = Image.effect_noise((600, 550), 100 + number)
        name = f"images/{number}.PNG"
        (tmp_path / "images").mkdir(exist_ok=True)
        image.save(tmp_path / name)
        captions = [f"Noise {number}.", f"Grüße {number}"]
        lines.append(json.dumps({"image": name, "captions": captions, "split": "train"}))
    damaged = tmp_path / "images" / "3.PNG"
    damaged.write_bytes(damaged.read_bytes()[:150_000])
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    return tmp_path


def archive(data, output, *words):
    words = ["-o", output, "--archive-size", "1", "--workers", "0", *words]
    command = ["data", "archive", "--data", f"jsonl:{data}/rows.jsonl", *map(str, words)]
    with pytest.raises(SystemExit) as stop:
        main(command)
    return stop.value.code


def read_contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def test_archives_hold_bytes_and_captions_in_order(data, tmp_path, capsys):
    assert archive(data, tmp_path / "out") == 1  # one image is damaged
    members = []
    for path in sorted((tmp_path / "out").glob("*.tar")):
        assert path.stat().st_size <= SPLIT_BYTES
        with tarfile.open(path) as file:
            members += [(each.name, file.extractfile(each).read()) for each in file]
    expected = []
    for number in (0, 1, 2, 4, 5):
        key = f"{number:09}"
        expected.append((f"{key}.png", (data / f"images/{number}.PNG").read_bytes()))
        captions = [f"Noise {number}.", f"Grüße {number}"]
        row = {"image": f"{number}.PNG", "image_id": number, "captions": captions, "split": "train"}
        expected.append((f"{key}.json", json.dumps(row, ensure_ascii=False).encode()))
    assert members == expected
    assert len(read_contents(tmp_path / "out")) == 2
    shown = capsys.readouterr().err
    assert "Left out: cannot read" in shown
    assert "5 images and 10 captions in 2 archives" in shown


def test_archives_are_read_by_huggingface_datasets(data, tmp_path):
    archive(data, tmp_path / "out")
    code = (
        "import sys, json, datasets; datasets.disable_progress_bars()\n"
        "rows = datasets.load_dataset('webdataset', data_files=sys.argv[2:], split='train',"
        " cache_dir=sys.argv[1])\n"
        "rows = rows.cast_column('png', datasets.Image(decode=False))\n"
        "print(json.dumps([[row['__key__'], len(row['png']['bytes']), row['json']]"
        " for row in rows]))"
    )
    files = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    words = [sys.executable, "-c", code, str(tmp_path / "cache"), *files]
    rows = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    sizes = [(data / f"images/{number}.PNG").stat().st_size for number in (0, 1, 2, 4, 5)]
    assert [row[1] for row in rows] == sizes
    assert [row[2]["captions"][1] for row in rows] == [f"Grüße {n}" for n in (0, 1, 2, 4, 5)]


def test_archives_of_several_splits_are_read_back(tmp_path, capsys):
    spec, output = f"coco:{TINY}", tmp_path / "out"
    for split in ("train+restval", "val"):
        command = ["data", "archive", "--data", spec, "--split", split, "-o", str(output)]
        with pytest.raises(SystemExit) as stop:
            main([*command, "--workers", "0"])
        assert stop.value.code == 0
    name = capsys.readouterr().out.splitlines()[-1].removeprefix("--data ")
    assert CaptionData(name).splits == ("train", "val")
    for split in ("train+restval", "val"):
        ours, original = read_captions(name, split=split), read_captions(spec, split=split)
        assert [image.captions for image in ours.images] == [
            image.captions for image in original.images
        ]
        assert [image.content() for image in ours.images] == [
            image.path.read_bytes() for image in original.images
        ]


def test_archives_of_same_data_elsewhere_are_identical(data, tmp_path):
    archive(data, tmp_path / "out")
    copy = tmp_path / "copy"
    (copy / "images").mkdir(parents=True)
    for path in (data / "images").iterdir():
        (copy / "images" / path.name).write_bytes(path.read_bytes())
    (copy / "rows.jsonl").write_bytes((data / "rows.jsonl").read_bytes())
    archive(copy, tmp_path / "other")
    assert read_contents(tmp_path / "out") == read_contents(tmp_path / "other")


def test_archives_missing_one_are_completed(data, tmp_path, capsys):
    output = tmp_path / "out"
    archive(data, output)
    expected = read_contents(output)
    kept = (output / "train-000000.tar").stat().st_mtime_ns
    (output / "train-000001.tar").write_bytes(b"cut")
    assert archive(data, output) == 1  # the damaged image is reported again
    assert read_contents(output) == expected
    assert (output / "train-000000.tar").stat().st_mtime_ns == kept
    assert capsys.readouterr().err.count("Left out:") == 2


def test_archives_of_other_settings_are_refused(data, tmp_path, capsys):
    output = tmp_path / "out"
    archive(data, output)
    before = read_contents(output)
    assert archive(data, output, "--archive-size", "2") == 1
    assert "of other data, other settings" in capsys.readouterr().err
    assert read_contents(output) == before
    (output / ".train.captioning.json").unlink()
    assert archive(data, output) == 1  # somebody else's archives


def test_archives_after_a_full_disk_are_completed(data, tmp_path, monkeypatch, capsys):
    output, count = tmp_path / "out", 0
    real = tarfile.TarFile.addfile

    def fill(*arguments):
        nonlocal count
        count += 1
        if count == 8:  # in the second archive
            raise OSError(28, "No space left on device")
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "addfile", fill)
        assert archive(data, output) == 1
    assert "No space left on device. Run the same command again" in capsys.readouterr().err
    assert sorted(path.name for path in output.glob("*train*")) == [
        ".train.captioning.json",
        ".train.captioning.lock",
        "train-000000.tar",
    ]
    archive(data, output)
    archive(data, tmp_path / "whole")
    assert read_contents(output) == read_contents(tmp_path / "whole")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_archives_after_kill_are_those_of_one_run(tmp_path):
    lines = []
    for number in range(100):
        draw(number, (250, 150)).save(tmp_path / f"{number}.bmp")
        lines.append(json.dumps({"image": f"{number}.bmp", "caption": f"Number {number}."}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    assert archive(tmp_path, tmp_path / "whole") == 0
    output = tmp_path / "killed"
    words = ["data", "archive", "--data", f"jsonl:{tmp_path}/rows.jsonl", "-o", str(output)]
    command = [sys.executable, "-m", "captioning", *words, "--archive-size", "1", "--workers", "0"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while not (output / "train-000001.tar").exists():
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert archive(tmp_path, output) == 0
    assert read_contents(output) == read_contents(tmp_path / "whole")
    assert not list(output.glob("*.part"))


def test_archive_of_relative_and_absolute_names_shortens_both(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        draw(number).save(tmp_path / f"{number}.png")
    rows = [{"image": name, "caption": "A."} for name in ("1.png", f"{tmp_path}/2.png")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert archive(".", tmp_path / "out") == 0
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as file:
        found = [json.load(file.extractfile(name)) for name in file.getnames()[1::2]]
    assert [row["image"] for row in found] == ["1.png", "2.png"]


def test_archive_image_without_extension_gets_that_of_its_content(tmp_path):
    content = io.BytesIO()
    draw(1).save(content, "JPEG")
    (tmp_path / "image").write_bytes(content.getvalue())
    (tmp_path / "rows.jsonl").write_text('{"image": "image", "caption": "A."}')
    assert archive(tmp_path, tmp_path / "out") == 0
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as file:
        assert file.getnames() == ["000000000.jpg", "000000000.json"]


@pytest.mark.parametrize("ending", ["jfif", "v2"])
def test_archive_image_of_unusual_name_is_read_back(ending, tmp_path):
    draw(0).save(tmp_path / f"image.{ending}", "JPEG")
    rows = [{"image": f"image.{ending}", "captions": ["Red."]}]
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]))
    assert archive(tmp_path, tmp_path / "out") == 0
    (image,) = read_captions(f"tar:{tmp_path / 'out'}", split="train").images
    assert image.captions == ("Red.",)


def test_archive_of_lone_surrogates_is_read_back(tmp_path):
    names = ["\udcff.png", "damaged \udcff.png"]  # bytes that are not UTF-8
    draw(0).save(tmp_path / names[0])
    (tmp_path / names[1]).touch()
    rows = [json.dumps({"image": name, "caption": "Red \ud83d."}) for name in names]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    for _ in range(2):  # the second time, from the journal
        assert archive(tmp_path, tmp_path / "out") == 1
    (image,) = read_captions(f"tar:{tmp_path / 'out'}", split="train").images
    assert image.captions == ("Red \ud83d.",)


def test_archive_while_another_process_writes_is_refused(data, tmp_path, capsys):
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with FileLock(Path(tmp_path / "out" / ".train.captioning.lock")):
        assert archive(data, tmp_path / "out") == 1
    assert "another process is writing" in capsys.readouterr().err
