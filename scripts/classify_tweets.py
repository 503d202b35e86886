"""Many to one: each recurrent cell says whether a tweet is glad or sad, beside bags of words.

    pip download --no-deps --no-binary :all: vaderSentiment
    python scripts/classify_tweets.py vaderSentiment-3.3.2.tar.gz
    python scripts/classify_tweets.py vaderSentiment-3.3.2.tar.gz --taught all --seeds 3

The source distribution of that package carries the sentences of Hutto & Gilbert (2014), VADER, each
with the mean rating of some twenty people from -4 to 4: 4,200 tweets, and sentences of film
reviews, product reviews and editorials. Seeds 0 to 4 are the five folds of one shuffle of the
tweets, the next five those of another. A fifth is asked about, a tenth chooses the epoch, the rest
is taught, with ``--taught all`` beside all sentences that are no tweets.

A rating r is taught as the probability sigmoid(2r) of being glad, to nets and bags alike. Asked
about are tweets rated 0.5 or more, or -0.5 or less. The package's own tool, a lexicon with rules,
learns nothing; it is made by those who collected the tweets, so it is no stranger to them. It is
left out where the package is not installed (``pip install --no-deps vaderSentiment``).

Last, pairs that hold the same words: a bag of words must give both the same score.
"""

import argparse
import io
import json
import random
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from nltk.tokenize import TweetTokenizer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from captioning.errors import DataError
from captioning.lecture.classifier import SequenceClassifier, pack
from captioning.nn.cells import CELLS
from captioning.text.vocabulary import Vocabulary

PAIR = ("The food was good, not bad at all.", "The food was bad, not good at all.")
TWINS = [
    (f"The {thing} was {good}, not {bad} at all.", f"The {thing} was {bad}, not {good} at all.")
    for thing, good, bad in product(
        ("food", "movie", "day"),
        ("good", "great", "nice", "excellent", "wonderful"),
        ("bad", "terrible", "awful", "boring", "poor"),
    )
]
FOLDS = 5
DECIDED = 0.5
BATCHES = {"tweets": (12, 64), "all": (5, 128)}  # epochs, and sentences in a batch
split_words = TweetTokenizer(preserve_case=False, reduce_len=True).tokenize
Example = tuple[list[int], float]
"""Word ids, and the probability of being glad."""
Score = Callable[[Sequence[str]], Sequence[float]]
"""From texts to how glad they are: above zero is glad."""


@dataclass(frozen=True)
class Rated:
    """A text and the mean of its ratings, from -4 to 4."""

    text: str
    rating: float

    @property
    def glad(self) -> float:
        """The probability that is taught."""
        return 1 / (1 + np.exp(-2 * self.rating))


@dataclass(frozen=True)
class Split:
    """What is taught, what chooses among what was learned, and what is asked in the end."""

    taught: list[Rated]
    chosen_by: list[Rated]
    asked: list[Rated]


