# ruff: noqa: RUF001 (characters that look alike are the point here)
"""Compare words and scores with pycocoevalcap. Needs Java and the extra ``java-metrics``.

    python scripts/metric_parity.py captions.json Flickr8k.token.txt more.tsv.gz
    python scripts/metric_parity.py Flickr8k.token.txt --results captions.json --data flickr8k:DIR

Reads caption files (COCO annotations, Flickr8k tokens, or lines of ``id<TAB>caption``), and prints

1. the number of captions that the two tokenizers split differently, for each file and for
   generated hard captions (``--fuzz`` of them, mutated from real ones or joined from pieces);
2. the largest difference of any score, for the corpus and for single images, in several cases.
"""

import argparse
import gzip
import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from captioning.cli.references import load_references
from captioning.datasets import read_results
from captioning.metrics import score
from captioning.text.tokenizer import PUNCTUATION, tokenize, tokenize_lines

NAMES = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"]
HARD = """can't dog's dogs' it’s 'tis 'twas o'clock rock'n'roll y'all O'Malley l'eau c'est ‘a’ “a”
"a" 'a' ''a'' ``a'' «a» cannot gonna gimme dunno t-shirt, ice-cream. and/or a/b/c 1/2 1 1/2 ½ ⅓ 50%
$5.99 US$5 £10 €10 5¢ 10,000 -5 .5 5:30pm 5'10" 6ft. 12/25/2014 '90s 90's '92 1st 5-year-old ...
.... . . . … ?! --- ---- — ( ) [ ] { } (555)555-1234 (555) 555-1234 +44 20 7946 www.a.com
a.com/b?c=d http://a.com/b?c=d. https://a.b/c(d) x@a.com <x@a.com> a.txt b.jpg. U.S. Mr. St. Jan.
No. no. 5 etc. a.m. Ph.D. Inc. Co. K. Z. The A. AT&T &amp; &lt; &nbsp; &quot; &eacute; <b> </b>
<a b="c"> <3 :) :-( ^_^ #tag @name @ # ** + = << ~ ^ | \\ / 20°C © café naïve İstanbul ſ Ω Ⓐ 😀 👍🏽
中文 русский हिन्दी a\u00adb \u00ad a\u00a0b \u2003 \u200b c++ C# OK! 'n' 'em ol' pro- -LRB- a.b
a..b a!b n't 's 'll 've H₂O 10⁻³ ٣ １２ 。 ‐ ― ⁄ ¡ ´ ` ' " x_y a@ _ __ c'mon""".split()  # noqa: SIM905
JOINTS = ["", " ", " ", " ", "-", "'", ".", ",", "/", "\u00a0", "&", ")", '"']


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("captions", nargs="+", type=Path, help="caption files")
    parser.add_argument(
        "--fuzz", type=int, default=100_000, help="number of hard captions to generate"
    )
    parser.add_argument("--results", type=Path, help="results file of captioning evaluate")
    parser.add_argument("--data", help="data set of --results, such as flickr8k:DIR")
    parser.add_argument("--split", default="val", help="split of --data")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if shutil.which("java") is None or find_spec("pycocoevalcap") is None:
        sys.exit('Needs Java on the PATH and: pip install ".[java-metrics]"')

    images: dict[object, list[str]] = {}
    total = different = 0
    for path in args.captions:
        captions = list(read_captions(path))
        for image, caption in captions:
            images.setdefault((path.name, image), []).append(caption)
        found = find_differences([caption for _, caption in captions])
        print(f"{path.name}: {len(captions)} captions, {len(found)} differences")
        print_differences(found)
        total, different = total + len(captions), different + len(found)
    print(f"all files: {total} captions, {different} differences")

    rng = random.Random(args.seed)
    real = [caption for captions in images.values() for caption in captions]
    hard = [make_hard_caption(rng, real) for _ in range(args.fuzz)]
    found = find_differences(hard, alone=True)
    print(f"generated: {len(hard)} captions, {len(found)} differences")
    print_differences(found)

    worst = max(compare_scores(images, rng))
    if args.results:
        candidates = read_results(args.results)
        references = dict(load_references(args.data, args.split).captions)
        corpus, image = largest_difference(candidates, references)
        print(f"{len(references):>5} images, {args.results.name} "
              f"corpus {corpus:.1e}, per image {image:.1e}")  # fmt: skip
        worst = max(worst, corpus, image)
    print(json.dumps({"captions": total, "token_differences": different,
                      "hard_captions": len(hard), "hard_differences": len(found),
                      "largest_score_difference": worst}))  # fmt: skip


