"""Compare the BLEU-4 that different libraries give for the same captions.

    python scripts/compare_bleu_libraries.py captions.json flickr8k:Flickr8k --split val

``captions.json`` is a COCO results file, as ``captioning evaluate -o`` writes it. The script prints
a Markdown table for docs/evaluation.md. Libraries that are not installed are left out of the table:
``pip install sacrebleu torchmetrics``.
"""

import argparse
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

from captioning import read_captions, score, tokenize

Captions = list[str]
References = list[list[str]]


def read_pairs(results: Path, data: str, split: str) -> tuple[Captions, References]:
    """Return the captions and the references of the same images, in the same order."""
    images = read_captions(data, split=split).images
    found = {row["image_id"]: row["caption"] for row in json.loads(results.read_text("utf-8"))}
    scored = [image for image in images if image.image_id in found]
    return [found[each.image_id] for each in scored], [list(each.captions) for each in scored]


def ours(captions: Captions, references: References) -> float:
    return score(dict(enumerate(captions)), dict(enumerate(references))).bleu_4


def nltk_split(captions: Captions, references: References) -> float:
    return corpus_bleu(
        [[r.split() for r in each] for each in references], [c.split() for c in captions]
    )


def nltk_lower(captions: Captions, references: References) -> float:
    lower = [[r.lower() for r in each] for each in references]
    return nltk_split([c.lower() for c in captions], lower)


def nltk_ptb(captions: Captions, references: References) -> float:
    tokens = [[tokenize(r) for r in each] for each in references]
    return corpus_bleu(tokens, [tokenize(c) for c in captions])


def nltk_sentence_mean(captions: Captions, references: References) -> float:
    from nltk.translate.bleu_score import sentence_bleu

    smooth = SmoothingFunction().method1
    values = [
        sentence_bleu([tokenize(r) for r in each], tokenize(caption), smoothing_function=smooth)
        for caption, each in zip(captions, references, strict=True)
    ]
    return sum(values) / len(values)


def sacrebleu_13a(captions: Captions, references: References) -> float:
    import sacrebleu

    streams = [list(stream) for stream in zip(*references, strict=True)]
    return sacrebleu.corpus_bleu(captions, streams).score / 100


def sacrebleu_lower(captions: Captions, references: References) -> float:
    import sacrebleu

    streams = [list(stream) for stream in zip(*references, strict=True)]
    return sacrebleu.corpus_bleu(captions, streams, lowercase=True).score / 100


def torchmetrics_bleu(captions: Captions, references: References) -> float:
    from torchmetrics.functional.text import bleu_score

    return float(bleu_score(captions, references))


def pycocoevalcap_bleu(captions: Captions, references: References) -> float:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    gts = tokenizer.tokenize({n: [{"caption": r} for r in rs] for n, rs in enumerate(references)})
    res = tokenizer.tokenize({n: [{"caption": c}] for n, c in enumerate(captions)})
    values, _ = Bleu(4).compute_score(gts, res, verbose=0)
    return float(values[3])


ROWS: list[tuple[str, str, Callable[[Captions, References], float]]] = [
    ("captioning", "`score(captions, references)`", ours),
    (
        "pycocoevalcap",
        "Stanford PTB tokenizer (Java), lower case, punctuation dropped",
        pycocoevalcap_bleu,
    ),
    ("nltk", "`corpus_bleu` on the tokens of `captioning.tokenize`", nltk_ptb),
    ("nltk", "`corpus_bleu` on `str.split()`", nltk_split),
    ("nltk", "`corpus_bleu` on `str.lower().split()`", nltk_lower),
    ("nltk", "mean of `sentence_bleu`, smoothing method 1, same tokens", nltk_sentence_mean),
    (
        "torchmetrics",
        "`bleu_score`: splits at white space, keeps case and punctuation",
        torchmetrics_bleu,
    ),
    ("sacrebleu", "`corpus_bleu`: tokenizer 13a, keeps case and punctuation", sacrebleu_13a),
    ("sacrebleu", "`corpus_bleu(lowercase=True)`", sacrebleu_lower),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("data")
    parser.add_argument("--split", default="val")
    arguments = parser.parse_args()
    captions, references = read_pairs(arguments.results, arguments.data, arguments.split)
    print("| library | how it is called | BLEU-4 x 100 |\n|---|---|---|")
    for library, description, measure in ROWS:
        if importlib.util.find_spec(library) is None:
            continue
        print(f"| {library} | {description} | {100 * measure(captions, references):.2f} |")


if __name__ == "__main__":
    main()
