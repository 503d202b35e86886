"""``captioning score`` and ``compare``: how results are matched to references, and what fails."""

import json
from pathlib import Path

import pytest

from captioning.cli.main import main

TINY = Path(__file__).parents[2] / "data" / "tiny"
CAPTIONS = ("a dog runs", "two cats sleep on a bed", "a red ball", "the sea at night")
UNKNOWN_IDS = range(10**12, 10**12 + 100)


@pytest.fixture
def run(capsys):
    """Run a command; return its exit code, output and messages."""

    def run(*arguments):
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        return (exit_info.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def score(run):
    """Score results against references; return BLEU-1 and the messages."""

    def score(results, references):
        code, output, messages = run("score", results, references, "--json")
        assert code == 0
        return json.loads(output)["scores"]["bleu_1"], messages

    return score


@pytest.fixture
def write_references(tmp_path):
    """Write annotations of four images with the given file names and ids 1 to 4."""

    def write(*names):
        images = [{"id": key, "file_name": name} for key, name in enumerate(names, 1)]
        entries = [{"image_id": key, "caption": text} for key, text in enumerate(CAPTIONS, 1)]
        path = tmp_path / "references.json"
        path.write_text(json.dumps({"images": images, "annotations": entries}))
        return path

    return write


@pytest.fixture
def references(write_references):
    return write_references("1.jpg", "2.jpg", "3.jpg", "4.jpg")


@pytest.fixture
def tiny_captions():
    """A reference of each image of the val split, by file name."""
    content = json.loads((TINY / "annotations" / "captions_val.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    return {names[entry["image_id"]]: entry["caption"] for entry in content["annotations"]}


def write_results(path, names, captions=CAPTIONS, ids=UNKNOWN_IDS, extra=()):
    """Write rows as ``captioning caption`` does, with ids only in COCO results."""
    key = "text" if path.suffix == ".jsonl" else "caption"
    rows = [{"file_name": name, key: text} for name, text in zip(names, captions, strict=True)]
    rows += extra
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        rows = [{"image_id": key, **row} for key, row in zip(ids, rows, strict=False)]
        path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("name", ["results.jsonl", "results.json"])
@pytest.mark.parametrize("kind", ["data set", "annotations"])
def test_score_results_are_matched_by_file_name(name, kind, tiny_captions, tmp_path, score, run):
    captions = dict(reversed(tiny_captions.items()))
    files = [f"../photos/{file}" for file in captions]
    path = write_results(tmp_path / name, files, captions.values())
    data = f"coco:{TINY}" if kind == "data set" else TINY / "annotations" / "captions_val.json"
    # Each caption is a reference of its image: the score is perfect only if all are matched.
    assert score(path, data)[0] == pytest.approx(1.0)
    assert run("compare", path, path, data, "--samples", 5)[0] == 0


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_score_files_of_one_name_are_matched_by_folder(
    ending, write_references, tmp_path, score, run
):
    names = ("a/1.jpg", "b/1.jpg", "a/3.jpg", "a/4.jpg")
    path, references = tmp_path / f"results.{ending}", write_references(*names)
    bleu_1, messages = score(write_results(path, [f"/photos/{name}" for name in names]), references)
    assert bleu_1 == pytest.approx(1.0)
    assert "matched by file name, such as /photos/a/1.jpg" in messages
    for files, message in (
        (("1.jpg", "c/1.jpg", "3.jpg", "4.jpg"), "1.jpg may be a/1.jpg or b/1.jpg of "),
        (("3.jpg", "x/3.jpg", "y/4.jpg", "a/1.jpg"), "more than one caption for an image"),
    ):
        code, _, messages = run("score", write_results(path, files), references)
        assert code == 1
        assert message in messages


@pytest.mark.parametrize("names", [[f"web/{i}.jpg" for i in (2, 3, 4, 1)], list("abcd")])
def test_score_known_ids_take_precedence_over_names(names, references, tmp_path, score):
    path = write_results(tmp_path / "results.json", names, ids=range(1, 5))
    assert score(path, references)[0] == pytest.approx(1.0)


def test_score_other_and_failed_images_are_ignored(tiny_captions, tmp_path, score):
    names = [f"../photos/{file}" for file in tiny_captions]
    extra = [
        {"file_name": "../photos/half.png", "error": "it is empty"},
        {"file_name": "../photos/000001.png", "caption": "a dog"},
    ]
    path = write_results(tmp_path / "results.jsonl", names, tiny_captions.values(), extra=extra)
    bleu_1, messages = score(path, f"coco:{TINY}")
    assert bleu_1 == pytest.approx(1.0)
    assert f"Ignored 1 file of {path} that coco:{TINY}, val does not contain." in messages


def test_score_malformed_images_of_annotations_are_ignored(references, tmp_path, score):
    content = json.loads(references.read_text())
    malformed = [{"id": [1], "file_name": "5.jpg"}, {"id": "6", "file_name": "6.jpg"}, 7]
    unannotated = {"id": 8, "file_name": "8.jpg"}
    content["images"] += [*malformed, unannotated, content["images"][0]]
    references.write_text(json.dumps(content))
    names = [f"p/{key}.jpg" for key in range(1, 5)]
    extra = [{"file_name": "p/8.jpg", "caption": "not annotated"}]
    path = write_results(tmp_path / "results.jsonl", names, extra=extra)
    bleu_1, messages = score(path, references)
    assert bleu_1 == pytest.approx(1.0)
    assert "Ignored 1 file of " in messages


def test_score_partial_results_need_subset(references, tmp_path, run):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"image_id": 1, "caption": "a dog runs"}]))
    code, _, messages = run("score", path, references)
    assert code == 1
    assert "has no caption for 3 images of the 4 of " in messages
    assert "(such as 2.jpg). Give --subset" in messages
    code, _, messages = run("score", path, references, "--subset")
    assert code == 0
    assert "Ignored 3 images without a result.\n" in messages
    code, _, messages = run("compare", path, path, references)
    assert code == 1
    assert "(such as 2.jpg). Caption the rest." in messages


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "results.jsonl: No such file or directory."),
        ('{"file_name": "1.jpg", "caption": "a"}\n{"file_na', "results.jsonl, line 2: not valid"),
        ('{"file_name": "1.jpg", "error": "it is empty"}\n', "has no captions for 1 image."),
        ('{"file_name": "1.jpg", "caption": 7}\n', "the caption of row 1 is 7, not a string"),
        (
            '{"file_name": "p/8.jpg", "caption": "a"}\n{"file_name": "9.jpg", "caption": "b"}\n',
            "contains none of the 2 files of ",
        ),
    ],
)
def test_score_unusable_results_are_refused(content, message, references, tmp_path, run):
    path = tmp_path / "results.jsonl"
    if content is not None:
        path.write_text(content)
    code, _, messages = run("score", path, references)
    assert code == 1
    assert message in messages


def test_score_file_names_without_names_in_references_fail(write_references, tmp_path, run):
    path = write_results(tmp_path / "results.jsonl", [f"{key}.jpg" for key in range(1, 5)])
    code, _, messages = run("score", path, write_references())
    assert code == 1
    assert "results.jsonl identifies images by file name, such as 1.jpg" in messages
    assert "references.json has no file names. Give the data set (coco:DIR)" in messages


def test_compare_prints_both_files_above_the_table(tmp_path, run):
    files = []
    for name, caption in (("a", "a dog runs"), ("b", "a cat"), ("references", "a dog runs")):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps([{"image_id": i, "caption": caption} for i in (1, 2)]))
    code, output, _ = run("compare", *files, "--samples", "5")
    assert code == 0
    first, second, empty, head = output.splitlines()[:4]
    assert (first, second, empty) == (f"A: {files[0]}", f"B: {files[1]}", "")
    assert head.split()[:3] == ["A", "B", "A-B"]