def read_captions(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the image and the caption of each line or entry of a file."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    if text.startswith("{"):
        for entry in json.loads(text)["annotations"]:
            yield str(entry["image_id"]), entry["caption"]
    else:
        for line in text.split("\n"):
            if line.strip():
                image, caption = line.rstrip("\r").split("\t", 1)
                yield image.split("#")[0], caption


def tokenize_officially(captions: list[str]) -> list[list[str]]:
    """Tokenize with Java, all captions in one file as pycocoevalcap writes it."""
    folder = Path(next(iter(find_spec("pycocoevalcap").submodule_search_locations))) / "tokenizer"
    with tempfile.NamedTemporaryFile("wb") as file:
        file.write("\n".join(caption.replace("\n", " ") for caption in captions).encode())
        file.flush()
        done = subprocess.run(
            ["java", "-cp", folder / "stanford-corenlp-3.4.1.jar",
             "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", file.name],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
        )  # fmt: skip
    lines = done.stdout.decode().split("\n")[: len(captions)]
    return [[w for w in ln.rstrip().split(" ") if w and w not in PUNCTUATION] for ln in lines]


def find_differences(captions: list[str], *, alone: bool = False) -> list[tuple[str, list, list]]:
    """Return the captions with different words. ``alone`` tokenizes them independently."""
    if alone:
        theirs = tokenize_officially([line for caption in captions for line in (caption, "x x")])[
            ::2
        ]
        ours = [tokenize(caption) for caption in captions]
    else:
        theirs, ours = tokenize_officially(captions), tokenize_lines(captions)
    return [row for row in zip(captions, theirs, ours, strict=True) if row[1] != row[2]]


def print_differences(found: list[tuple[str, list, list]]) -> None:
    for caption, theirs, ours in sorted(found, key=lambda row: len(row[0]))[:10]:
        print(f"  {caption!r}\n    official {theirs}\n    ours     {ours}")


def make_hard_caption(rng: random.Random, real: list[str]) -> str:
    """Return a caption joined from hard words, or a mutated real caption."""
    if rng.random() < 0.5:
        words = rng.choice(real).split(" ")
        for _ in range(rng.randint(1, 3)):
            words.insert(rng.randint(0, len(words)), rng.choice(HARD))
        letters = list(" ".join(words))
        for _ in range(rng.randint(0, 2)):
            letters[rng.randrange(len(letters))] = rng.choice("'-.,/&$#@:;()\"!?0 %~*_Aé’“")
        return "".join(letters)
    pieces = [rng.choice(HARD) + rng.choice(JOINTS) for _ in range(rng.randint(1, 8))]
    return "".join(pieces)


def compare_scores(images: dict[object, list[str]], rng: random.Random) -> Iterator[float]:
    """Yield the largest score difference of each case, and print it."""
    several = [key for key, captions in images.items() if len(captions) > 1]
    words = [word for key in several[:200] for word in images[key][0].split()]
    for n in (1, 2, 1000):
        ids = several[:n]
        references = {key: images[key] for key in ids}
        cases = {
            "human against human": (
                {key: images[key][0] for key in ids},
                {key: images[key][1:] for key in ids},
            ),
            "random words": (
                {key: " ".join(rng.choices(words, k=rng.randint(1, 15))) for key in ids},
                references,
            ),
            "empty candidates": (dict.fromkeys(ids, ""), references),
        }
        for name, (candidates, truth) in cases.items():
            corpus, image = largest_difference(candidates, truth)
            print(f"{len(ids):>5} images, {name:<20} corpus {corpus:.1e}, per image {image:.1e}")
            yield max(corpus, image)


def largest_difference(candidates: dict, references: dict) -> tuple[float, float]:
    """Return the largest difference of a corpus score and of a score of one image."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    ids = list(references)
    found = {
        key: [" ".join(words)]
        for key, words in zip(ids, tokenize_officially([candidates[k] for k in ids]), strict=True)
    }
    flat = iter(tokenize_officially([caption for key in ids for caption in references[key]]))
    truth = {key: [" ".join(next(flat)) for _ in references[key]] for key in ids}
    bleu, bleus = Bleu(4).compute_score(truth, found, verbose=0)
    rouge, rouges = Rouge().compute_score(truth, found)
    cider, ciders = Cider().compute_score(truth, found)
    ours = score(candidates, references)
    corpus = image = 0.0
    for name, one, many in zip(NAMES, [*bleu, rouge, cider], [*bleus, rouges, ciders], strict=True):
        if getattr(ours, name) is None:  # CIDEr of one image, which pycocoevalcap defines as 0
            continue
        corpus = max(corpus, abs(getattr(ours, name) - one))
        image = max(image, *(abs(a - b) for a, b in zip(ours.per_image[name], many, strict=True)))
    if math.isnan(image):
        sys.exit("A score of an image is not a number.")
    return float(corpus), float(image)


if __name__ == "__main__":
    main()
