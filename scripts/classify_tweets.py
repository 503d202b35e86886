"""Sentiment of tweets: recurrent sequence classifiers against bags of words.

    pip download --no-deps --no-binary :all: vaderSentiment
    python scripts/classify_tweets.py vaderSentiment-3.3.2.tar.gz
    python scripts/classify_tweets.py vaderSentiment-3.3.2.tar.gz --train-on all --seeds 3

The source distribution of vaderSentiment contains the sentences of Hutto & Gilbert (2014), each
with a mean rating by about 20 people from -4 to 4: 4,200 tweets, and sentences of film reviews,
product reviews and editorials. Seeds 0 to 4 are the five folds of one shuffle of the tweets, seeds
5 to 9 those of another. One fifth of the tweets is the test set, one tenth the validation set, and
the rest the training set. ``--train-on all`` adds all other sentences to the training set.

The training target of a rating r is the probability sigmoid(2r) of the positive class, for all
systems. Tweets with a rating between -0.5 and 0.5 are excluded from the validation and test sets.
The lexicon of vaderSentiment is not trained, but its authors also collected these tweets, so its
accuracy is optimistic. It is skipped if the package is not installed
(``pip install --no-deps vaderSentiment``).

The last columns are for pairs of sentences with the same words in another order. A bag of words
gives both sentences of a pair the same score.
"""

import argparse
import json
import random
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
from rated_tweets import MIN_RATING, RatedText, Split, read_sentences, select_rated, split_tweets
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from captioning.lecture.classifier import SequenceClassifier, pack
from captioning.nn.cells import CELLS
from captioning.text.vocabulary import Vocabulary

PAIR = ("The food was good, not bad at all.", "The food was bad, not good at all.")
PAIRS = [
    (f"The {thing} was {good}, not {bad} at all.", f"The {thing} was {bad}, not {good} at all.")
    for thing, good, bad in product(
        ("food", "movie", "day"),
        ("good", "great", "nice", "excellent", "wonderful"),
        ("bad", "terrible", "awful", "boring", "poor"),
    )
]
TRAINING_SETS = {"tweets": (12, 64), "all": (5, 128)}
"""Epochs and batch size by training set."""
split_words = TweetTokenizer(preserve_case=False, reduce_len=True).tokenize
Example = tuple[list[int], float]
"""Word ids, and the probability of the positive class."""
ScoreFunction = Callable[[Sequence[str]], Sequence[float]]
"""Returns one score per text; above 0 is positive."""


@dataclass(frozen=True)
class Result:
    """Result of one system with one seed.

    Attributes:
        parameters: Number of trained parameters.
        seconds: Training time.
        accuracy: Accuracy on the test set.
        pair: Scores of the two sentences of PAIR.
        in_order: Fraction of PAIRS whose first sentence has the higher score.
        both: Fraction of PAIRS whose first sentence is positive and whose second is negative.
    """

    parameters: int
    seconds: float
    accuracy: float
    pair: tuple[float, float]
    in_order: float
    both: float


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    sentences = read_sentences(arguments.source)
    for kind, texts in sentences.items():
        count = len(select_rated(texts))
        print(f"{kind}: {len(texts)} sentences, {count} with a rating of at least ±{MIN_RATING}")
    epochs, batch_size = TRAINING_SETS[arguments.train_on]
    train = partial(train_recurrent, epochs=arguments.epochs or epochs, batch_size=batch_size)
    systems = {
        "all positive": predict_positive,
        **({"lexicon and rules": load_lexicon} if find_spec("vaderSentiment") else {}),
        "bag of words": partial(train_bag_of_words, max_n=1),
        "bag of words and of word pairs": partial(train_bag_of_words, max_n=2),
        **{cell: partial(train, cell=cell) for cell in arguments.cells},
    }
    results: dict[str, list[Result]] = {name: [] for name in systems}
    for seed in range(arguments.seeds):
        split = split_tweets(sentences, seed, add_others=arguments.train_on == "all")
        for name, train_system in systems.items():
            torch.manual_seed(seed)
            start = time.perf_counter()
            score, parameters = train_system(split, random.Random(seed))
            seconds = time.perf_counter() - start
            results[name].append(evaluate(score, parameters, seconds, split.test))
    print(format_table(results))
    if arguments.json:
        rows = {name: [asdict(run) for run in runs] for name, runs in results.items()}
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("source", type=Path, help="vaderSentiment-*.tar.gz from PyPI.")
    add("--train-on", choices=TRAINING_SETS, default="tweets", help="Training set.")
    add("--seeds", type=int, default=5, help="Number of runs per system (default: 5).")
    add("--cells", nargs="+", choices=CELLS, default=list(CELLS), help="Cells (default: all).")
    add("--epochs", type=int, help="Epochs (default: 12, or 5 with --train-on all).")
    add("--json", type=Path, help="Write all results to this file.")
    return parser.parse_args()


def predict_positive(_split: Split, _rng: random.Random) -> tuple[ScoreFunction, int]:
    """Return a system that finds every text positive."""
    return lambda texts: [1.0] * len(texts), 0


