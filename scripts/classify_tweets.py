"""Many to one: each recurrent cell says whether a tweet is glad or sad.

    pip download --no-deps --no-binary :all: vaderSentiment
    pip install vaderSentiment scikit-learn
    python scripts/classify_tweets.py vaderSentiment-3.3.2.tar.gz

The source distribution of that package carries the sentences of Hutto & Gilbert (2014), VADER, each
with the mean rating of twenty people from -4 to 4: 4,200 tweets, and sentences of film reviews,
product reviews and editorials. A fifth of the tweets is held out to test on, another one with each
seed; all the rest is trained on, a tenth of it to choose the epoch by. Sentences rated between -0.5
and 0.5 are left out. A bag of words (logistic regression) learns from the same sentences, and the
package's own tool, a lexicon with rules, which was made with these very sentences, learns nothing.

Last, a pair that holds the same words: no bag of words can tell the two apart.
"""

import argparse
import io
import random
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import torch
from nltk.tokenize import TweetTokenizer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from captioning.nn.cells import CELLS
from captioning.nn.classifier import SequenceClassifier

PAIR = ("The food was good, not bad at all.", "The food was bad, not good at all.")
UNDECIDED = 0.5
UNKNOWN = 0
split_words = TweetTokenizer(preserve_case=False, reduce_len=True).tokenize
Judge = Callable[[Sequence[str]], list[bool]]


@dataclass(frozen=True)
class Sentence:
    """A sentence that people found glad or sad.

    Attributes:
        text: What it says.
        glad: Whether its mean rating is above zero.
    """

    text: str
    glad: bool


@dataclass(frozen=True)
class Outcome:
    """What one system did with one seed.

    Attributes:
        accuracy: Share of the held-out tweets judged as people did.
        pair: Whether each of the pair was judged glad.
        parameters: How many numbers were learned.
        seconds: Of training.
    """

    accuracy: float
    pair: tuple[bool, bool]
    parameters: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="vaderSentiment-*.tar.gz from PyPI")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--tweets-only", action="store_true", help="train on tweets alone")
    arguments = parser.parse_args()
    kinds = read(arguments.source)
    print(", ".join(f"{len(own)} {kind}" for kind, own in kinds.items()))
    found: dict[str, list[Outcome]] = {}
    for seed in range(arguments.seeds):
        tweets = random.Random(seed).sample(kinds["tweets"], len(kinds["tweets"]))
        cut = len(tweets) // 5
        test, train = tweets[:cut], tweets[cut:]
        if not arguments.tweets_only:
            train += [each for kind, own in kinds.items() if kind != "tweets" for each in own]
        systems = {
            "lexicon and rules": lambda train=train: lexicon(),
            "bag of words": lambda train=train: bag_of_words(train),
            **{
                cell: lambda cell=cell, train=train, seed=seed: recurrent(
                    cell, train, seed, arguments.epochs
                )
                for cell in CELLS
            },
        }
        for name, make in systems.items():
            start = time.perf_counter()
            judge, parameters = make()
            seconds = time.perf_counter() - start
            right = [
                glad == each.glad
                for glad, each in zip(judge([each.text for each in test]), test, strict=True)
            ]
            first, second = judge(PAIR)
            outcome = Outcome(mean(right), (first, second), parameters, seconds)
            found.setdefault(name, []).append(outcome)
    print(table(found))


# --- the sentences --------------------------------------------------------------------------------


def read(source: Path) -> dict[str, list[Sentence]]:
    """Return the rated sentences of each kind, those that people agreed on."""
    kinds: dict[str, list[Sentence]] = {}
    with tarfile.open(source) as outer:
        (inner,) = (name for name in outer.getnames() if name.endswith("hutto_ICWSM_2014.tar.gz"))
        content = outer.extractfile(inner)
        assert content is not None
        with tarfile.open(fileobj=io.BytesIO(content.read())) as archive:
            for name in archive.getnames():
                if name.endswith("_GroundTruth.txt"):
                    file = archive.extractfile(name)
                    assert file is not None
                    kind = Path(name).name.removesuffix("_GroundTruth.txt")
                    lines = file.read().decode("utf-8", errors="replace").splitlines()
                    kinds[kind] = [each for line in lines for each in sentence(line)]
    return kinds


