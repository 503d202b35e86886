"""``captioning score`` and ``compare``: how results are matched to references, and what fails."""

import json
import unicodedata
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
from caption_runs import read_rows
from made_captions import make_captions, score_officially
from required_tools import require_tool

from captioning.cli.main import main
from captioning.metrics import DocumentFrequency

official = require_tool("pycocoevalcap", find_spec("pycocoevalcap") is not None)

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
        (("3.jpg", "x/3.jpg", "y/4.jpg", "a/1.jpg"), "for 1 image (such as 3.jpg). Keep one"),
    ):
        code, _, messages = run("score", write_results(path, files), references)
        assert code == 1
        assert message in messages


def test_score_files_of_one_stem_are_matched_by_folder(write_references, tmp_path, score):
    names = [f"{folder}/image" for folder in "abcd"]
    references = write_references(*(f"{name}.jpg" for name in names))
    path = write_results(tmp_path / "results.jsonl", [f"photos/{name}.png" for name in names])
    assert score(path, references)[0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "ids", [range(1, 5), ["1", "2", "3", "4"], [f"{i:012}" for i in (1, 2, 3, 4)]]
)
@pytest.mark.parametrize("names", [list("abcd"), [f"{i}.jpg" for i in (1, 2, 3, 4)]])
def test_score_known_ids_take_precedence_over_names(ids, names, references, tmp_path, score):
    path = write_results(tmp_path / "results.json", names, ids=ids)
    bleu_1, messages = score(path, references)
    assert bleu_1 == pytest.approx(1.0)
    assert ("matched by id, such as " in messages) == isinstance(ids, list)


def test_score_ids_and_names_that_disagree_fail(references, tmp_path, run, score):
    names = [f"web/{i}.jpg" for i in (2, 3, 4, 1)]
    path = write_results(tmp_path / "results.json", names, ids=range(1, 5))
    code, _, messages = run("score", path, references)
    assert code == 1
    assert "image_id 1 is 1.jpg in " in messages
    assert "but has the file name web/2.jpg." in messages
    # Ids that are numbers of file names by chance do not name all images.
    path = write_results(path, [f"{i}.jpg" for i in (1, 2, 3, 4)], ids=(2, 3, 4, 5))
    bleu_1, messages = score(path, references)
    assert bleu_1 == pytest.approx(1.0)
    assert "matched by file name" in messages


@official
@pytest.mark.parametrize("numbers", [True, False])
@pytest.mark.parametrize("ending", ["json", "csv", "tsv", "jsonl", "parquet", "dict.json"])
def test_score_string_ids_equal_pycocoevalcap(ending, numbers, tmp_path, run):
    ids = [f"{'' if numbers else 'vid'}{key}" for key in range(30)]
    candidates, references = (dict(zip(ids, c.values(), strict=True)) for c in make_captions(4, 30))
    annotations = [
        {"image_id": image, "id": number, "caption": text}
        for number, (image, texts) in enumerate(references.items())
        for text in texts
    ]
    truth = tmp_path / "references.json"
    images = [{"id": image} for image in ids]
    truth.write_text(json.dumps({"images": images, "annotations": annotations}))
    rows = pd.DataFrame({"image_id": ids, "caption": candidates.values()}).iloc[::-1]
    path = tmp_path / f"results.{ending}"
    if ending == "dict.json":
        path.write_text(json.dumps(candidates))
    elif ending == "parquet":
        rows.to_parquet(path)
    elif ending in ("csv", "tsv"):
        rows.to_csv(path, index=False, sep="," if ending == "csv" else "\t")
    else:
        rows.to_json(path, orient="records", lines=ending == "jsonl")
    code, output, _ = run("score", path, truth, "--json")
    assert code == 0
    scores = json.loads(output)["scores"]
    for name, (corpus, _) in score_officially(candidates, references).items():
        assert scores[name] == pytest.approx(corpus, abs=1e-8)