@dataclass(frozen=True)
class Outcome:
    """What one system did with one seed.

    Attributes:
        parameters: How many numbers were learned.
        seconds: Of training.
        accuracy: Share of the tweets asked about that were judged as people did.
        pair: The scores of PAIR.
        in_order: Share of TWINS of which the first has the higher score.
        both: Share of TWINS of which the first is judged glad and the second sad.
    """

    parameters: int
    seconds: float
    accuracy: float
    pair: tuple[float, float]
    in_order: float
    both: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="vaderSentiment-*.tar.gz from PyPI")
    parser.add_argument("--taught", choices=BATCHES, default="tweets")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--epochs", type=int, help="12, or 5 with --taught all")
    parser.add_argument("--json", type=Path, help="a file to write all outcomes to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kinds = read(arguments.source)
    for kind, own in kinds.items():
        print(f"{kind}: {len(own)} sentences, {len(decided(own))} of them decided")
    epochs, size = BATCHES[arguments.taught]
    teach = partial(recurrent, epochs=arguments.epochs or epochs, size=size)
    systems = {
        **({"lexicon and rules": lexicon} if find_spec("vaderSentiment") else {}),
        "bag of words": partial(bag, longest=1),
        "bag of words and of pairs of words": partial(bag, longest=2),
        **{cell: partial(teach, cell=cell) for cell in arguments.cells},
    }
    found: dict[str, list[Outcome]] = {name: [] for name in ("all glad", *systems)}
    for seed in range(arguments.seeds):
        own = split_tweets(kinds, seed, others=arguments.taught == "all")
        found["all glad"].append(outcome(lambda texts: [1.0] * len(texts), 0, 0.0, own.asked))
        for name, learn in systems.items():
            torch.manual_seed(seed)
            start = time.perf_counter()
            score, parameters = learn(own, random.Random(seed))
            seconds = time.perf_counter() - start
            found[name].append(outcome(score, parameters, seconds, own.asked))
    print(table(found))
    if arguments.json:
        content = {name: [asdict(each) for each in own] for name, own in found.items()}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# --- the sentences --------------------------------------------------------------------------------


def read(source: Path) -> dict[str, list[Rated]]:
    """Return the rated sentences of each kind, out of an archive within the archive."""
    kinds = {}
    try:
        with tarfile.open(source) as outer:
            name = next(n for n in outer.getnames() if n.endswith("/hutto_ICWSM_2014.tar.gz"))
            with tarfile.open(fileobj=io.BytesIO(content(outer, name))) as inner:
                for name in inner.getnames():
                    if name.endswith("_GroundTruth.txt"):
                        lines = content(inner, name).decode("utf-8").splitlines()
                        kinds[Path(name).name.removesuffix("_GroundTruth.txt")] = [
                            Rated(text, float(rating))
                            for _, rating, text in (line.split("\t", 2) for line in lines)
                        ]
    except (OSError, tarfile.TarError, StopIteration, ValueError) as error:
        raise DataError(
            f"{source} cannot be read as the source distribution of vaderSentiment: {error!r}. "
            "Get it with: pip download --no-deps --no-binary :all: vaderSentiment"
        ) from error
    if "tweets" not in kinds:
        raise DataError(f"{source} holds no tweets, but {list(kinds)}. Give version 3.3.2.")
    return kinds


def content(archive: tarfile.TarFile, name: str) -> bytes:
    """Return what a file of an archive holds."""
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def decided(sentences: Sequence[Rated]) -> list[Rated]:
    """Return those that people found glad or sad."""
    return [each for each in sentences if abs(each.rating) >= DECIDED]


def split_tweets(kinds: dict[str, list[Rated]], seed: int, *, others: bool) -> Split:
    """Return one of five folds of the tweets to ask about, and the rest to teach."""
    shuffle, fold = divmod(seed, FOLDS)
    tweets = random.Random(shuffle).sample(kinds["tweets"], len(kinds["tweets"]))
    folds = [tweets[place::FOLDS] for place in range(FOLDS)]
    asked = folds.pop(fold)
    rest = [tweet for own in folds for tweet in own]
    tenth = len(tweets) // 10
    taught = rest[tenth:]
    if others:
        taught += [each for kind, own in kinds.items() if kind != "tweets" for each in own]
    return Split(taught, decided(rest[:tenth]), decided(asked))


# --- what judges them -----------------------------------------------------------------------------


def lexicon(_split: Split, _rng: random.Random) -> tuple[Score, int]:
    """Return the tool that the sentences come with; where it knows no word, it says glad."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    tool = SentimentIntensityAnalyzer()
    return lambda texts: [tool.polarity_scores(text)["compound"] or 1e-6 for text in texts], 0


def bag(split: Split, _rng: random.Random, *, longest: int) -> tuple[Score, int]:
    """Return a logistic regression on how often each word is there, and pairs if wished.

    A sentence with a probability of being glad is taught as two, one glad and one sad, that weigh
    as much as that.
    """
    counter = CountVectorizer(
        tokenizer=split_words,
        token_pattern=None,
        lowercase=False,
        ngram_range=(1, longest),
        min_df=2,
    )
    counts = counter.fit_transform([each.text for each in split.taught])
    twice = counts[np.tile(np.arange(counts.shape[0]), 2)]
    kinds = np.repeat([True, False], counts.shape[0])
    glad = np.array([each.glad for each in split.taught])
    weights = np.concatenate([glad, 1 - glad])

    def score(texts: Sequence[str], model: LogisticRegression) -> Sequence[float]:
        return model.decision_function(counter.transform(texts)).tolist()

    models = [
        LogisticRegression(C=C, max_iter=1000).fit(twice, kinds, weights) for C in (0.3, 1, 3)
    ]
    best = max(models, key=lambda model: accuracy(partial(score, model=model), split.chosen_by))
    return partial(score, model=best), best.coef_.size + 1


def recurrent(
    split: Split, rng: random.Random, *, cell: str, epochs: int, size: int
) -> tuple[Score, int]:
    """Return a sequence classifier, of the epoch that judged the tweets set aside best."""
    taught = [(split_words(each.text), each.glad) for each in split.taught]
    vocabulary = Vocabulary.build((words for words, _ in taught), min_count=2)
    examples = [(vocabulary.encode(words)[1:], glad) for words, glad in taught]
    model = SequenceClassifier(len(vocabulary), 2, cell=cell)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    updates = epochs * -(-len(examples) // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda update: min(1, (update + 1) / 20) * (1 - update / updates)
    )

    @torch.inference_mode()
    def score(texts: Sequence[str]) -> Sequence[float]:
        model.eval()
        logits = model(pack([vocabulary.encode(split_words(text))[1:] for text in texts]))
        return (logits[:, 1] - logits[:, 0]).tolist()

    best, weights = -1.0, model.state_dict()
    for _ in range(epochs):
        model.train()
        for batch in batches(examples, size, rng):
            glad = torch.tensor([each for _, each in batch], dtype=torch.float32)
            logits = model(pack([tokens for tokens, _ in batch]))
            loss = torch.nn.functional.cross_entropy(logits, torch.stack([1 - glad, glad], 1))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        if (right := accuracy(score, split.chosen_by)) > best:
            best = right
            weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.load_state_dict(weights)
    return score, sum(weight.numel() for weight in model.parameters())


def batches(examples: list[Example], size: int, rng: random.Random) -> Iterator[list[Example]]:
    """Yield batches at random, each of sentences about as long: a step costs the same for one."""
    drawn = rng.sample(examples, len(examples))
    cut = []
    for start in range(0, len(drawn), 20 * size):
        some = sorted(drawn[start : start + 20 * size], key=lambda example: len(example[0]))
        cut += [some[at : at + size] for at in range(0, len(some), size)]
    yield from rng.sample(cut, len(cut))


# --- how well they judge --------------------------------------------------------------------------


def accuracy(score: Score, sentences: Sequence[Rated]) -> float:
    """Return the share of sentences judged as people did."""
    scores = score([each.text for each in sentences])
    return mean((s > 0) == (each.rating > 0) for s, each in zip(scores, sentences, strict=True))


def outcome(score: Score, parameters: int, seconds: float, asked: Sequence[Rated]) -> Outcome:
    """Return how a system does on tweets and on pairs."""
    glad, sad = score(PAIR)
    twins = score([text for twin in TWINS for text in twin])
    scores = list(zip(twins[::2], twins[1::2], strict=True))
    return Outcome(
        parameters,
        seconds,
        accuracy(score, asked),
        (glad, sad),
        mean(first > second for first, second in scores),
        mean(first > 0 >= second for first, second in scores),
    )


def table(found: dict[str, list[Outcome]]) -> str:
    """Return the results in Markdown."""
    lines = [
        f"| system | parameters | seconds | accuracy | the pair's scores, seed 0 | in order | "
        f"both right | {len(TWINS)} such pairs in order | both right |",
        "|---" * 9 + "|",
    ]
    for name, own in found.items():
        scores = [100 * each.accuracy for each in own]
        spread = f" ± {stdev(scores):.1f}" if len(scores) > 1 else ""
        ordered = sum(each.pair[0] > each.pair[1] for each in own)
        both = sum(each.pair[0] > 0 >= each.pair[1] for each in own)
        lines.append(
            f"| {name} | {mean(each.parameters for each in own):,.0f} | "
            f"{mean(each.seconds for each in own):.1f} | {mean(scores):.1f}{spread} | "
            f"{own[0].pair[0]:+.3f}, {own[0].pair[1]:+.3f} | "
            f"{ordered} of {len(own)} | {both} of {len(own)} | "
            f"{mean(each.in_order for each in own):.0%} | {mean(each.both for each in own):.0%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
