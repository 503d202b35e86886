"""Search flags of `caption` and `evaluate`, derived from the search methods."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from small_captioner import WORDS, small_checkpoint, write_photos

from captioning.cli.main import main
from captioning.cli.search_flags import SearchFlags, apply_flags
from captioning.decoding import METHODS, BeamSearch, DiverseBeamSearch, Greedy, Sampling
from captioning.errors import ConfigError
from captioning.inference.captioner import Captioner

TINY = Path(__file__).parents[2] / "data" / "tiny"
RULES = {"max_length": 12, "no_repeat_ngram": 2, "forbidden_words": ("man",)}
OWN = BeamSearch(width=4, length_penalty=0.5, rerank_weight=3.0, **RULES)


@pytest.mark.parametrize(
    ("own", "flags", "expected"),
    [
        (OWN, {}, OWN),
        (Greedy(**RULES), {}, Greedy(**RULES)),
        (OWN, {"search": "beam"}, OWN),
        (
            OWN,
            {"width": 5},
            BeamSearch(width=5, length_penalty=0.5, rerank_weight=3.0, **RULES),
        ),
        (
            OWN,
            {"length_penalty": 0.0, "rerank_weight": 0.0, "no_repeat_ngram": 0},
            BeamSearch(width=4, max_length=12, forbidden_words=("man",)),
        ),
        (
            OWN,
            {"search": "sampling", "top_p": 0.9, "n": 6},
            Sampling(top_p=0.9, n=6, **RULES),
        ),
        (OWN, {"search": "diverse", "groups": 2}, DiverseBeamSearch(groups=2, **RULES)),
        (OWN, {"search": "greedy", "max_length": 9}, Greedy(**{**RULES, "max_length": 9})),
        (Greedy(**RULES), {"search": "beam", "n": 2}, BeamSearch(n=2, **RULES)),
        (Sampling(top_k=9), {"n": 2}, Sampling(top_k=9, n=2)),
        (OWN, {"forbidden_words": ()}, BeamSearch(width=4, length_penalty=0.5, rerank_weight=3.0,
                                                  max_length=12, no_repeat_ngram=2)),
    ],
)  # fmt: skip
def test_apply_flags_changes_only_what_is_given(own, flags, expected):
    assert apply_flags(own, SearchFlags(**flags)) == expected


@pytest.mark.parametrize(("n", "width"), [(2, 4), (4, 4), (6, 6)])
def test_apply_flags_n_widens_a_beam(n, width):
    found = apply_flags(OWN, SearchFlags(n=n))
    assert (found.n, found.width) == (n, width)


@pytest.mark.parametrize(
    ("own", "flags", "message"),
    [
        (OWN, {"top_k": 5}, "--top-k is not a setting of beam search.*--search: sampling"),
        (Greedy(), {"width": 5}, "--width is not a setting of greedy search.*: beam or diverse"),
        (
            OWN,
            {"search": "sampling", "length_penalty": 1.0},
            "--length-penalty is not a setting of sampling search.*: beam or diverse",
        ),
        (OWN, {"search": "diverse", "n": 2}, "--n is not a setting of diverse.*beam or sampling"),
        (OWN, {"width": 0}, "width is 0"),
        (OWN, {"width": 2, "n": 5}, "n is 5, but width is 2"),
        (OWN, {"required_words": ("man",)}, "'man' is both required and forbidden"),
    ],
)
def test_apply_flags_bad_combination_is_refused(own, flags, message):
    with pytest.raises(ConfigError, match=message):
        apply_flags(own, SearchFlags(**flags))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    Captioner(small_checkpoint()).save_pretrained(folder)
    return folder


@pytest.fixture
def run(model, tmp_path, capsys):
    """Run a command on the tiny model, and return its exit code and output."""
    photos = [str(path) for path in write_photos(tmp_path / "photos", 3)]
    inputs = {
        "caption": [*photos, "--model", str(model)],
        "evaluate": [str(model), "--data", f"coco:{TINY}", "-o", str(tmp_path / "found.json")],
    }

    def run(command, *flags):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([command, *inputs[command], "--json", "--workers", "0", *map(str, flags)])
        return stop.value.code, capsys.readouterr()

    return run


def captions_of(output):
    """Return the captions of each image, as words."""
    rows = [json.loads(line) for line in output.out.splitlines()]
    return [[caption.split() for caption in row["captions"]] for row in rows]


def test_caption_diverse_search_by_flags(run):
    code, output = run("caption", "--search", "diverse", "--groups", 4, "--diversity-penalty", 1000)
    assert code == 0
    for captions in captions_of(output):
        assert len({caption[0] for caption in captions}) == 4


def test_caption_required_and_forbidden_words_by_flags(run):
    code, output = run("caption", "--n", 3)
    free = [word for captions in captions_of(output) for words in captions for word in words]
    assert code == 0
    (word, *_) = {word for word in free if word in WORDS}
    missing = next(word for word in WORDS if word not in free)
    code, output = run(
        "caption", "--n", 3, "--forbidden-words", word, "--required-words", missing
    )  # fmt: skip
    assert code == 0
    for captions in captions_of(output):
        assert len(captions) == 3
        assert all(missing in words and word not in words for words in captions)


def test_caption_sampling_by_flags_depends_on_seed(run):
    flags = ("--search", "sampling", "--n", 2, "--top-k", 5, "--temperature", 2)
    first, again, other = (run("caption", *flags, "--seed", s)[1].out for s in (0, 0, 1))
    assert first == again != other


def test_evaluate_signature_names_flags(run):
    flags = ("--search", "diverse", "--groups", 2, "--required-words", "dog", "ball")
    code, output = run("evaluate", *flags, "--forbidden-words", "man")
    assert code == 0
    signature = json.loads(output.out)["signature"]
    assert "search:method=diverse" in signature
    assert "groups=2" in signature
    for words in ("required_words=['dog', 'ball']", "forbidden_words=['man']"):
        assert words in signature


@pytest.mark.parametrize("command", ["caption", "evaluate"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--required-words", "dgo"], "does not know 'dgo'. Did you mean 'dog'?"),
        (["--forbidden-words", "Snow"], "does not know 'Snow'. Did you mean 'snow'?"),
        (["--top-k", "3"], "--top-k is not a setting of beam search"),
        (["--width", "2", "--n", "5"], "--n is 5, but --width is 2"),
        (["--width", "2", "--n", "5"], "Raise --width or lower --n."),
        (["--width", "wide"], "'wide' is not a whole number"),
        (["--search", "beem"], "invalid choice"),
    ],
)
def test_command_bad_search_flags_are_refused(command, flags, message, run):
    code, output = run(command, *flags)
    assert code == 2
    assert message in output.err


def test_caption_words_before_images_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["caption", "--required-words", "dog", "photo.jpg"])
    assert stop.value.code == 2
    assert "Name the images first" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["caption", "evaluate"])
def test_help_lists_every_search_setting(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for method in METHODS.values():
        for field in fields(method):
            assert f"--{field.name.replace('_', '-')} " in text
    assert "Block repeated n-grams of this size (0 to 10000;" in text
    assert "For beam and diverse search." in text


def test_help_of_train_has_one_default_and_plain_values(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main(["train", "--config", "show-and-tell", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", "").replace("|", "").split())
    assert "--training.hflip {True,False} Flip each image" in text
    assert "--decoder.tie-weights {True,False} Use" in text  # also with a recipe that sets it
    assert "--cache PATH Directory" in text
    assert "(default: 1 each)" in text
    assert "--config TEXT Config file" in text
    assert "``" not in text
    assert "captioning train --data" in text


@pytest.mark.parametrize("command", ["caption", "evaluate"])
def test_help_groups_flags_in_sections(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    sections = [
        text.index(f" {title} options ") for title in ("input", "output", "model", "search")
    ]
    assert sections == sorted(sections)
    assert sections[-1] < text.index("--width ")