@pytest.mark.parametrize("name", ["r.jsonl", "r.csv", "r.json", "r.parquet"])
def test_score_reads_every_output_of_caption(name, photos, tmp_path, caption, run):
    assert caption(*photos, "-o", tmp_path / "all.jsonl", "--n", 2).code == 0
    texts = [row["captions"] for row in read_rows(tmp_path / "all.jsonl")]
    images = [{"id": f"id {i}", "file_name": f"x/{path.name}"} for i, path in enumerate(photos)]
    entries = [{"image_id": f"id {i}", "caption": text[0]} for i, text in enumerate(texts)]
    references = tmp_path / "references.json"
    references.write_text(json.dumps({"images": images, "annotations": entries}))
    (tmp_path / "half.jpg").write_bytes(b"no image")
    assert caption(*photos[::-1], tmp_path / "half.jpg", "-o", tmp_path / name).code == 1
    code, output, messages = run("score", tmp_path / name, references, "--json")
    assert code == 0
    assert json.loads(output)["scores"]["rouge_l"] == pytest.approx(1.0)
    code, output, messages = run("score", tmp_path / "all.jsonl", references, "--json")
    assert json.loads(output)["scores"]["rouge_l"] == pytest.approx(1.0)
    assert "all.jsonl: 3 images with several captions; only the first caption is scored" in messages


@pytest.mark.parametrize("kind", ["karpathy", "jsonl", "csv", "flickr8k", "dict"])
def test_score_reads_bare_files_of_references(kind, tmp_path, score):
    names = [f"{i}.jpg" for i in range(1, 5)]
    pairs = list(zip(names, CAPTIONS, strict=True))
    images = [
        {"filename": name, "imgid": i, "split": "val", "sentences": [{"raw": text, "tokens": []}]}
        for i, (name, text) in enumerate(pairs)
    ]
    name, content = {
        "karpathy": ("dataset.json", json.dumps({"images": images, "dataset": "x"})),
        "jsonl": (
            "r.jsonl",
            "".join(json.dumps({"image": n, "caption": t}) + "\n" for n, t in pairs),
        ),
        "csv": ("r.csv", "image,caption\n" + "".join(f"{n},{t}\n" for n, t in pairs)),
        "flickr8k": ("Flickr8k.token.txt", "".join(f"{n}#0\t{t}\n" for n, t in pairs)),
        "dict": ("r.json", json.dumps({n: [t] for n, t in pairs})),
    }[kind]
    (tmp_path / name).write_text(content)
    (tmp_path / "Flickr_8k.devImages.txt").write_text("\n".join(names))
    path = write_results(tmp_path / "results.jsonl", [f"photos/{name}" for name in names])
    assert score(path, tmp_path / name)[0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "change",
    [lambda name: name.replace(".jpg", ".png"), lambda name: f"C:\\photos\\{name}", "é{}".format],
    ids=["ending", "windows", "decomposed"],
)
def test_score_names_of_other_systems_are_matched(change, write_references, tmp_path, score):
    names = ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    if change("") == "é":
        references = write_references(*(unicodedata.normalize("NFD", change(n)) for n in names))
    else:
        references = write_references(*names)
    path = write_results(tmp_path / "results.jsonl", [change(name) for name in names])
    assert score(path, references)[0] == pytest.approx(1.0)


def test_score_malformed_images_of_annotations_are_ignored(references, tmp_path, score):
    content = json.loads(references.read_text())
    malformed = [{"id": [1], "file_name": "5.jpg"}, {"id": "6", "file_name": "6.jpg"}, 7]
    unannotated = {"id": 8, "file_name": "8.jpg"}
    content["images"] += [*malformed, unannotated, content["images"][0]]
    references.write_text(json.dumps(content))
    path = write_results(tmp_path / "results.jsonl", [f"p/{key}.jpg" for key in range(1, 5)])
    assert score(path, references)[0] == pytest.approx(1.0)


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_score_other_images_need_subset(ending, references, tmp_path, run):
    names, ids = ("a/1.jpg", "a/2.jpg", "a/9.jpg"), (1, 2, 9)
    one = write_results(tmp_path / f"one.{ending}", names, CAPTIONS[:3], ids)
    two = write_results(tmp_path / f"two.{ending}", names[1:], CAPTIONS[1:3], ids[1:])
    same = write_results(
        tmp_path / f"same.{ending}", [f"{i}.jpg" for i in range(1, 5)], ids=range(1, 5)
    )
    other = "'a/9.jpg'" if ending == "jsonl" else "9"
    for words in (("score", one), ("compare", one, same), ("compare", same, one)):
        code, _, messages = run(*words, references)
        assert code == 1
        assert f"one.{ending}' has captions for 3 images, and " in messages
        assert "has references for 4: 2 images without a caption, such as 3.jpg; " in messages
        assert f"1 image without references, such as {other}. Use --subset to" in messages
    code, output, _ = run("score", one, references, "--subset")
    assert code == 0
    assert "note: Scored 2 images, all that have references and a candidate. Ref" in output
    assert "distinct captions       2 of 2" in output
    code, output, _ = run("compare", one, two, references, "--subset", "--samples", 5)
    assert code == 0
    assert "note: Scored 1 image, all that have" in output
    assert "candidates for 3 and 2." in output


