"""Notes on scores, and the choice of the images that are scored."""

import jaxtyping
import pytest
from made_captions import make_captions

from captioning.errors import ScoreError
from captioning.metrics import compare, score

PLAIN = {
    1: ["a dog runs on the grass", "the dog is running"],
    2: ["two cats sleep on a bed", "cats in a bed"],
    3: ["a red ball in the snow", "there is a ball"],
}
GOOD = {1: "a dog runs on the street", 2: "two cats sleep on a chair", 3: "a red ball in the sea"}
TOKENS = ["a", "dog", "runs", "on", "grass"]


def notes_of(candidates, references=PLAIN):
    references = {image: references[image] for image in candidates}
    return score(candidates, references).notes


@pytest.mark.parametrize(
    ("candidates", "references", "note"),
    [
        ({1: GOOD[1]}, PLAIN, "CIDEr is undefined for one image"),
        ({1: "a dog", 2: "a dog"}, {1: ["a dog"], 2: ["a dog"]}, "CIDEr is 0, because all words"),
        (
            {1: "a dog", 2: "a bed"},
            PLAIN,
            "BLEU-3 and BLEU-4 are nearly 0: no candidate has 3 words.",
        ),
        (
            {1: "a dog runs", 2: "two"},
            PLAIN,
            "BLEU-4 is nearly 0: no candidate has 4 words.",
        ),
        ({1: "a dog runs fast"}, PLAIN, "no candidate shares 4 consecutive words with its"),
        (
            {1: "snow", 2: "snow"},
            PLAIN,
            "BLEU-1 to BLEU-4 are nearly 0: no candidate shares a word with its references",
        ),
        *((GOOD | {3: text}, PLAIN, "without words: 1 of 3 (such as image 3)") for text in " ."),
        (dict.fromkeys(PLAIN, "a dog"), PLAIN, "All 3 candidates are 'a dog'. Check that"),
        (GOOD | {1: "<start> a dog <end>"}, PLAIN, "special tokens, such as <start>, which count"),
        ({0: "a dog runs on grass"}, {0: TOKENS}, "The references of 1 image are single words"),
        (GOOD | {4: "a b"}, PLAIN | {3: list("a b"), 4: ["a", "b"]}, "of 2 images are single wo"),
        ({i: r[0] for i, r in PLAIN.items()}, PLAIN, "Every candidate is one of its own reference"),
    ],
)
def test_scores_note_likely_mistakes(candidates, references, note):
    scores = score(candidates, {image: references[image] for image in candidates})
    assert note in " ".join(scores.notes)
    assert note in repr(scores)
    assert len(set(scores.notes)) == len(scores._repr_html_().split("<p>Note: ")) - 1


@pytest.mark.parametrize(
    ("candidates", "references"),
    [
        (GOOD, PLAIN),
        ({1: GOOD[1], 2: GOOD[2]}, PLAIN),
        (GOOD, PLAIN | {3: ["ball", "a red ball in the sea at night"]}),
        (GOOD, PLAIN | {3: ["ball"]}),
        (dict.fromkeys((1, 2), "a dog runs on the bed"), PLAIN),
    ],
)
def test_scores_of_usable_captions_have_no_notes(candidates, references):
    assert score(candidates, {i: references[i] for i in candidates}).notes == ()


def test_compare_names_the_system_of_a_note():
    bad = dict.fromkeys(PLAIN, "a dog")
    one = compare(GOOD, bad, PLAIN, samples=5)
    assert [note[:15] for note in one.notes] == ["B: BLEU-3 and B", "B: All 3 candid"]
    assert f"note: {one.notes[1]}\n" in repr(one)
    assert compare(bad, bad, PLAIN, samples=5).notes == tuple(note[3:] for note in one.notes)


def test_subset_scores_the_common_images():
    candidates, references = make_captions(1, 9)
    few = {i: candidates[i] for i in (1, 3, 5, 7, 8)} | {20: "a dog"}
    fewer = {i: candidates[i] for i in (7, 3, 1)} | {30: "a dog"}
    scores = score(few, references, subset=True)
    assert list(scores.per_image.index) == [1, 3, 5, 7, 8]
    assert (
        scores.values
        == score(*({i: m[i] for i in (1, 3, 5, 7, 8)} for m in (few, references))).values
    )
    assert scores.notes[0].startswith("Scored 5 images, all that have references and a candidate.")
    assert "References were given for 9, candidates for 6." in scores.notes[0]
    result = compare(few, fewer, references, samples=5, subset=True)
    assert list(result.a.per_image.index) == list(result.b.per_image.index) == [1, 3, 7]
    assert result.a.values == score(few, {i: references[i] for i in (1, 3, 7)}, subset=True).values
    assert result.notes[0].endswith("References were given for 9, candidates for 6 and 4.")
    assert "Scored" not in repr(score(candidates, references, subset=True))
    with pytest.raises(ScoreError, match=r"^the image ids of b and references differ: 6 images"):
        compare(candidates, {i: candidates[i] for i in (1, 3, 7)}, references)
    with pytest.raises(ScoreError, match="under the same id"):
        score({30: "a dog"}, references, subset=True)


@pytest.mark.parametrize("function", [score, compare])
def test_unknown_argument_error_names_the_right_ones(function, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    with pytest.raises(
        TypeError, match=f"^{function.__name__}.. has no argument 'predictions'. "
    ) as e:
        function(predictions=["a dog"], references=[["a dog"]])
    assert "references, " in str(e.value)