def sentence(line: str) -> list[Sentence]:
    """Return the sentence of one line, ``NUMBER<TAB>RATING<TAB>TEXT``, unless it is undecided."""
    _, rating, text = line.split("\t", 2)
    return [Sentence(text, float(rating) > 0)] if abs(float(rating)) >= UNDECIDED else []


# --- what judges them -----------------------------------------------------------------------------


def lexicon() -> tuple[Judge, int]:
    """Return the tool that the sentences come with."""
    tool = SentimentIntensityAnalyzer()
    return lambda texts: [tool.polarity_scores(text)["compound"] > 0 for text in texts], 0


def bag_of_words(train: Sequence[Sentence]) -> tuple[Judge, int]:
    """Return a logistic regression on how often each word is there."""
    model = make_pipeline(
        CountVectorizer(tokenizer=split_words, token_pattern=None, lowercase=False, min_df=2),
        LogisticRegression(max_iter=1000),
    )
    model.fit([each.text for each in train], [each.glad for each in train])
    return lambda texts: list(map(bool, model.predict(texts))), int(model[-1].coef_.size) + 1


def recurrent(cell: str, train: Sequence[Sentence], seed: int, epochs: int) -> tuple[Judge, int]:
    """Return a sequence classifier, of the epoch that judged a tenth of the sentences best."""
    torch.manual_seed(seed)
    random.seed(seed)
    drawn = random.Random(seed).sample(list(train), len(train))
    cut = len(drawn) // 10
    held, taught = drawn[:cut], drawn[cut:]
    counts = Counter(word for each in taught for word in split_words(each.text))
    words = {word: place for place, (word, count) in enumerate(counts.items(), 1) if count > 1}

    def packed(texts: Sequence[str]) -> PackedSequence:
        ids = [[words.get(word, UNKNOWN) for word in split_words(text)] for text in texts]
        rows = [torch.tensor(each or [UNKNOWN]) for each in ids]
        return pack_sequence(rows, enforce_sorted=False)

    @torch.inference_mode()
    def judge(texts: Sequence[str]) -> list[bool]:
        model.eval()
        return list(map(bool, model(packed(texts)).argmax(1).tolist()))

    model = SequenceClassifier(max(words.values()) + 1, 2, cell=cell)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    best, best_right = model.state_dict(), -1
    for _ in range(epochs):
        model.train()
        for some in batches(taught):
            glad = torch.tensor([int(each.glad) for each in some])
            logits = model(packed([each.text for each in some]))
            loss = torch.nn.functional.cross_entropy(logits, glad)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        verdicts = judge([each.text for each in held])
        right = sum(glad == each.glad for glad, each in zip(verdicts, held, strict=True))
        if right > best_right:
            best_right = right
            best = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.load_state_dict(best)
    return judge, sum(weight.numel() for weight in model.parameters())


def batches(sentences: Sequence[Sentence], size: int = 64) -> list[list[Sentence]]:
    """Return the sentences in an order drawn at random, some at a time."""
    drawn = random.sample(list(sentences), len(sentences))
    return [drawn[start : start + size] for start in range(0, len(drawn), size)]


def table(found: dict[str, list[Outcome]]) -> str:
    """Return the results in Markdown."""
    lines = [
        "| system | parameters | seconds | accuracy on tweets | the pair right |",
        "|---|---|---|---|---|",
    ]
    for name, outcomes in found.items():
        accuracies = [100 * each.accuracy for each in outcomes]
        spread = f" ± {stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
        both = sum(each.pair == (True, False) for each in outcomes)
        lines.append(
            f"| {name} | {outcomes[0].parameters:,} | {mean(o.seconds for o in outcomes):.0f} | "
            f"{mean(accuracies):.1f}{spread} | {both} of {len(outcomes)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