def test_score_split_of_coco_annotations_is_reported(references, tmp_path, run):
    path = write_results(tmp_path / "results.jsonl", [f"{number}.jpg" for number in range(1, 5)])
    notice = f"--split has no effect on the COCO annotations '{references}'."
    assert notice in run("score", path, references, "--split", "test")[2]
    assert notice in run("compare", path, path, references, "--split", "test", "--samples", "1")[2]
    assert "--split" not in run("score", path, references)[2]


def test_score_document_frequency_is_read_from_a_file(references, tmp_path, run):
    path = write_results(tmp_path / "results.jsonl", ["1.jpg"], CAPTIONS[:1])
    table = tmp_path / "df.json"
    words = dict(enumerate([caption] for caption in CAPTIONS))
    table.write_text(DocumentFrequency.build(words, name="made").to_json())
    arguments = ("score", path, references, "--subset", "--json", "--document-frequency", table)
    code, output, _ = run(*arguments)
    assert code == 0
    assert json.loads(output)["scores"]["cider"] == pytest.approx(7.5)  # no 4-gram in three words
    table.unlink()
    code, _, messages = run(*arguments)
    assert code == 1
    assert "df.json': no such file" in messages


def test_score_swapped_files_are_named(references, tmp_path, run):
    results = tmp_path / "results.json"
    results.write_text('[\n{"image_id": 1, "caption": "a dog", "file_name": "1.jpg"}\n]\n')
    rows = tmp_path / "results.jsonl"
    rows.write_text('{"file_name": "1.jpg", "text": "a", "log_prob": -1.0}\n')
    plain = tmp_path / "plain.json"
    plain.write_text('[{"image_id": 1, "caption": "a dog"}]')
    data = f"coco:{TINY}"
    for words, message in (
        ((references, results), "results.json holds results, not references. Pass the references"),
        ((references, rows), "results.jsonl holds results, not references. Pass the references l"),
        ((references, plain), "references.json holds references, not results. Pass the results f"),
        ((data, plain), f"'{data}' is a data set, not results. Pass the references last."),
        ((results, TINY), f"is a folder. Name its format: flickr8k:{TINY} or coco:{TINY}"),
    ):
        code, _, messages = run("score", *words)
        assert code == 1
        assert message in messages


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "results.jsonl': no such file."),
        ('{"file_name": "1.jpg", "caption": "a"}\n{"file_na', "results.jsonl, line 2: not valid"),
        ('{"file_name": "1.jpg", "error": "it is empty"}\n', "has no captions for 1 image."),
        ('{"file_name": "1.jpg", "caption": 7}\n', "row 1 has the caption 7, not a string"),
        ('{"file_name": "1.jpg"}\n', "row 1 has no caption: expected text or caption"),
        ('{"photo": "1.jpg", "text": "a"}\n{"photo": "2.jpg", "text": "b"}', "row 1 has no image"),
        ("", "results.jsonl' is empty."),
        ("[]", "results.jsonl' has no captions. Write results with"),
        ("[1]", "row 1 is 1, not an image with its caption"),
        (
            '{"file_name": "p/8.jpg", "caption": "a"}\n{"file_name": "9.jpg", "caption": "b"}\n',
            "such as 1.jpg, and the results images such as p/8.jpg. Check the files and the split.",
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


def test_score_file_names_without_names_in_references_fail(write_references, tmp_path, run, score):
    path, references = tmp_path / "results.jsonl", write_references()
    code, _, messages = run(
        "score", write_results(path, [f"x{i}.jpg" for i in range(4)]), references
    )
    assert code == 1
    assert "results.jsonl' identifies images by file name, such as x0.jpg" in messages
    assert "references.json' has no file names. Give the data set (coco:DIR)" in messages
    assert score(write_results(path, [f"x/{i}.jpg" for i in range(1, 5)]), references)[0] > 0.99


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