def load_lexicon(_split: Split, _rng: random.Random) -> tuple[ScoreFunction, int]:
    """Return the lexicon and rules of vaderSentiment; texts without known words are positive."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    lexicon = SentimentIntensityAnalyzer()
    return lambda texts: [lexicon.polarity_scores(text)["compound"] or 1e-6 for text in texts], 0


def train_bag_of_words(
    split: Split, _rng: random.Random, *, max_n: int
) -> tuple[ScoreFunction, int]:
    """Train a logistic regression on counts of n-grams.

    Each text occurs twice in the training set: as positive and as negative, weighted by the
    probability of the class. The validation set selects the regularization.
    """
    words = {"tokenizer": split_words, "token_pattern": None, "lowercase": False}
    counter = CountVectorizer(**words, ngram_range=(1, max_n), min_df=2)
    counts = counter.fit_transform([text.text for text in split.train])
    repeated = counts[np.tile(np.arange(counts.shape[0]), 2)]
    classes = np.repeat([True, False], counts.shape[0])
    positive = np.array([text.probability for text in split.train])
    weights = np.concatenate([positive, 1 - positive])

    def score(texts: Sequence[str], model: LogisticRegression) -> Sequence[float]:
        return model.decision_function(counter.transform(texts)).tolist()

    models = [
        LogisticRegression(C=C, max_iter=1000).fit(repeated, classes, weights) for C in (0.3, 1, 3)
    ]
    best = max(
        models,
        key=lambda model: measure_accuracy(partial(score, model=model), split.validation),
    )
    return partial(score, model=best), best.coef_.size + 1


def train_recurrent(
    split: Split, rng: random.Random, *, cell: str, epochs: int, batch_size: int
) -> tuple[ScoreFunction, int]:
    """Train a sequence classifier; return the epoch with the best validation accuracy."""
    texts = [(split_words(text.text), text.probability) for text in split.train]
    vocabulary = Vocabulary.build((words for words, _ in texts), min_count=2)
    examples = [(vocabulary.encode(words)[1:], probability) for words, probability in texts]
    model = SequenceClassifier(len(vocabulary), 2, cell=cell)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    updates = epochs * -(-len(examples) // batch_size)
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
        for batch in draw_batches(examples, batch_size, rng):
            positive = torch.tensor([target for _, target in batch], dtype=torch.float32)
            targets = torch.stack([1 - positive, positive], 1)
            logits = model(pack([tokens for tokens, _ in batch]))
            loss = torch.nn.functional.cross_entropy(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        if (accuracy := measure_accuracy(score, split.validation)) > best:
            best = accuracy
            weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.load_state_dict(weights)
    return score, sum(weight.numel() for weight in model.parameters())


def draw_batches(
    examples: list[Example], batch_size: int, rng: random.Random
) -> Iterator[list[Example]]:
    """Yield random batches of sentences with similar lengths."""
    shuffled = rng.sample(examples, len(examples))
    batches = []
    for start in range(0, len(shuffled), 20 * batch_size):
        block = sorted(
            shuffled[start : start + 20 * batch_size], key=lambda example: len(example[0])
        )
        batches += [block[i : i + batch_size] for i in range(0, len(block), batch_size)]
    yield from rng.sample(batches, len(batches))


def measure_accuracy(score: ScoreFunction, texts: Sequence[RatedText]) -> float:
    """Return the fraction of texts whose score has the sign of the rating."""
    scores = score([text.text for text in texts])
    return mean((s > 0) == (text.rating > 0) for s, text in zip(scores, texts, strict=True))


def evaluate(
    score: ScoreFunction, parameters: int, seconds: float, test: Sequence[RatedText]
) -> Result:
    """Measure a system on the test set and on the pairs."""
    first, second = score(PAIR)
    flat = score([text for pair in PAIRS for text in pair])
    scores = list(zip(flat[::2], flat[1::2], strict=True))
    return Result(
        parameters=parameters,
        seconds=seconds,
        accuracy=measure_accuracy(score, test),
        pair=(first, second),
        in_order=mean(first > second for first, second in scores),
        both=mean(first > 0 >= second for first, second in scores),
    )


def format_table(results: dict[str, list[Result]]) -> str:
    """Return the results of all seeds of each system as a Markdown table."""
    lines = [
        "| system | parameters | seconds | accuracy | scores of the pair, seed 0 | in order | "
        f"both correct | {len(PAIRS)} such pairs: in order | both correct |",
        "|---" * 9 + "|",
    ]
    for name, runs in results.items():
        accuracies = [100 * run.accuracy for run in runs]
        deviation = f" ± {stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
        ordered = sum(run.pair[0] > run.pair[1] for run in runs)
        both = sum(run.pair[0] > 0 >= run.pair[1] for run in runs)
        lines.append(
            f"| {name} | {mean(run.parameters for run in runs):,.0f} | "
            f"{mean(run.seconds for run in runs):.1f} | {mean(accuracies):.1f}{deviation} | "
            f"{runs[0].pair[0]:+.3f}, {runs[0].pair[1]:+.3f} | "
            f"{ordered} of {len(runs)} | {both} of {len(runs)} | "
            f"{mean(run.in_order for run in runs):.0%} | {mean(run.both for run in runs):.0%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
